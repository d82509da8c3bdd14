"""TensorFlow Serving's messages, without TensorFlow.

The classes come from `descriptors.pb` (written by `scripts/write_descriptors.py`)
in a descriptor pool of our own: a client is ready in a fraction of a second,
and importing `tensorflow_serving` in the same process does no harm.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _load_pool() -> descriptor_pool.DescriptorPool:
    data = resources.files("serving").joinpath("descriptors.pb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


_POOL = _load_pool()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


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
PredictionLog = _message("tensorflow.serving.PredictionLog")
ReloadConfigRequest = _message("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse = _message("tensorflow.serving.ReloadConfigResponse")
ModelServerConfig = _message("tensorflow.serving.ModelServerConfig")
BatchingParameters = _message("tensorflow.serving.BatchingParameters")
SSLConfig = _message("tensorflow.serving.SSLConfig")
MonitoringConfig = _message("tensorflow.serving.MonitoringConfig")
HealthCheckRequest = _message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = _message("grpc.health.v1.HealthCheckResponse")

_DATA_TYPES = _POOL.FindEnumTypeByName("tensorflow.DataType")


def data_type_name(number: int) -> str:
    """Returns a data type's name in errors and JSON, such as `DT_FLOAT`."""
    value = _DATA_TYPES.values_by_number.get(number)
    return value.name if value else f"DataType {number}"
