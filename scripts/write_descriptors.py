"""Writes serving/protocol/descriptors.pb: the TensorFlow Serving messages that server and clients need, and no more.

Run once, by hand, where tensorflow-serving-api is installed; the result is
committed. Messages that cannot be reached from `_ROOTS` are left out, so that
a client reads 20 kB instead of importing TensorFlow. The services, the health
messages (grpc.health.v1) and three kinds of configuration file are written here,
because they come with other packages, or with none, or cannot be imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, wrappers_pb2

_MODULES = (
    "predict",
    "get_model_metadata",
    "get_model_status",
    "classification",
    "regression",
    "inference",
    "prediction_log",
    "model_management",
)
# The services, which gRPC reflection describes: what the names of a method's request and answer begin with.
_SERVICES = {
    "PredictionService": {
        "Classify": "Classification",
        "Regress": "Regression",
        "Predict": "Predict",
        "MultiInference": "MultiInference",
        "GetModelMetadata": "GetModelMetadata",
    },
    "ModelService": {"GetModelStatus": "GetModelStatus", "HandleReloadConfigRequest": "ReloadConfig"},
}
_ROOTS = (
    "tensorflow.serving.PredictRequest",
    "tensorflow.serving.PredictResponse",
    "tensorflow.serving.GetModelMetadataRequest",
    "tensorflow.serving.GetModelMetadataResponse",
    "tensorflow.serving.SignatureDefMap",
    "tensorflow.serving.GetModelStatusRequest",
    "tensorflow.serving.GetModelStatusResponse",
    "tensorflow.serving.ClassificationRequest",
    "tensorflow.serving.RegressionRequest",
    "tensorflow.serving.MultiInferenceRequest",
    "tensorflow.serving.PredictionLog",
    "tensorflow.serving.ReloadConfigRequest",
    "tensorflow.serving.ReloadConfigResponse",
    "google.protobuf.BoolValue",
    "google.protobuf.Int64Value",
    "google.protobuf.StringValue",
)
# Large messages, used only by fields that the signatures and the warm-up requests of a VAE never set.
_LEFT_OUT = ("tensorflow.serving.SessionRunLog", "tensorflow.StructuredValue", "tensorflow.TypeSpecProto")


def main() -> None:
    """Writes the file next to the serving package."""
    messages: dict[str, Any] = {}
    for name in _MODULES:
        _collect(importlib.import_module(f"tensorflow_serving.apis.{name}_pb2").DESCRIPTOR, messages)
    _collect(wrappers_pb2.DESCRIPTOR, messages)
    kept = _reachable(messages)
    files = [_reduced(file, kept) for file in _files_of(messages, kept)]
    result = descriptor_pb2.FileDescriptorSet(file=[*files, *_services(files), _health(), _configuration()])
    target = Path(__file__).resolve().parent.parent / "serving" / "protocol" / "descriptors.pb"
    target.write_bytes(result.SerializeToString(deterministic=True))
    print(f"{target.name}: {len(kept)} types, {target.stat().st_size} bytes")


def _collect(file: Any, messages: dict[str, Any]) -> None:
    """Adds the top-level types of a file and of all it imports."""
    for dependency in file.dependencies:
        _collect(dependency, messages)
    for kind in (*file.message_types_by_name.values(), *file.enum_types_by_name.values()):
        messages[kind.full_name] = kind


def _reachable(messages: dict[str, Any]) -> set[str]:
    kept: set[str] = set()
    waiting = list(_ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in kept and name not in _LEFT_OUT:
            kept.add(name)
            waiting.extend(_referenced(messages[name]))
    return kept


def _referenced(kind: Any) -> set[str]:
    """Returns the top-level types that a type's fields name."""
    names = set()
    for field in getattr(kind, "fields", ()):
        target = field.message_type or field.enum_type
        if target is not None:
            names.add(_top(target).full_name)
    for nested in getattr(kind, "nested_types", ()):
        names |= _referenced(nested)
    return names


def _top(kind: Any) -> Any:
    while kind.containing_type is not None:
        kind = kind.containing_type
    return kind


def _files_of(messages: dict[str, Any], kept: set[str]) -> list[Any]:
    """Returns the files that hold kept types, dependencies first."""
    ordered: dict[str, Any] = {}

    def visit(file: Any) -> None:
        for dependency in file.dependencies:
            visit(dependency)
        ordered.setdefault(file.name, file)

    for name in sorted(kept):
        visit(messages[name].file)
    with_types = {messages[name].file.name for name in kept}
    return [file for name, file in ordered.items() if name in with_types]


def _reduced(file: Any, kept: set[str]) -> descriptor_pb2.FileDescriptorProto:
    """Copies a file with only the kept types, the fields that point at them, and the imports these need."""
    full, result = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(full)
    result.name, result.package, result.syntax = full.name, full.package, full.syntax
    used: set[str] = set()
    for message in full.message_type:
        if f"{full.package}.{message.name}" in kept:
            _drop_fields(message, kept)
            result.message_type.add().CopyFrom(message)
            descriptor = file.message_types_by_name[message.name]
            used |= {name for name in _referenced(descriptor) if name in kept}
    for enum in full.enum_type:
        if f"{full.package}.{enum.name}" in kept:
            result.enum_type.add().CopyFrom(enum)
    result.dependency.extend(sorted({_home(file, name) for name in used} - {full.name}))
    return result


def _services(files: list[descriptor_pb2.FileDescriptorProto]) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Yields a file for each service; the messages are in `files`.

    The modules of tensorflow_serving that have the services cannot be imported with every protobuf.
    """
    homes = {f".{file.package}.{message.name}": file.name for file in files for message in file.message_type}
    for name, methods in _SERVICES.items():
        path = name.replace("Service", "_service").lower()
        file = descriptor_pb2.FileDescriptorProto(name=f"tensorflow_serving/apis/{path}.proto")
        file.package, file.syntax = "tensorflow.serving", "proto3"
        service = file.service.add(name=name)
        for method, kind in methods.items():
            request, response = (f".tensorflow.serving.{kind}{part}" for part in ("Request", "Response"))
            service.method.add(name=method, input_type=request, output_type=response)
        used = {kind for method in service.method for kind in (method.input_type, method.output_type)}
        file.dependency.extend(sorted({homes[kind] for kind in used}))
        yield file


def _home(file: Any, name: str) -> str:
    """Returns the file, reached from `file`, that defines a type."""
    return file.pool.FindFileContainingSymbol(name).name


def _drop_fields(message: descriptor_pb2.DescriptorProto, kept: set[str]) -> None:
    """Removes fields whose type is not kept, and oneofs that this empties."""
    roots = tuple(f".{name}" for name in kept)
    fields = [
        field
        for field in message.field
        if not field.type_name
        or any(field.type_name == root or field.type_name.startswith(f"{root}.") for root in roots)
    ]
    oneofs = sorted({field.oneof_index for field in fields if field.HasField("oneof_index")})
    for field in fields:
        if field.HasField("oneof_index"):
            field.oneof_index = oneofs.index(field.oneof_index)
    names = [message.oneof_decl[index].name for index in oneofs]
    del message.field[:], message.oneof_decl[:]
    message.field.extend(fields)
    for name in names:
        message.oneof_decl.add(name=name)
    for nested in message.nested_type:
        _drop_fields(nested, kept)


def _health() -> descriptor_pb2.FileDescriptorProto:
    """Returns grpc.health.v1 (https://github.com/grpc/grpc/blob/master/doc/health-checking.md)."""
    file = descriptor_pb2.FileDescriptorProto(name="grpc/health/v1/health.proto", package="grpc.health.v1")
    file.syntax = "proto3"
    _message(file, "HealthCheckRequest", "service: string = 1")
    status = ".grpc.health.v1.HealthCheckResponse.ServingStatus"
    values = _message(file, "HealthCheckResponse", f"status: {status} = 1").enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        values.value.add(name=name, number=number)
    request, response = (f".grpc.health.v1.HealthCheck{kind}" for kind in ("Request", "Response"))
    file.service.add(name="Health").method.add(name="Check", input_type=request, output_type=response)
    return file


def _configuration() -> descriptor_pb2.FileDescriptorProto:
    """Returns the server's configuration files (`session_bundle_config`, `ssl_config`, `monitoring_config`)."""
    file = descriptor_pb2.FileDescriptorProto(name="tensorflow_serving/config/files.proto")
    file.package, file.syntax = "tensorflow.serving", "proto3"
    file.dependency.append("google/protobuf/wrappers.proto")
    whole, text = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
    truth = ".google.protobuf.BoolValue"
    _message(
        file,
        "BatchingParameters",
        f"max_batch_size: {whole} = 1",
        f"batch_timeout_micros: {whole} = 2",
        f"max_enqueued_batches: {whole} = 3",
        f"num_batch_threads: {whole} = 4",
        f"thread_pool_name: {text} = 5",
        "allowed_batch_sizes: repeated int64 = 6",
        "pad_variable_length_inputs: bool = 7",
        f"enable_large_batch_splitting: {truth} = 8",
        f"max_execution_batch_size: {whole} = 9",
    )
    _message(
        file,
        "SSLConfig",
        "server_key: string = 1",
        "server_cert: string = 2",
        "custom_ca: string = 3",
        "client_verify: bool = 4",
    )
    _message(file, "PrometheusConfig", "enable: bool = 1", "path: string = 2")
    _message(file, "MonitoringConfig", "prometheus_config: .tensorflow.serving.PrometheusConfig = 1")
    return file


def _message(file: descriptor_pb2.FileDescriptorProto, name: str, *fields: str) -> descriptor_pb2.DescriptorProto:
    """Adds a message of fields written as `NAME: [repeated] TYPE = NUMBER`; a TYPE with a dot is a message or enum."""
    kinds = descriptor_pb2.FieldDescriptorProto
    message = file.message_type.add(name=name)
    for text in fields:
        field_name, _, rest = text.partition(": ")
        *repeated, kind, _, number = rest.split()
        field = message.field.add(name=field_name, number=int(number))
        field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        if not kind.startswith("."):
            field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
        else:
            field.type_name = kind
            field.type = kinds.TYPE_ENUM if kind.endswith("Status") else kinds.TYPE_MESSAGE
    return message


if __name__ == "__main__":
    main()
