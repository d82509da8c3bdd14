"""Status codes shared by gRPC and REST, and the error that carries one to a client."""

from __future__ import annotations

import enum
import re

# What a client hears when the server has a bug. The stack trace goes to the log only.
FAILED = "the server failed; its log says why"
# Refusals that the compiled gRPC server (`serving/native`) also sends; a test holds the two copies equal.
LATE = "The deadline passed before the request was answered."
LEFT = "The client has left."
QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full"
# Refusal of an answer while too many earlier answers are unread.
UNREAD = "Too many answers wait for clients that do not read them"
# TensorFlow Serving cuts gRPC messages at this length (model_servers/grpc_status_util.cc).
_MAX_MESSAGE = 1024


class Code(enum.IntEnum):
    """gRPC status codes by number."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def http(self) -> int:
        """The HTTP status that TensorFlow Serving sends for this code (model_servers/http_server.cc)."""
        return _HTTP.get(self, 500)


_HTTP = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


class StatusError(Exception):
    """The error that a client gets for its request.

    Attributes:
        code: the status code.
        message: one paragraph without a stack trace, cut at 1024 characters as TensorFlow Serving does.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "...TRUNCATED"


def from_runtime(error: Exception) -> StatusError:
    """Returns an error of TensorFlow's runtime as a `StatusError` with the same code and no stack trace."""
    number = getattr(error, "error_code", None)
    if not isinstance(number, int) or number not in Code.__members__.values():
        return StatusError(Code.INTERNAL, "the model failed; the server's log says why")
    return StatusError(Code(number), _plain(str(getattr(error, "message", error))) or "the model refused the input")


def reason_of(error: Exception) -> str:
    """Returns why loading a model failed, in one line without a stack trace."""
    text = str(getattr(error, "message", error)).strip()
    lines = [_plain(text)] if hasattr(error, "error_code") else text.splitlines()
    return next(filter(None, lines), type(error).__name__)


def _plain(message: str) -> str:
    """Returns a runtime message without the lines that say where the graph was built."""
    message = message.split("\nOriginal stack trace", maxsplit=1)[0]
    noise = re.compile(
        r"\s*(Graph execution error:|Detected at node|File \"|<stack traces|\[\[|\(\d+\) |\d+ (root|derived))"
    )
    lines = [line.strip() for line in message.splitlines() if line.strip() and not noise.match(line)]
    return re.sub(r"\[\[.*?\]\]|\[Op:[^\]]*\]|\{\{.*?\}\}", "", " ".join(lines)).strip()


def refused(message: str) -> StatusError:
    """Returns the error for a request that is wrong."""
    return StatusError(Code.INVALID_ARGUMENT, message)
