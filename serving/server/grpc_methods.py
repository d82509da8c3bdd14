"""The gRPC methods of the server, whatever carries them: TensorFlow Serving's two services, and gRPC's health check."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.protocol import protos
from serving.protocol.status import FAILED, Code, StatusError
from serving.protocol.wire import Buffer, read_predict
from serving.server.admission import Call, Line
from serving.server.metrics import Monitor
from serving.server.service import Api

_LOG = logging.getLogger(__name__)
PREDICT = "/tensorflow.serving.PredictionService/Predict"
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
# Threads that say no, and answer questions of status and health, while all others are busy.
SPARE_THREADS = 8
# Messages of more bytes than this are read only while there is room for them: parsed, a hostile one takes
# twenty times its size. They do not wait for it, since that would take the threads that say no.
_LARGE = 1 << 20
# Answers up to this size take no room among those that clients have not read yet: any call costs more, and health
# and status must be told whatever others do.
SMALL = 4096


@dataclass(frozen=True)
class _Method:
    """How a message is read and answered; `counted` is the name under which it takes a place and is timed."""

    read: Callable[[Any], Any]
    answer: Callable[[Any, Call], Any]
    counted: str = ""


class Methods:
    """What each path answers.

    Args:
        api: the service.
        monitor: counts, times and logs.
        is_serving: tells the health check whether requests are answered.
        threads: requests handled at the same time, the spare ones included.
    """

    def __init__(self, api: Api, *, monitor: Monitor, is_serving: Callable[[], bool], threads: int) -> None:
        self._monitor = monitor
        self._memory = Line(inside=4 * api.limits.message_bytes, waiting=0)
        self._places = Line(inside=max(1, threads - SPARE_THREADS), waiting=0)
        prediction, model = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
        self._by_path: Mapping[str, _Method] = {
            PREDICT: _Method(read_predict, api.predict, "Predict"),
            prediction + "GetModelMetadata": _Method(_reads(protos.GetModelMetadataRequest), api.metadata),
            prediction + "Classify": _Method(_reads(protos.ClassificationRequest), api.classify, "Classify"),
            prediction + "Regress": _Method(_reads(protos.RegressionRequest), api.regress, "Regress"),
            prediction + "MultiInference": _Method(
                _reads(protos.MultiInferenceRequest), api.multi_inference, "MultiInference"
            ),
            model + "GetModelStatus": _Method(_reads(protos.GetModelStatusRequest), api.status),
            model + "HandleReloadConfigRequest": _Method(_reads(protos.ReloadConfigRequest), api.reload),
            "/grpc.health.v1.Health/Check": _Method(
                _reads(protos.HealthCheckRequest), functools.partial(_check, is_serving)
            ),
        }

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths, such as `/tensorflow.serving.PredictionService/Predict`."""
        return tuple(self._by_path)

    def answer(self, path: str, data: Buffer, call: Call) -> list[Buffer]:
        """Returns the answer's message, in parts that follow each other.

        Args:
            path: of the method.
            data: the request's message.
            call: who waits for it.

        Raises:
            StatusError: what the client is to hear; UNIMPLEMENTED for a path that is none.
        """
        method = self._by_path.get(path)
        if method is None:
            raise StatusError(Code.UNIMPLEMENTED, "Method not found!")
        try:
            with self._memory.turn(call, len(data)) if len(data) > _LARGE else contextlib.nullcontext():
                answer = self._counted(method, _parsed(method.read, data), call)
        except StatusError:
            raise
        except Exception as error:  # a bug must neither end the server nor show its stack
            _LOG.exception("a gRPC request failed")
            raise StatusError(Code.INTERNAL, FAILED) from error
        return answer if isinstance(answer, list) else [answer.SerializeToString()]

    def _counted(self, method: _Method, request: Any, call: Call) -> Any:
        """Answers; a method that computes takes a place, and is counted and timed."""
        if not method.counted:
            return method.answer(request, call)
        watched = self._monitor.watch(method.counted, entrypoint="GRPC", model=_model_name(request), call=call)
        with watched, self._places.turn(call):
            return method.answer(request, call)


def _reads(kind: Any) -> Callable[[Buffer], Any]:
    return lambda data: kind.FromString(bytes(data))


def _parsed(read: Callable[[Any], Any], data: Buffer) -> Any:
    try:
        return read(data)
    except Exception:  # DecodeError has another base on each protobuf generation
        raise StatusError(Code.INTERNAL, "The request is not a message of this method.") from None


def _model_name(request: Any) -> str:
    """Returns the model that a request, or its first task, asks for."""
    holder = request if hasattr(request, "model_spec") else next(iter(request.tasks), None)
    return holder.model_spec.name if holder else ""


def _check(is_serving: Callable[[], bool], request: Any, call: Call) -> Any:
    if request.service not in _SERVICES:
        raise StatusError(Code.NOT_FOUND, f"unknown service {request.service}")
    return protos.HealthCheckResponse(status="SERVING" if is_serving() else "NOT_SERVING")
