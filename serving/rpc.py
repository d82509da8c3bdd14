"""The gRPC side of the server: TensorFlow Serving's two services, and gRPC's health check."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any

# The library's own lines about a taken port say less than our error does.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from serving import protos
from serving.api import Api
from serving.monitor import Monitor
from serving.outbox import Outbox
from serving.settings import Tls
from serving.status import Code, StatusError
from serving.turns import Call, Line
from serving.wire import read_predict
from tfpipe.errors import ServingError

_LOG = logging.getLogger(__name__)
_Read = Callable[[bytes], Any]
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
# Threads that say no, and answer questions of status and health, while all others are busy.
SPARE_THREADS = 8
# Messages of more bytes than this are read only while there is room for them: parsed, a hostile one takes
# twenty times its size. They do not wait for it, since that would take the threads that say no.
_LARGE = 1 << 20
# Answers up to this size take no room among the unread ones: gRPC holds more for any call, and health and
# status must be told whatever others do.
_SMALL = 4096


class RpcServer:
    """The gRPC server, bound when made and answering once started.

    Args:
        api: what it answers.
        monitor: counts, times and logs.
        is_serving: tells the health check whether requests are answered.
        host: address to listen on.
        port: 0 picks a free one.
        threads: requests handled at the same time.
        tls: certificates; None is plain text.

    Raises:
        ServingError: the port cannot be bound, or the certificates cannot be used.
    """

    def __init__(
        self,
        api: Api,
        *,
        monitor: Monitor,
        is_serving: Callable[[], bool],
        host: str,
        port: int,
        threads: int,
        tls: Tls | None = None,
    ) -> None:
        self._monitor = monitor
        self._outbox = Outbox(limit=4 * api.limits.message_bytes)
        self._memory = Line(inside=4 * api.limits.message_bytes, waiting=0)
        self._places = Line(inside=max(1, threads - SPARE_THREADS), waiting=0)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="grpc"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", api.limits.message_bytes),
                ("grpc.max_send_message_length", -1),
            ],
        )
        prediction = {
            "Predict": self._counted("Predict", api.predict, read_predict),
            "GetModelMetadata": self._method(api.metadata, protos.GetModelMetadataRequest.FromString),
            "Classify": self._counted("Classify", api.classify, protos.ClassificationRequest.FromString),
            "Regress": self._counted("Regress", api.regress, protos.RegressionRequest.FromString),
            "MultiInference": self._counted(
                "MultiInference", api.multi_inference, protos.MultiInferenceRequest.FromString
            ),
        }
        model = {
            "GetModelStatus": self._method(api.status, protos.GetModelStatusRequest.FromString),
            "HandleReloadConfigRequest": self._method(api.reload, protos.ReloadConfigRequest.FromString),
        }
        health = {"Check": self._method(functools.partial(_check, is_serving), protos.HealthCheckRequest.FromString)}
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(service, methods)
                for service, methods in (
                    ("tensorflow.serving.PredictionService", prediction),
                    ("tensorflow.serving.ModelService", model),
                    ("grpc.health.v1.Health", health),
                )
            )
        )
        self.port = _bind(self._server, host, port, tls)

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()

    def stop(self, grace_s: float) -> Any:
        """Takes no new requests; returns an event that is set when those in flight are answered or time is up."""
        return self._server.stop(grace_s)

    def _counted(self, name: str, answer: Callable[[Any, Call], Any], read: _Read) -> Any:
        """Wraps a method that computes: it takes a place, and is counted and timed."""

        def counted(request: Any, call: Call) -> Any:
            model = _model_name(request)
            with self._monitor.watch(name, entrypoint="GRPC", model=model, call=call), self._places.turn(call):
                return answer(request, call)

        return self._method(counted, read)

    def _method(self, answer: Callable[[Any, Call], Any], read: _Read) -> Any:
        """Wraps a method of `Api` for gRPC."""
        return grpc.unary_unary_rpc_method_handler(functools.partial(self._answer, answer, read))

    def _answer(self, answer: Callable[[Any, Call], Any], read: _Read, data: bytes, context: Any) -> Any:
        call = Call(context.time_remaining())
        if not context.add_callback(call.end):
            call.end()
        try:
            with self._memory.turn(call, len(data)) if len(data) > _LARGE else contextlib.nullcontext():
                message = answer(_parsed(read, data), call)
            result = message if isinstance(message, bytes) else message.SerializeToString()
            if len(result) > _SMALL:
                taken = self._outbox.put(len(result), context.cancel)
                if not context.add_callback(taken):
                    taken()
            return result
        except StatusError as error:
            code, message = error.code, error.message
        except Exception:  # a bug must neither end the server nor show its stack
            _LOG.exception("a gRPC request failed")
            code, message = Code.INTERNAL, "the server failed; its log says why"
        return context.abort(_CODES[int(code)], message)


def _parsed(read: _Read, data: bytes) -> Any:
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


def _bind(server: Any, host: str, port: int, tls: Tls | None) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _credentials(tls))
    except (RuntimeError, ValueError):
        bound = 0
    if not bound:
        secure = ", or the key and certificates of --ssl_config_file do not fit" if tls else ""
        raise ServingError(
            f"{address}: cannot listen there (taken, or not an address of this machine{secure}); choose another --port"
        )
    return int(bound)


def _credentials(tls: Tls) -> Any:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], root_certificates=tls.client_ca, require_client_auth=tls.client_verify
    )
