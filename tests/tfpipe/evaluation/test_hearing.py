"""What is heard of reconstructions."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tfpipe.evaluation import hearing
from tfpipe.evaluation.hearing import Heard, spread
from tfpipe.evaluation.windows import Windows


def _windows(labels: list[int], silent: tuple[int, ...] = ()) -> Windows:
    codes = np.ones((len(labels), 2, 3), np.uint8)
    codes[list(silent)] = 0
    return Windows(
        codes=codes,
        ref_db=np.arange(len(labels), dtype=np.float32),
        label=np.array(labels),
        key=np.array([f"t/{n}/original" for n in range(len(labels))]),
    )


def test_windows_to_hear_are_spread_over_labels_and_times() -> None:
    chosen = spread(_windows([0] * 90 + [1] * 10), 8)
    assert np.bincount(chosen.label).tolist() == [4, 4]
    assert chosen.ref_db[0] == 0.0
    assert chosen.ref_db[3] == 89.0


def test_few_windows_of_a_label_leave_room_for_others() -> None:
    assert np.bincount(spread(_windows([0] * 1 + [1] * 50), 8).label).tolist() == [1, 7]


def test_more_labels_than_windows_to_hear() -> None:
    assert len(spread(_windows(list(range(20))), 8)) == 8


def test_silent_windows_are_not_heard() -> None:
    assert len(spread(_windows([0, 0, 1], silent=(0, 2)), 8)) == 1
    assert len(spread(_windows([0, 1], silent=(0, 1)), 8)) == 0


def test_level_is_the_ratio_of_the_rms() -> None:
    audio = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert hearing._level_db(audio, 0.5 * audio) == pytest.approx(-6.02, abs=0.01)
    assert hearing._level_db(np.zeros(10, np.float32), audio[:10]) is None


def test_a_summary_has_labels_or_the_reason_why_not() -> None:
    heard = Heard(values=np.array([1.0, 0.0, 0.5]), labels=np.array([0, 0, 2]))
    assert heard.summary(["a", "b", "c"]) == {"mean": 0.5, "windows": 3, "by_label": {"a": 0.5, "c": 0.5}}
    empty = Heard(values=np.zeros(0), labels=np.zeros(0, int), missing="no sound")
    assert empty.summary(["a"]) == {"missing": "no sound"}


def test_without_the_extra_the_rows_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "pystoi", None)
    assert "pip install --no-deps basic-pitch" in str(hearing._notes(22_050))
    assert "pip install 'tfpipe[evaluate]'" in str(hearing._intelligibility(22_050))


def test_intelligibility_falls_with_noise_and_is_none_of_silence() -> None:
    pytest.importorskip("pystoi")
    judge = hearing._intelligibility(22_050)
    assert callable(judge)
    rng = np.random.default_rng(0)
    time = np.arange(3 * 22_050) / 22_050
    speech = (rng.standard_normal(len(time)) * (1 + np.sin(2 * np.pi * 4 * time))).astype(np.float32)
    noise = rng.standard_normal(len(time)).astype(np.float32)
    found = [judge(speech, speech + share * noise) or 0.0 for share in (0.0, 1.0, 4.0)]
    assert found[0] == pytest.approx(1.0, abs=1e-3)
    assert found[0] > found[1] > found[2]
    assert judge(np.zeros(66_150, np.float32), noise) is None
