"""TensorFlow Serving's messages, without TensorFlow.

The classes are made from `descriptors.pb` (written by `scripts/write_descriptors.py`)
in a private descriptor pool. Importing them takes a fraction of a second, and
importing `tensorflow_serving` in the same process causes no conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _load_pool() -> tuple[descriptor_pool.DescriptorPool, list[str]]:
    data = resources.files("serving.protocol").joinpath("descriptors.pb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    for file in files:
        pool.Add(file)
    return pool, [file.name for file in files]


def _nested(kinds: Iterable[Any]) -> Iterator[Any]:
    for kind in kinds:
        yield kind
        yield from _nested(kind.nested_types)


POOL, _FILES = _load_pool()
# Protobuf makes a class on first use and keeps only a weak reference to it. While the garbage collector destroys
# a class, another thread can still look it up and gets one without attributes. Keeping all classes avoids that.
_CLASSES = tuple(
    message_factory.GetMessageClass(kind)
    for name in _FILES
    for kind in _nested(POOL.FindFileByName(name).message_types_by_name.values())
)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


TensorProto = _message("tensorflow.TensorProto")
SignatureDef = _message("tensorflow.SignatureDef")
PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _message("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message("tensorflow.serving.GetModelStatusResponse")
ClassificationRequest = _message("tensorflow.serving.ClassificationRequest")
RegressionRequest = _message("tensorflow.serving.RegressionRequest")
MultiInferenceRequest = _message("tensorflow.serving.MultiInferenceRequest")
ClassificationResponse = _message("tensorflow.serving.ClassificationResponse")
RegressionResponse = _message("tensorflow.serving.RegressionResponse")
MultiInferenceResponse = _message("tensorflow.serving.MultiInferenceResponse")
PredictionLog = _message("tensorflow.serving.PredictionLog")
ReloadConfigRequest = _message("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse = _message("tensorflow.serving.ReloadConfigResponse")
ModelServerConfig = _message("tensorflow.serving.ModelServerConfig")
BatchingParameters = _message("tensorflow.serving.BatchingParameters")
SSLConfig = _message("tensorflow.serving.SSLConfig")
MonitoringConfig = _message("tensorflow.serving.MonitoringConfig")
HealthCheckRequest = _message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = _message("grpc.health.v1.HealthCheckResponse")

_DATA_TYPES = POOL.FindEnumTypeByName("tensorflow.DataType")


def data_type_name(number: int) -> str:
    """Returns the name of a data type for errors and JSON, such as `DT_FLOAT`."""
    value = _DATA_TYPES.values_by_number.get(number)
    return value.name if value else f"DataType {number}"
