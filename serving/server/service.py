"""The service behind gRPC and REST: predict, classify, regress, metadata, status and reload; and its gRPC methods.

Semantics and texts are TensorFlow Serving's. Every refusal is a `StatusError`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.protocol import protos
from serving.protocol.names import HEALTH_SERVICE, MODEL_SERVICE, PREDICT, PREDICTION_SERVICE, RELOAD
from serving.protocol.sizes import array_bytes, parsed_bytes
from serving.protocol.status import FAILED, Code, StatusError
from serving.protocol.wire import Buffer, Predict, read_predict
from serving.server import reflection
from serving.server.admission import SMALL_REQUEST, AdmissionQueue, Call, RequestMemory
from serving.server.config import Limits
from serving.server.config_files import models_of
from serving.server.metrics import Entrance, Monitor
from serving.server.models import examples
from serving.server.models.catalog import Catalog
from serving.server.models.loaded_model import BatchAnswer, LoadedModel, Query

_LOG = logging.getLogger(__name__)
# The health check answers for these; the empty name means the whole server.
_SERVICES = ("", PREDICTION_SERVICE, MODEL_SERVICE)
# Reads a request as a model needs it, and holds the memory that the request takes until it is answered.
Read = Callable[[LoadedModel, Call], contextlib.AbstractContextManager[Query]]
# Reloads that may wait while another one is being done.
_WAITING_RELOADS = 2


class Api:
    """The service behind gRPC and REST.

    Args:
        catalog: the models being served.
        limits: how large and how many requests may be.
        tensor_content: answer Predict with `tensor_content` instead of typed fields.
        allow_reload: clients may replace the models.
    """

    def __init__(
        self, catalog: Catalog, limits: Limits, *, tensor_content: bool = False, allow_reload: bool = False
    ) -> None:
        self.catalog = catalog
        self.limits = limits
        self._typed = not tensor_content
        self._allow_reload = allow_reload
        # What requests take once they are read, on every way in.
        self.memory = RequestMemory(limits.request_memory)
        # A reload waits for models to load. Only a few may wait, because each occupies a thread.
        self._reloads = AdmissionQueue(capacity=1, max_waiting=_WAITING_RELOADS)

    def predict(self, request: Predict, call: Call, *, read: Read | None = None) -> list[Buffer]:
        """Answers a Predict request, with the bytes of the answer as parts to be sent one after another.

        Args:
            request: names the model and version. Without `read`, it is the whole request.
            call: the request in progress.
            read: reads the rest of a request that is not a PredictRequest, such as JSON.
        """
        with (
            self.use(request.message) as model,
            read(model, call) if read else self._query(request, model, call) as query,
        ):
            return query.answer(call)

    @contextlib.contextmanager
    def _query(self, request: Predict, model: LoadedModel, call: Call) -> Iterator[Query]:
        with self.memory.slot(call, array_bytes(request, largest=self.limits.message_bytes)):
            yield model.query(request, typed=self._typed)

    def predict_batch(
        self, request: Predict, contents: Mapping[str, Any], *, rows: Sequence[int], call: Call
    ) -> BatchAnswer:
        """Answers several Predict requests that differ only in their rows; see `LoadedModel.predict_batch`."""
        with self.use(request.message) as model:
            return model.predict_batch(request, contents, rows=rows, call=call, typed=self._typed)

    def metadata(self, request: Any, call: Call) -> Any:
        """Answers `PredictionService.GetModelMetadata`."""
        if not request.HasField("model_spec"):
            raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        if not request.metadata_field:
            raise StatusError(Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise StatusError(Code.INVALID_ARGUMENT, f"Metadata field {field} is not supported")
        response = protos.GetModelMetadataResponse()
        with self.use(request) as model:
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = model.version
            response.metadata["signature_def"].Pack(self.signature_defs(model))
        return response

    def status(self, request: Any, call: Call) -> Any:
        """Answers `ModelService.GetModelStatus`; as in TensorFlow Serving, a label is ignored."""
        if not request.HasField("model_spec"):
            raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        response = protos.GetModelStatusResponse()
        for known in self.catalog.statuses(spec.name, version):
            entry = response.model_version_status.add(version=known.version)
            entry.state = entry.State.Value(known.state)
            entry.status.error_code = known.error.code if known.error else Code.OK
            entry.status.error_message = known.error.message if known.error else ""
        return response

    def reload(self, request: Any, call: Call) -> Any:
        """Answers `ModelService.HandleReloadConfigRequest`: the listed models replace all that are served."""
        if not self._allow_reload:
            raise StatusError(
                Code.PERMISSION_DENIED,
                "This server does not let clients replace its models; start it with --allow_reload, or change the "
                "file of --model_config_file",
            )
        kind = request.config.WhichOneof("config")
        if kind is not None:  # as in TensorFlow Serving, an empty configuration changes nothing
            with self._reloads.slot(call):
                self.catalog.replace(models_of(request.config))
        response = protos.ReloadConfigResponse()
        response.status.error_code = Code.OK
        return response

    def classify(self, request: Any, call: Call) -> Any:
        """Answers `PredictionService.Classify`."""
        with self.use(request) as model:
            return examples.classify(model, request, call)

    def regress(self, request: Any, call: Call) -> Any:
        """Answers `PredictionService.Regress`."""
        with self.use(request) as model:
            return examples.regress(model, request, call)

    def multi_inference(self, request: Any, call: Call) -> Any:
        """Answers `PredictionService.MultiInference`; as in TensorFlow Serving, the first task chooses the version."""
        if not request.tasks:
            raise StatusError(Code.INVALID_ARGUMENT, "Inference request has no tasks.")
        with self.use(request.tasks[0]) as model:
            return examples.infer(model, request, call)

    @staticmethod
    def signature_defs(model: LoadedModel) -> Any:
        """Returns a model's signatures as a SignatureDefMap."""
        result = protos.SignatureDefMap()
        for name, signature in model.signatures.items():
            result.signature_def[name].CopyFrom(signature.definition)
        return result

    def use(self, request: Any) -> contextlib.AbstractContextManager[LoadedModel]:
        """Returns a block that holds the model and version that a message with a ModelSpec asks for.

        Raises:
            StatusError: there is no such model, version or label, in TensorFlow Serving's words.
        """
        return self.catalog.use(*self._resolve(request))

    def _resolve(self, request: Any) -> tuple[str, int | None]:
        """Returns the model name and version that a request asks for; None means the newest version."""
        if not request.HasField("model_spec"):
            raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        spec = request.model_spec
        if not spec.name:
            raise StatusError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        if spec.version_label:
            return spec.name, self.catalog.label(spec.name, spec.version_label)
        return spec.name, spec.version.value if spec.HasField("version") else None


@dataclass(frozen=True)
class _Method:
    """A method that computes has a name in `counted`, for the metrics."""

    kind: Any  # the class of the request
    answer: Callable[[Any, Call], Any]
    counted: str = ""


class Methods:
    """Answers gRPC calls by their path: those of TensorFlow Serving's two services, health checks and reflection.

    Args:
        api: answers the requests.
        monitor: counts, times and logs them.
        is_serving: tells the health check whether requests are answered.
        computing: requests that compute at the same time; the other open requests wait. 0 lets all of them compute.

    Attributes:
        entrance: admits, counts, times and logs the requests.
    """

    def __init__(self, api: Api, *, monitor: Monitor, is_serving: Callable[[], bool], computing: int = 0) -> None:
        self.entrance = Entrance("GRPC", monitor, open_requests=api.limits.open_requests, computing=computing)
        self._memory = api.memory
        prediction = f"/{PREDICTION_SERVICE}/"
        self._by_path: Mapping[str, _Method] = {
            PREDICT: _Method(protos.PredictRequest, api.predict, "Predict"),
            prediction + "GetModelMetadata": _Method(protos.GetModelMetadataRequest, api.metadata),
            prediction + "Classify": _Method(protos.ClassificationRequest, api.classify, "Classify"),
            prediction + "Regress": _Method(protos.RegressionRequest, api.regress, "Regress"),
            prediction + "MultiInference": _Method(protos.MultiInferenceRequest, api.multi_inference, "MultiInference"),
            f"/{MODEL_SERVICE}/GetModelStatus": _Method(protos.GetModelStatusRequest, api.status),
            RELOAD: _Method(protos.ReloadConfigRequest, api.reload),
            f"/{HEALTH_SERVICE}/Check": _Method(protos.HealthCheckRequest, functools.partial(_check, is_serving)),
            **{path: _Method(reflection.Question, reflection.answer) for path in reflection.PATHS},
        }

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths, such as `/tensorflow.serving.PredictionService/Predict`."""
        return tuple(self._by_path)

    def answer(self, path: str, data: Buffer, call: Call) -> list[Buffer]:
        """Returns the bytes of the answer, as parts to be sent one after another.

        Args:
            path: of the method, such as `/tensorflow.serving.PredictionService/Predict`.
            data: the serialised request.
            call: the request in progress.

        Raises:
            StatusError: the error for the client; UNIMPLEMENTED if no method has this path.
        """
        method = self._by_path.get(path)
        if method is None:
            raise StatusError(Code.UNIMPLEMENTED, "Method not found!")
        try:
            with self._memory.slot(call, parsed_bytes(method.kind, data) if len(data) > SMALL_REQUEST else 0):
                answer = self._counted(method, _parsed(method.kind, data), call)
        except StatusError:
            raise
        except Exception as error:  # a bug must neither end the server nor show its stack trace
            _LOG.exception("a gRPC request failed")
            raise StatusError(Code.INTERNAL, FAILED) from error
        return answer if isinstance(answer, list) else [answer.SerializeToString()]

    def _counted(self, method: _Method, request: Any, call: Call) -> Any:
        """Answers a request; one that computes needs a slot, and is counted and timed."""
        if not method.counted:
            return method.answer(request, call)
        with self.entrance.computes(method.counted, model=_model_name(request), call=call):
            return method.answer(request, call)


def _parsed(kind: Any, data: Buffer) -> Any:
    try:
        return read_predict(data) if kind is protos.PredictRequest else kind.FromString(bytes(data))
    except Exception:  # the base class of DecodeError differs between protobuf versions
        raise StatusError(Code.INTERNAL, "The request is not a message of this method.") from None


def _model_name(request: Any) -> str:
    """Returns the name of the model that a request, or its first task, asks for."""
    holder = request if hasattr(request, "model_spec") else next(iter(request.tasks), None)
    return holder.model_spec.name if holder else ""


def _check(is_serving: Callable[[], bool], request: Any, call: Call) -> Any:
    if request.service not in _SERVICES:
        raise StatusError(Code.NOT_FOUND, f"unknown service {request.service}")
    return protos.HealthCheckResponse(status="SERVING" if is_serving() else "NOT_SERVING")
