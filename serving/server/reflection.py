"""gRPC reflection: a client such as grpcurl asks what the server offers, so it needs no .proto files.

The answers are those of the package grpcio-reflection. Its messages of version 1 and of v1alpha are the same bytes, so
both names are answered alike.
"""

from __future__ import annotations

import functools
from typing import Any

from serving.protocol import protos
from serving.protocol.names import HEALTH_SERVICE, MODEL_SERVICE, PREDICTION_SERVICE
from serving.protocol.status import Code, StatusError

# A client sends several messages in one call, and each gets an answer. The compiled server has a copy of these paths; a
# test compares them.
PATHS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


class Question:
    """A message of a client that is read only in `answer`."""

    FromString = bytes


def answer(data: bytes, call: object) -> Any:
    """Answers one message.

    Args:
        data: a serialised ServerReflectionRequest.
        call: the call in progress; not used.

    Raises:
        StatusError: UNIMPLEMENTED without the package grpcio-reflection; INTERNAL if it is no such message.
    """
    try:
        from grpc_reflection.v1alpha import reflection_pb2
    except ImportError:
        raise StatusError(Code.UNIMPLEMENTED, "Reflection needs grpcio-reflection; install it on the server") from None
    try:
        request = reflection_pb2.ServerReflectionRequest.FromString(data)
    except Exception:  # the base class of DecodeError differs between protobuf versions
        raise StatusError(Code.INTERNAL, "The request is not a message of this method.") from None
    return next(_servicer().ServerReflectionInfo(iter([request]), None))


@functools.cache
def _servicer() -> Any:
    from grpc_reflection.v1alpha.reflection import ReflectionServicer

    return ReflectionServicer((PREDICTION_SERVICE, MODEL_SERVICE, HEALTH_SERVICE), pool=protos.POOL)
