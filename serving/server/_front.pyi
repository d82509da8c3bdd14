"""The compiled module of `serving/native`: it holds HTTP/2 connections and batches requests.

It needs no TensorFlow. Status codes are gRPC's numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Self, final

from _typeshed import ReadableBuffer

__all__ = ["Batch", "Call", "Front", "Memory", "cut_numbers", "rows_of"]

@final
class Memory:
    """Read-only bytes of a request; `memoryview` and `numpy.frombuffer` read them without a copy."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Call:
    """One request. Its first `answer` or `refuse` counts; if it is dropped without one, the client gets INTERNAL."""

    id: int
    path: str
    encoding: str | None
    """How the message is compressed, such as `gzip`; empty if the client does not say, None if it is not compressed."""
    @property
    def body(self) -> Memory: ...
    @property
    def timeout_s(self) -> float | None:
        """How long the client will still wait, in s, or None if it set no deadline."""

    @property
    def waited_s(self) -> float:
        """Time since the request arrived, in s."""

    @property
    def has_rows(self) -> bool:
        """Tells whether it is a Predict request that can be batched: its rows are known and fewer than a full batch."""

    def has_left(self) -> bool:
        """Tells whether nobody waits for an answer any more: the client has left, or the request was answered."""

    def put_together(self, model: str, signature: str) -> None:
        """Makes requests that differ from this one in their rows alone come as batches from now on.

        All requests for one signature share its limits on waiting rows and on batches, also if their messages differ.
        """

    def answer(self, parts: Sequence[ReadableBuffer], *, compressed: bool = False) -> bool:
        """Answers with the bytes of `parts`, which must not change afterwards.

        `compressed` says that they are compressed with the call's own `encoding`.

        Returns False, and does not answer, if too many bytes of answers wait for clients to read them.
        """

    def refuse(self, code: int, message: str) -> None:
        """Answers with an error."""

@final
class Batch:
    """Requests that differ in their rows alone and are computed together."""

    rows: list[int]
    """Number of rows of each request."""
    @property
    def request(self) -> Memory:
        """The first request; the others differ from it in their rows alone."""

    @property
    def inputs(self) -> list[tuple[str, Memory]]:
        """Alias and content of each input; the content is the rows of all requests, in order."""

    @property
    def waited_s(self) -> list[float]:
        """Time since each request arrived, in s."""

    def computed(self) -> None:
        """Reports that the model has computed this batch, so that the next one of its signature can start."""

    def answer(self, arrays: Sequence[ReadableBuffer], heads: Mapping[int, Sequence[bytes]], rest: bytes) -> bool:
        """Answers each request with its rows; returns False if there is no room, see `Call.answer`.

        Args:
            arrays: each output with the rows of all requests; the bytes must not change afterwards.
            heads: for each number of rows that occurs, the bytes before the rows of each output.
            rest: bytes that every answer holds besides.
        """

    def refuse(self, code: int, message: str) -> None:
        """Answers all requests with an error."""

    def calls(self) -> list[Call]:
        """Takes the requests out of the batch, to be answered one by one."""

    def forget_kind(self) -> None:
        """Makes requests of this kind come one by one again."""

@final
class Front:
    """Listens on a port, which is bound when the object is made.

    Args:
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        message_bytes: largest message of a client. All large messages that are held may have four times as many bytes
            together.
        unread_bytes: bytes of all answers that clients have not read yet.
        patience_s: when others need room, a request that is still being read, an answer that is not read, or an idle
            connection is given up after this time, in s. A connection whose handshake is not done after this time is
            closed in any case, and after 20 s at the latest.
        batch_rows: rows of a full batch; a request with as many rows or more is not batched.
        waiting_rows: rows of one signature that may wait.
        waiting_calls: calls that may wait for `next_call`.
        batches: batches of one signature that are computed at the same time.
        fill_time_s: how long a batch that is not full waits for more rows, in s.
        tls: the server's key, its chain of certificates, and the authorities that sign clients' certificates (None if
            clients need no certificate), each in PEM; None means plain text.
        token: what every call but a check of health must send as `authorization: Bearer TOKEN`; None asks for nothing.

    Raises:
        ValueError: the key or the certificates cannot be used.
        OSError: the port cannot be bound.
    """

    port: int
    def __new__(
        cls,
        host: str,
        port: int,
        *,
        message_bytes: int,
        unread_bytes: int,
        patience_s: float,
        batch_rows: int,
        waiting_rows: int,
        waiting_calls: int,
        batches: int,
        fill_time_s: float,
        tls: tuple[bytes, bytes, bytes | None] | None = None,
        token: str | None = None,
    ) -> Self: ...
    def start(self) -> None:
        """Starts to accept connections, on a thread of its own."""

    def next_call(self) -> Call | None:
        """Waits for a request that is not batched; returns None when the server is closed."""

    def next_batch(self) -> Batch | None:
        """Waits for a batch; returns None when the server is closed."""

    def next_news(self) -> tuple[list[int], list[tuple[str, int, str, int]]] | None:
        """Waits until there is something to report; returns None when the server is closed.

        One thread must call this in a loop, because it also frees the memory of answers that were sent.

        Returns:
            The `Call.id` of calls whose clients have left; and the calls that were refused without Python: model (empty
            if it is not known), status code, reason and number.
        """

    def held(self) -> tuple[int, int, int]:
        """Returns the number of calls in hand, bytes of large requests, and bytes of answers that are not read yet."""

    def drain(self, grace_s: float) -> bool:
        """Refuses new requests and waits for those in hand; tells whether all were answered within `grace_s`."""

    def close(self) -> None:
        """Refuses the requests that wait, ends all connections, and makes `next_call` and the like return None."""

def rows_of(message: bytes) -> tuple[bytes, int, list[tuple[bytes, bytes]]] | None:
    """Reads a serialised PredictRequest as batches need it; returns None if it cannot be batched.

    Returns:
        The key (requests with the same key can be batched), the number of rows, and alias and content of each input.
    """

def cut_numbers(text: bytes, token: str, at_least: int) -> tuple[bytes, list[tuple[list[int], bool, bytes, int]]]:
    """Cuts rectangular arrays of numbers out of JSON, without holding the interpreter.

    Args:
        text: the JSON, which need not be valid.
        token: begins the strings that stand for arrays: `"TOKEN0"` for the first.
        at_least: arrays of fewer numbers stay in the text.

    Returns:
        The text with those strings; and for each array its shape, whether all its numbers are integers, the numbers as
        int64 or float64, and the largest integer without its sign.
    """
