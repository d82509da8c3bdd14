"""Finds the notes in audio with basic-pitch (Bittner et al., 2022), to tell how many a reconstruction keeps.

The network's weights are in the package `basic-pitch` as an ONNX file. The package asks for a TensorFlow that is
older than tfpipe's, so it cannot be one of tfpipe's dependencies. It is installed with `--no-deps`, and only its file
is read: `onnxruntime` runs the network, and this module makes notes of the answer by the same rules and thresholds.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

# What the row says if a part is missing.
INSTALL = "pip install 'tfpipe[evaluate]' && pip install --no-deps basic-pitch"

_RATE = 22_050
_HOP = 256
_FRAMES_PER_S = _RATE // _HOP
_SAMPLES = 2 * _RATE - _HOP
_FRAMES = 2 * _FRAMES_PER_S
# The network sees pieces of 2 s, which overlap by this many frames.
_OVERLAP = 30
_LOWEST_MIDI = 21
_ONSET_LEAST, _FRAME_LEAST = 0.5, 0.3
# A note ends when it was below the threshold for this many frames, and is dropped if it is not longer than this.
_GAP, _SHORTEST = 11, round(0.1277 * _RATE / _HOP)
# Offset in s by which the frames of each later piece are early, as the network's authors measured it.
_SHIFT_S = (_HOP / _RATE) * (_FRAMES - _SAMPLES / _HOP) + 0.0018
_ONSET_TOLERANCE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Notes of a piece of audio.

    Attributes:
        times: start and end of each, `[n, 2]`, s.
        midi: pitch of each, `[n]`, MIDI numbers.
    """

    times: NDArray[np.float64]
    midi: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.midi)


class Transcriber:
    """Transcribes audio on one core, so that its answers do not depend on the machine's cores.

    Raises:
        ImportError: a package is missing; `INSTALL` says how to get it.
    """

    def __init__(self) -> None:
        import mir_eval.transcription
        import onnxruntime

        found = importlib.util.find_spec("basic_pitch")
        if found is None or found.origin is None:
            raise ImportError("no package basic-pitch")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = Path(found.origin).parent / "saved_models" / "icassp_2022" / "nmp.onnx"
        if not model.is_file():
            raise ImportError(f"{model}: no such file; install basic-pitch 0.4")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._scores = mir_eval.transcription.precision_recall_f1_overlap

    def notes(self, audio: NDArray[np.floating[Any]], rate: int) -> Notes:
        """Returns the notes of mono audio.

        Args:
            audio: `[samples]`, full scale is 1.0.
            rate: Hz.
        """
        if rate != _RATE:
            import soxr

            audio = soxr.resample(np.asarray(audio, np.float32), rate, _RATE)
        half = _OVERLAP // 2
        padded = np.concatenate([np.zeros(half * _HOP, np.float32), np.asarray(audio, np.float32)])
        pieces = [_piece(padded, start) for start in range(0, len(padded), _SAMPLES - _OVERLAP * _HOP)]
        names = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
        answers = self._session.run(names, {"serving_default_input_2:0": np.stack(pieces)[..., None]})
        count = int(len(audio) * (_FRAMES_PER_S / _RATE))
        frames, onsets = (part[:, half:-half].reshape(-1, part.shape[2])[:count] for part in answers)
        return _events(frames, onsets)

    def f1(self, expected: Notes, found: Notes) -> float:
        """Returns the F1 of notes whose pitch is within half a semitone and whose onset within 0.1 s; ends are free.

        Args:
            expected: at least one note.
            found: any number.
        """
        if not len(found):
            return 0.0
        hz = [440.0 * 2.0 ** ((notes.midi - 69) / 12.0) for notes in (expected, found)]
        scores = self._scores(
            expected.times, hz[0], found.times, hz[1], onset_tolerance=_ONSET_TOLERANCE_S, offset_ratio=None
        )
        return float(scores[2])


def _piece(audio: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    """Returns `_SAMPLES` samples from `start` on, with zeros after the end."""
    piece = audio[start : start + _SAMPLES]
    return np.pad(piece, (0, _SAMPLES - len(piece)))


def _events(frames: NDArray[np.float32], onsets: NDArray[np.float32]) -> Notes:
    """Makes notes of the network's answer, two arrays `[frames, 88]` in [0, 1].

    First each onset starts a note, from the last to the first. Then the strongest frames that are left over become
    notes in both directions ("melodia trick"), so that a note without a clear onset is found too.
    """
    if len(frames) < 3 or not float(frames.max()) > 0.0:
        return Notes(times=np.zeros((0, 2)), midi=np.zeros(0, np.int64))
    onsets = np.maximum(onsets, _rises(frames, float(onsets.max())))
    energy, last = frames.copy(), len(frames) - 1
    found: list[tuple[int, int, int]] = []
    peaks = np.zeros_like(onsets)
    at = scipy.signal.argrelmax(onsets, axis=0)
    peaks[at] = onsets[at]
    for start, pitch in np.argwhere(peaks >= _ONSET_LEAST)[::-1].tolist():
        if start < last and (end := _end(energy[:, pitch], start, last)) - start > _SHORTEST:
            energy[start:end, max(0, pitch - 1) : pitch + 2] = 0.0
            found.append((start, end, pitch))
    while float(energy.max()) > _FRAME_LEAST:
        middle, pitch = (int(index) for index in np.unravel_index(energy.argmax(), energy.shape))
        energy[middle, pitch] = 0.0
        end, start = _follow(energy, middle, pitch, step=1), _follow(energy, middle, pitch, step=-1)
        if end - start > _SHORTEST:
            found.append((start, end, pitch))
    return _timed(found)


def _rises(frames: NDArray[np.float32], largest: float) -> NDArray[np.float32]:
    """Returns how much the frames rise within two frames, scaled so that the maximum is `largest`."""
    padded = np.pad(frames, ((2, 0), (0, 0)))
    rise = np.maximum(np.minimum(frames - padded[1:-1], frames - padded[:-2]), 0.0)
    rise[:2] = 0.0
    top = float(rise.max())
    return rise * (largest / top) if top > 0.0 else rise


def _end(energy: NDArray[np.float32], start: int, last: int) -> int:
    """Returns the frame after the last one of a note that starts at `start`."""
    frame, below = start + 1, 0
    while frame < last and below < _GAP:
        below = below + 1 if energy[frame] < _FRAME_LEAST else 0
        frame += 1
    return frame - below


def _follow(energy: NDArray[np.float32], middle: int, pitch: int, *, step: int) -> int:
    """Takes a note from its middle to one of its ends out of `energy`, and returns the last frame that belongs to it.

    Args:
        energy: `[frames, 88]`; what is taken, with the semitones beside it, becomes 0.
        middle: frame to start from.
        pitch: column.
        step: 1 to search the end, -1 to search the start.
    """
    frame, below = middle + step, 0
    while 0 < frame < len(energy) - 1 and below < _GAP:
        below = below + 1 if energy[frame, pitch] < _FRAME_LEAST else 0
        energy[frame, max(0, pitch - 1) : pitch + 2] = 0.0
        frame += step
    return frame - step * (1 + below)


def _timed(found: list[tuple[int, int, int]]) -> Notes:
    """Turns frames into seconds."""
    rows = np.array(found, np.int64).reshape(-1, 3)
    times = rows[:, :2] * (_HOP / _RATE) - _SHIFT_S * (rows[:, :2] // _FRAMES)
    times[:, 1] = np.maximum(times[:, 1], times[:, 0] + 0.01)
    return Notes(times=times, midi=rows[:, 2] + _LOWEST_MIDI)
