"""Sound that a model makes while the client listens: `GET /v1/models/NAME/stream`.

The answer is a WAV file of unknown length in chunks. Its first window is a draw of the model, and each further window
continues the one before, joined as `tfpipe generate --seconds` joins them (`serving.client.long_sound`).

Streams leave the model to other requests: all of them together compute one window at a time, and each makes its sound
only a few seconds before it is heard.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.client.connection import SignatureNotFoundError
from serving.client.draws import Draws
from serving.client.long_sound import MAX_SECONDS, LongSound
from serving.protocol.names import TEMPERATURES
from serving.protocol.status import Code, StatusError
from serving.server.admission import AdmissionQueue, Call
from serving.server.models.catalog import Catalog
from tfpipe.audio.level import EDGE_FADE_S
from tfpipe.audio.wav_stream import wav_stream
from tfpipe.errors import UsageError

# Streams at the same time, each of which holds a thread; more are refused. Time after which to ask again, in s.
MOST_STREAMS, RETRY_AFTER_S = 4, 10
# How far a stream may be ahead of what is heard, in s, and how many of its bytes may wait for the client.
_AHEAD_S, _UNSENT_BYTES = 10.0, 1 << 20
# How often a stream that waits checks whether it must continue or end, in s.
_LOOK_S = 0.05
# If the model's queue is full, a stream that plays tries again after these times, in s.
_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6)
_PARAMETERS = ("label", "seed", "temperature", "seconds")


@dataclass(frozen=True, kw_only=True)
class Client:
    """What a stream must know about its client.

    Attributes:
        has_left: tells whether the client has disconnected.
        unsent: returns how many bytes of the answer wait to be sent.
    """

    has_left: Callable[[], bool]
    unsent: Callable[[], int]


class Streams:
    """The streams of a server.

    Args:
        catalog: the models being served.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._turn = AdmissionQueue(capacity=1, max_waiting=MOST_STREAMS)
        self._lock, self._playing = threading.Lock(), 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends all streams."""
        self._stopped.set()

    def only_model(self) -> str:
        """Returns the name of the model if there is one.

        Raises:
            StatusError: INVALID_ARGUMENT if there are several, or none.
        """
        names = sorted(self._catalog.versions())
        if len(names) != 1:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"Name the model: /v1/models/NAME/stream. Served are: {', '.join(names)[:500] or 'none'}.",
            )
        return names[0]

    def open(self, name: str, version: int, query: str, client: Client) -> Stream:
        """Starts a stream; its first window is ready then.

        Args:
            name: of the model.
            version: of the model. The stream ends if it is unloaded.
            query: of the URL: `label`, `seed`, `temperature` and `seconds`, all optional.
            client: who listens.

        Raises:
            StatusError: a parameter is wrong, the model cannot do this, or there are too many streams.
        """
        self._take_place()
        try:
            call = Call(is_cancelled=lambda: client.has_left() or self._stopped.is_set())
            drawer = _Drawer(self._catalog, name=name, version=version, call=call)
            sound = _sound(drawer, query)
            pieces = wav_stream(
                sound, sound.spec.sample_rate, samples=None if sound.is_endless else sound.samples, fade_s=EDGE_FADE_S
            )
            stream = Stream(
                self._in_turn(pieces, call),
                bytes_per_s=2 * sound.spec.sample_rate,
                client=client,
                stopped=self._stopped,
                on_close=self._leave_place,
            )
            stream.make_first()
        except BaseException:
            self._leave_place()
            raise
        drawer.is_patient = True
        return stream

    def _in_turn(self, pieces: Iterator[bytes], call: Call) -> Iterator[bytes]:
        """Yields the pieces; computes each while no other stream computes."""
        while True:
            with self._turn.slot(call):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _take_place(self) -> None:
        with self._lock:
            if self._playing >= MOST_STREAMS:
                raise StatusError(
                    Code.UNAVAILABLE, f"{MOST_STREAMS} streams are playing, which is the most; try again later"
                )
            self._playing += 1

    def _leave_place(self) -> None:
        with self._lock:
            self._playing -= 1


class Stream:
    """The bytes of one stream, as WSGI wants them; `close` ends it."""

    def __init__(
        self,
        pieces: Iterator[bytes],
        *,
        bytes_per_s: int,
        client: Client,
        stopped: threading.Event,
        on_close: Callable[[], None],
    ) -> None:
        self._pieces, self._bytes_per_s, self._client = pieces, bytes_per_s, client
        self._stopped, self._on_close = stopped, on_close
        self._first: list[bytes] = []
        self._is_closed = False

    def make_first(self) -> None:
        """Makes the header and the first sound, so that whatever is wrong shows before the answer begins."""
        while len(self._first) < 2 and (piece := next(self._pieces, None)) is not None:
            self._first.append(piece)

    def __iter__(self) -> Iterator[bytes]:
        began, made = time.monotonic(), 0
        try:
            while True:
                piece = self._first.pop(0) if self._first else next(self._pieces, None)
                if piece is None:
                    return
                yield piece
                made += len(piece)
                if not self._waited(began + made / self._bytes_per_s - _AHEAD_S):
                    return
        except StatusError:  # the client has left, the model was unloaded, or the server ends or has too much to do
            return

    def _waited(self, until: float) -> bool:
        """Waits until a time and until the client has read enough; returns False if the stream must end."""
        while not self._stopped.is_set() and not self._client.has_left():
            if time.monotonic() >= until and self._client.unsent() <= _UNSENT_BYTES:
                return True
            self._stopped.wait(_LOOK_S)
        return False

    def close(self) -> None:
        """Makes room for another stream."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close()


class _Drawer(Draws):
    """Draws from a model of this server."""

    def __init__(self, catalog: Catalog, *, name: str, version: int, call: Call) -> None:
        super().__init__(name)
        self._catalog, self._version, self._call = catalog, version, call
        self.is_patient = False

    def close(self) -> None:
        """Does nothing: the server holds the model."""

    def _run(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for wait_s in (*_WAITS_S, None):
            try:
                with self._catalog.use(self.target, self._version) as model:
                    found = model.signatures.get(signature)
                    if found is None:
                        raise SignatureNotFoundError(f"{self.target}: the model has no signature {signature!r}")
                    return {alias: np.asarray(array) for alias, array in found.run(inputs, self._call).items()}
            except StatusError as error:
                if error.code != Code.UNAVAILABLE or not self.is_patient or wait_s is None:
                    raise
                time.sleep(wait_s)
        raise StatusError(Code.UNAVAILABLE, "The server has too much to do")


def _sound(drawer: Draws, query: str) -> LongSound:
    """Returns the sound that a query asks for.

    Raises:
        StatusError: INVALID_ARGUMENT; the message names the parameter and the fix.
    """
    given = _parameters(query)
    try:
        drawer.require_prior("/stream")
        return LongSound(
            drawer,
            seconds=_number(given, "seconds", default=math.inf, least=0.001, most=MAX_SECONDS),
            seed=_seed(given),
            label=given.get("label"),
            temperature=_number(given, "temperature", default=1.0, least=TEMPERATURES[0], most=TEMPERATURES[1]),
        )
    except UsageError as error:
        raise StatusError(Code.INVALID_ARGUMENT, str(error)) from error
    except (SignatureNotFoundError, KeyError, TypeError, ValueError) as error:
        raise StatusError(
            Code.INVALID_ARGUMENT, f"{drawer.target}: /stream needs a model of `tfpipe export` with a learned prior"
        ) from error


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise StatusError(Code.INVALID_ARGUMENT, "The query of the URL cannot be read; write ?NAME=VALUE&..") from None
    given = dict(pairs)
    unknown = [name for name in given if name not in _PARAMETERS]
    if unknown or len(given) != len(pairs):
        what = f"{unknown[0][:100]!r} is unknown" if unknown else "a parameter is given twice"
        raise StatusError(Code.INVALID_ARGUMENT, f"{what}; give each of {', '.join(_PARAMETERS)} at most once")
    return given


def _number(given: dict[str, str], name: str, *, default: float, least: float, most: float) -> float:
    if name not in given:
        return default
    try:
        value = float(given[name])
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"{name}={given[name][:100]!r} is not allowed; use a number from {least:g} to {most:g}",
        )
    return value


def _seed(given: dict[str, str]) -> int:
    if "seed" not in given:
        return secrets.randbits(63)
    text = given["seed"]
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and -(2**63) <= int(text) < 2**63):
        raise StatusError(
            Code.INVALID_ARGUMENT, f"seed={text[:100]!r} is not allowed; use a whole number of at most 64 bits"
        )
    return int(text)
