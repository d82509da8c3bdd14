"""The compiled module of `serving/native`: HTTP/2 connections, and requests that fit together.

Needs no TensorFlow. Numbers of status codes are gRPC's.
"""

from collections.abc import Mapping, Sequence

from _typeshed import ReadableBuffer

class Memory:
    """Bytes of a request, read-only: `memoryview` and NumPy look at them where they lie."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Call:
    """One request, answered by the first `answer` or `refuse`; when it is dropped without, with INTERNAL."""

    id: int
    path: str
    encoding: str | None
    """How the message is compressed, where it is; empty where the client does not say."""
    @property
    def body(self) -> Memory: ...
    @property
    def timeout_s(self) -> float | None:
        """How long the client will still wait, in s."""

    @property
    def waited_s(self) -> float:
        """Time since it came, in s."""

    @property
    def has_rows(self) -> bool:
        """It is a Predict request whose rows can be told, and are fewer than a batch."""

    def has_left(self) -> bool:
        """Tells whether nobody waits for it any more, its answer included."""

    def put_together(self, model: str, signature: str) -> None:
        """From now on, requests that differ from it in nothing but their rows come in batches.

        All requests for a signature share what may wait and be computed, however they are written.
        """

    def answer(self, parts: Sequence[ReadableBuffer]) -> bool:
        """Answers with the bytes of these parts, which must not change any more; False where there is no room."""

    def refuse(self, code: int, message: str) -> None:
        """Answers with an error."""

class Batch:
    """Requests that differ in nothing but their rows, to be answered together."""

    rows: list[int]
    """Rows of each request."""
    @property
    def request(self) -> Memory:
        """The first of the requests, which stands for all."""

    @property
    def inputs(self) -> list[tuple[str, Memory]]:
        """Alias and content of each input, with the rows of all requests one after another."""

    @property
    def waited_s(self) -> list[float]:
        """Time since each request came, in s."""

    def computed(self) -> None:
        """The model is done; another batch of this signature may be computed."""

    def answer(self, arrays: Sequence[ReadableBuffer], heads: Mapping[int, Sequence[bytes]], rest: bytes) -> bool:
        """Answers each request with its rows; False where there is no room.

        Args:
            arrays: bytes of each output, with the rows of all requests; they must not change any more.
            heads: by number of rows, what stands before the rows of each output.
            rest: what else stands in each answer.
        """

    def refuse(self, code: int, message: str) -> None:
        """Answers all with an error."""

    def calls(self) -> list[Call]:
        """Takes the requests out, to be answered one by one."""

    def forget_kind(self) -> None:
        """Requests of this kind come one by one again."""

class Front:
    """Listens on a port, bound when made.

    Args:
        host: address to listen on.
        port: 0 picks a free one.
        message_bytes: largest message of a client; all large ones in hand may have four times as many in sum.
        unread_bytes: bytes of answers that clients have not taken, in sum.
        patience_s: how long a request that is being read, an answer or an idle connection keeps its room once
            others need it, in s.
        batch_rows: rows of a batch; requests with as many come by themselves.
        waiting_rows: rows of one signature that may wait.
        waiting_calls: calls that may wait to be taken by `next_call`.
        batches: batches of one signature that are computed at the same time.
        fill_time_s: time that a batch waits to be filled, in s.

    Raises:
        OSError: the port cannot be bound.
    """

    port: int
    def __init__(
        self,
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
    ) -> None: ...
    def start(self) -> None: ...
    def next_call(self) -> Call | None:
        """Waits for a request that comes by itself; None once the server is closed."""

    def next_batch(self) -> Batch | None:
        """Waits for requests to compute together; None once the server is closed."""

    def next_news(self) -> tuple[list[int], list[tuple[str, int, str, int]]] | None:
        """Waits for what the interpreter should know; None once the server is closed.

        A thread must wait here: it also gives back the memory of answers that were sent.

        Returns:
            Calls whose clients have left, by `Call.id`; and model (empty where it is not known), status code, reason
            and number of the calls that were refused without coming up here.
        """

    def held(self) -> tuple[int, int, int]:
        """Returns calls in hand, bytes of large requests, and bytes of answers that clients have not taken."""

    def drain(self, grace_s: float) -> bool:
        """Takes no new requests and waits for those in hand; tells whether all were answered in time."""

    def close(self) -> None:
        """Ends connections and waits."""

def load(address: str, path: str, requests: Sequence[bytes], *, times: int, answer_bytes: int) -> int:
    """Sends each request so many times, one after another, all side by side on one connection.

    Returns the number of answers, for benchmarks: it checks their length and nothing else.

    Raises:
        ConnectionError: the connection breaks, or an answer has another length.
    """

def rows_of(message: bytes) -> tuple[bytes, int, list[tuple[bytes, bytes]]] | None:
    """Reads a PredictRequest as far as batches need it; None where it comes by itself.

    Returns:
        The key that requests which fit together share, the number of rows, and alias and content of each input.
    """
