"""Notes: from a network's answer, and of real sound where the network is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tfpipe.evaluation import transcription
from tfpipe.evaluation.transcription import Notes, Transcriber, _events


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    try:
        return Transcriber()
    except ImportError as error:
        pytest.skip(f"{error}; {transcription.INSTALL}")


def _answer(*notes: tuple[int, int, int], onsets: bool) -> tuple[np.ndarray, np.ndarray]:
    """A network's answer over 100 frames for notes `(start, end, pitch)`."""
    frames, starts = np.zeros((100, 88), np.float32), np.full((100, 88), 0.01, np.float32)
    for start, end, pitch in notes:
        frames[start:end, pitch] = 0.8
        starts[start, pitch] = 0.9 if onsets else 0.01
    return frames, starts


@pytest.mark.parametrize("onsets", [True, False])
def test_notes_are_found_with_and_without_onsets(onsets: bool) -> None:
    found = _events(*_answer((10, 40, 39), (30, 60, 51), onsets=onsets))
    assert sorted(found.midi) == [60, 72]
    order = np.argsort(found.midi)
    np.testing.assert_allclose(found.times[order, 0], np.array([10, 30]) * 256 / 22_050, atol=0.02)
    np.testing.assert_allclose(found.times[order, 1], np.array([40, 60]) * 256 / 22_050, atol=0.02)


def test_a_short_note_is_no_note() -> None:
    assert len(_events(*_answer((10, 18, 39), onsets=True))) == 0


def test_silence_and_less_than_a_frame_have_no_notes() -> None:
    assert len(_events(np.zeros((50, 88), np.float32), np.zeros((50, 88), np.float32))) == 0
    assert len(_events(np.zeros((0, 88), np.float32), np.zeros((0, 88), np.float32))) == 0


@pytest.mark.parametrize("package", ["onnxruntime", "mir_eval.transcription"])
def test_a_missing_package_is_an_import_error(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError):
        Transcriber()


def _tune(rate: int, midi: list[int]) -> np.ndarray:
    """Half-second notes with four harmonics that decay."""
    time = np.arange(rate // 2) / rate
    tones = [
        sum(np.sin(2 * np.pi * k * 440.0 * 2 ** ((m - 69) / 12) * time) / k for k in range(1, 5)) * np.exp(-4 * time)
        for m in midi
    ]
    return 0.2 * np.concatenate(tones)


@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_a_tune_is_transcribed(transcriber: Transcriber, rate: int) -> None:
    midi = [60, 64, 67, 72, 67, 64]
    found = transcriber.notes(_tune(rate, midi), rate)
    expected = Notes(times=np.array([[i / 2, i / 2 + 0.5] for i in range(6)]), midi=np.array(midi))
    assert transcriber.f1(expected, found) > 0.8
    assert transcriber.f1(expected, transcriber.notes(_tune(rate, [m + 1 for m in midi]), rate)) < 0.2


def test_no_notes_keep_none(transcriber: Transcriber) -> None:
    expected = Notes(times=np.array([[0.0, 1.0]]), midi=np.array([60]))
    assert transcriber.f1(expected, transcriber.notes(np.zeros(22_050, np.float32), 22_050)) == 0.0
