"""Compressed messages of gRPC and REST: unpacked within a bound on memory, and packed for clients that ask for it."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterable, Iterator

from serving.protocol.status import Code, StatusError
from serving.protocol.wire import Buffer
from serving.server.admission import AdmissionQueue, Call

# zlib's `wbits` by the name that headers use.
_BITS = {"gzip": 31, "deflate": 15}
# A message that unpacks to more bytes than this is unpacked only while the memory for it is free.
_SMALL_MESSAGE = 64 << 10


def is_known(encoding: str | None) -> bool:
    """Tells whether messages with this encoding can be unpacked and packed."""
    return encoding in _BITS


def packed(parts: Iterable[Buffer], encoding: str) -> bytes:
    """Returns the bytes of `parts`, compressed."""
    packing = zlib.compressobj(1, zlib.DEFLATED, _BITS[encoding])
    return b"".join([*map(packing.compress, parts), packing.flush()])


class Unpacker:
    """Unpacks messages; all large ones together take at most four times the largest one's memory.

    Args:
        max_bytes: largest message, unpacked.
        refusal: code of the error for a message that is too large or cannot be unpacked; None chooses as gRPC does.
    """

    def __init__(self, *, max_bytes: int, refusal: Code | None = None) -> None:
        self._max_bytes, self._refusal = max_bytes, refusal
        self._queue = AdmissionQueue(capacity=4 * max_bytes, max_waiting=0)

    @contextlib.contextmanager
    def message(self, data: Buffer, encoding: str | None, call: Call) -> Iterator[Buffer]:
        """Yields a message, unpacked if it is compressed.

        Args:
            data: the message as it came.
            encoding: how it is compressed; None if it is not.
            call: the request in progress.

        Raises:
            StatusError: it cannot be unpacked or is larger than allowed, or the memory for it is not free.
        """
        if encoding is None:
            yield data
            return
        bits = _BITS.get(encoding)
        if bits is None:
            raise StatusError(
                self._refusal or Code.UNIMPLEMENTED, f"Compression {encoding[:40]!r} is not supported; use gzip"
            )
        unpacking = zlib.decompressobj(bits)
        try:
            first = unpacking.decompress(data, _SMALL_MESSAGE)
            if unpacking.eof:
                yield first
                return
            with self._queue.slot(call, self._max_bytes):
                message = first + unpacking.decompress(unpacking.unconsumed_tail, self._max_bytes)
                if len(message) > self._max_bytes or unpacking.unconsumed_tail:
                    raise StatusError(
                        self._refusal or Code.RESOURCE_EXHAUSTED, f"The message is larger than {self._max_bytes} bytes"
                    )
                if not unpacking.eof:
                    raise StatusError(
                        self._refusal or Code.INTERNAL, f"The message, compressed with {encoding}, is incomplete"
                    )
                yield message
        except zlib.error:
            raise StatusError(self._refusal or Code.INTERNAL, f"The message cannot be unpacked as {encoding}") from None


def takes_gzip(accepted: str) -> bool:
    """Tells whether the header Accept-Encoding allows gzip."""
    weights = {}
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        weights[name.strip()] = weight.replace(" ", "")
    return not re.fullmatch(r"q=0(\.0*)?", weights.get("gzip", weights.get("*", "q=0")))
