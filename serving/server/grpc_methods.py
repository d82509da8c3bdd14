"""The gRPC methods, for both gRPC servers: TensorFlow Serving's two services, and gRPC's health and reflection."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.protocol import protos
from serving.protocol.names import HEALTH_SERVICE, MODEL_SERVICE, PREDICT, PREDICTION_SERVICE, RELOAD
from serving.protocol.sizes import parsed_bytes
from serving.protocol.status import FAILED, Code, StatusError
from serving.protocol.wire import Buffer, read_predict
from serving.server import reflection
from serving.server.admission import SMALL_REQUEST, Call, open_slots
from serving.server.metrics import Monitor
from serving.server.service import Api

_LOG = logging.getLogger(__name__)
# The health check answers for these; the empty name means the whole server.
_SERVICES = ("", PREDICTION_SERVICE, MODEL_SERVICE)


@dataclass(frozen=True)
class _Method:
    """A method that computes has a name in `counted`, for the metrics."""

    kind: Any  # the class of the request
    answer: Callable[[Any, Call], Any]
    counted: str = ""


class Methods:
    """The methods by path.

    Args:
        api: answers the requests.
        monitor: counts, times and logs them.
        is_serving: tells the health check whether requests are answered.
        computing: requests that compute at the same time; the other open requests wait. 0 lets all of them compute.
    """

    def __init__(self, api: Api, *, monitor: Monitor, is_serving: Callable[[], bool], computing: int = 0) -> None:
        self._monitor = monitor
        self._memory = api.memory
        self._slots = open_slots(api.limits.open_requests, computing=computing)
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
        watched = self._monitor.watch(method.counted, entrypoint="GRPC", model=_model_name(request), call=call)
        with watched, self._slots.slot(call):
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
