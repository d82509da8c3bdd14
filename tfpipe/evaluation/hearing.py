"""Judges reconstructions as audio: level, notes kept and intelligibility (needs TensorFlow).

Both the original's log-mel and its reconstruction are turned into audio in the same way, so what the inversion itself
loses counts on neither side. Notes need the extra `evaluate` and basic-pitch, intelligibility the extra alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.evaluation import transcription
from tfpipe.evaluation.reconstruction import reconstruct
from tfpipe.evaluation.windows import Windows
from tfpipe.process.progress import Progress
from tfpipe.training.trained_model import TrainedModel

Audio = NDArray[np.float32]
# Returns what a listener would say of an original and its reconstruction, or None if it cannot tell.
Judge = Callable[[Audio, Audio], float | None]

# Windows that are listened to: each costs a second or less of one core.
MOST_WINDOWS = 16
# Windows that are inverted at a time: inversion takes about 10 MB a window.
_BATCH = 8
# A window with less power than this is silent.
_LEAST_POWER = 1e-10
# STOI needs 30 frames of 12.8 ms that are not silent; it returns this if it has fewer.
_STOI_FAILED = 1e-5


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one judge says.

    Attributes:
        values: of each window it could judge, `[n]`.
        labels: indices of these windows' labels, `[n]`.
        missing: why there are no values; empty if there are some.
    """

    values: NDArray[np.float64]
    labels: NDArray[np.int64]
    missing: str = ""

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns mean, windows and means by label, or the reason why they are missing."""
        if not len(self.values):
            return {"missing": self.missing}
        by_label = {names[label]: float(self.values[self.labels == label].mean()) for label in np.unique(self.labels)}
        return {"mean": float(self.values.mean()), "windows": len(self.values), "by_label": by_label}


def spread(windows: Windows, most: int) -> Windows:
    """Returns at most `most` windows that are not silent: equally many of each label, spread over tracks and times."""
    heard = np.flatnonzero(windows.codes.any(axis=(1, 2)))
    labels = np.unique(windows.label[heard])
    chosen: list[int] = []
    for place, label in enumerate(labels):
        rows = heard[windows.label[heard] == label]
        share = max(1, (most - len(chosen)) // (len(labels) - place))
        picked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), share)).round().astype(int))
        chosen += rows[picked].tolist()
    return windows.take(np.sort(np.array(chosen[:most], np.int64)))


def listen(model: TrainedModel, windows: Windows, *, quiet: bool) -> dict[str, Any]:
    """Returns what is heard of reconstructions: `windows`, `level_db`, `notes_kept` and `intelligibility`.

    Args:
        model: the model.
        windows: the windows to judge; all of them are inverted.
        quiet: show no progress.
    """
    rate = model.spec.sample_rate
    judges = {"level_db": _level_db, "notes_kept": _notes(rate), "intelligibility": _intelligibility(rate)}
    values: dict[str, list[tuple[int, float]]] = {name: [] for name in judges}
    with Progress("listen", total=len(windows), unit="window", quiet=quiet) as bar:
        for label, original, rebuilt in _pairs(model, windows):
            for name, judge in judges.items():
                value = judge(original, rebuilt) if not isinstance(judge, str) else None
                if value is not None:
                    values[name].append((label, value))
            bar.update()
    heard = {}
    for name, judge in judges.items():
        missing = judge if isinstance(judge, str) else _NOTHING[name] if len(windows) else "all windows are silent"
        labels, found = zip(*values[name], strict=True) if values[name] else ((), ())
        row = Heard(values=np.array(found, float), labels=np.array(labels, np.int64), missing=missing)
        heard[name] = row.summary(model.labels)
    level = np.abs([value for _, value in values["level_db"]])
    if len(level):
        heard["level_db"] = {**heard["level_db"], "mean_size": float(level.mean()), "largest": float(level.max())}
    return {"listened": len(windows), **heard}


# Why no window gave a value, if the judge itself was there.
_NOTHING = {
    "level_db": "all windows are silent",
    "notes_kept": "no notes found in the originals",
    "intelligibility": "too little sound to judge",
}


def _pairs(model: TrainedModel, windows: Windows) -> Iterator[tuple[int, Audio, Audio]]:
    """Yields the label, and the audio of the original and of the reconstruction, of each window."""
    for start in range(0, len(windows), _BATCH):
        part = windows.take(np.arange(start, min(start + _BATCH, len(windows))))
        originals = model.sound(part.mels, part.ref_db)
        rebuilt = model.sound(reconstruct(model, part.mels), part.ref_db)
        yield from zip(part.label.tolist(), originals, rebuilt, strict=True)


def _level_db(original: Audio, rebuilt: Audio) -> float | None:
    """Returns how much louder the reconstruction is, by the rms of the audio, in dB."""
    if _power(original) < _LEAST_POWER:
        return None
    return float(10.0 * np.log10(max(_power(rebuilt), _LEAST_POWER) / _power(original)))


def _power(audio: Audio) -> float:
    """Returns the mean square of audio."""
    return float(np.square(audio, dtype=np.float64).mean())


def _notes(rate: int) -> Judge | str:
    """Returns the judge of notes: the F1 of those found in the reconstruction against those found in the original."""
    try:
        transcriber = transcription.Transcriber()
    except ImportError:
        return f"not measured: {transcription.INSTALL}"

    def judge(original: Audio, rebuilt: Audio) -> float | None:
        expected = transcriber.notes(original, rate)
        return transcriber.f1(expected, transcriber.notes(rebuilt, rate)) if len(expected) else None

    return judge


def _intelligibility(rate: int) -> Judge | str:
    """Returns the judge of speech: STOI (Taal et al., 2011), about 0 to 1."""
    try:
        from pystoi import stoi
    except ImportError:
        return "not measured: pip install 'tfpipe[evaluate]'"

    def judge(original: Audio, rebuilt: Audio) -> float | None:
        if _power(original) < _LEAST_POWER:
            return None
        with warnings.catch_warnings(action="ignore"):  # it warns about windows that are mostly silent
            value = float(stoi(original, rebuilt, rate))
        return None if abs(value - _STOI_FAILED) < 1e-9 or not np.isfinite(value) else value

    return judge
