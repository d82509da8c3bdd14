"""Draws are judged: copies, labels, how far from recordings. The models are NumPy functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from tfpipe.evaluation.draws import judge_draws
from tfpipe.evaluation.windows import Windows
from tfpipe.features.log_mel import quantise
from tfpipe.spec import FeatureSpec
from tfpipe.training.trained_model import TrainedModel

SPEC = FeatureSpec(n_mels=16, window_s=1.0)
SHAPE = SPEC.mel_shape


@dataclass
class _Model:
    """A model whose z is the log-mel itself, and whose prior draws what `made` returns for a label."""

    made: Any
    prior: object | None = "flow"
    spec: FeatureSpec = SPEC
    labels: tuple[str, ...] = ("low", "high")
    asked: list[tuple[int, int]] = field(default_factory=list)

    def draw(self, seeds: np.ndarray, *, label: int = -1, temperature: float = 1.0) -> np.ndarray:
        self.asked += [(int(seed), label) for seed in seeds]
        return np.stack([self.made(int(seed), label) for seed in seeds]).reshape(len(seeds), -1)

    def encoder(self, mels: np.ndarray, training: bool) -> tuple[np.ndarray, np.ndarray]:
        z = mels.reshape(len(mels), -1)
        return z, np.zeros_like(z)

    def decoder(self, z: np.ndarray, training: bool) -> np.ndarray:
        return z.reshape(-1, *SHAPE, 1)


def _tones(seed: int, label: int) -> np.ndarray:
    """A window with tones that rise suddenly and decay, in the lower or the upper half of the bands."""
    rng = np.random.default_rng(seed)
    mel = np.full(SHAPE, 0.1, np.float32)
    for start in np.sort(rng.choice(SHAPE[1] - 8, 4, replace=False)):
        band = rng.integers(0, 7) + (9 if label == 1 else 0)
        decay = np.exp(-np.arange(SHAPE[1] - start) / rng.uniform(5, 15))
        mel[band, start:] = np.maximum(mel[band, start:], decay)
    return mel / mel.max()


def _windows(first: int, count: int, labels: tuple[int, ...] = (0, 1)) -> Windows:
    label = np.array([labels[i % len(labels)] for i in range(count)])
    return Windows(
        codes=quantise(np.stack([_tones(first + i, label[i]) for i in range(count)])),
        ref_db=np.zeros(count, np.float32),
        label=label,
        key=np.array([f"{i // 10:016d}/{i}/original" for i in range(count)]),
    )


TRAINING, HELD_OUT = _windows(0, 150), _windows(1000, 60)


def _judge(
    model: _Model, *, training: Windows = TRAINING, held_out: Windows = HELD_OUT, **changes: Any
) -> dict[str, Any]:
    settings = {"count": 60, "seed": 5, "is_held_out": True, "quiet": True, **changes}
    return judge_draws(cast(TrainedModel, model), training=training, held_out=held_out, **settings)


def test_draws_like_the_recordings_are_near_and_have_their_label() -> None:
    found = _judge(_Model(lambda seed, label: _tones(5000 + seed, label)))
    assert abs(found["way_to_noise"]) < 0.1
    assert found["label"]["right"] > 0.95
    assert found["label"]["accuracy_held_out"] > 0.95
    assert found["nearest_training"]["copies"] <= found["nearest_training"]["copies_held_out"] + 0.05
    assert found["against"]["draws"]["coverage"] > 0.5
    rows = [found["against"][name]["kernel_distance"] for name in ("draws", "out of order", "noise")]
    assert rows == sorted(rows)


def test_copies_are_seen() -> None:
    mels = TRAINING.mels
    found = _judge(_Model(lambda seed, label: mels[seed % len(mels)]))
    assert found["nearest_training"]["copies"] == 1.0
    assert found["nearest_training"]["draws"] < 0.1 * found["nearest_training"]["held_out"]


def test_draws_of_the_wrong_label_are_seen() -> None:
    assert _judge(_Model(lambda seed, label: _tones(seed + 5000, 1 - label)))["label"]["right"] < 0.05


def test_blurred_draws_are_far() -> None:
    found = _judge(_Model(lambda seed, label: np.full(SHAPE, 0.5) + 0.01 * _tones(seed, label)))
    assert found["against"]["draws"]["kernel_distance"] > found["against"]["out of order"]["kernel_distance"]


def test_each_label_is_drawn_as_often_as_it_was_trained_on() -> None:
    model = _Model(_tones)
    _judge(model, training=_windows(0, 100, labels=(0, 0, 0, 1)), count=40, seed=7)
    assert sorted(seed for seed, _ in model.asked) == list(range(7, 47))
    assert np.bincount([label for _, label in model.asked]).tolist() == [30, 10]


def test_without_a_prior_no_label_is_asked_for() -> None:
    model = _Model(lambda seed, label: _tones(seed, seed % 2), prior=None)
    found = _judge(model)
    assert {label for _, label in model.asked} == {-1}
    assert found["prior"] == "standard normal"
    assert "no label can be asked for" in found["label"]["missing"]
    assert sum(found["label"]["draws_by_label"].values()) == pytest.approx(1.0)


def test_it_is_the_same_every_time() -> None:
    model = _Model(lambda seed, label: _tones(seed, label))
    assert _judge(model) == _judge(model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held_out": _windows(0, 1)}, "needs 2 windows"),
        ({"training": _windows(0, 1)}, "needs 2 windows"),
        ({"held_out": HELD_OUT.take(np.arange(0))}, "needs 2 windows"),
    ],
)
def test_too_few_windows_are_a_sentence(changes: dict[str, Any], words: str) -> None:
    assert words in _judge(_Model(_tones), **changes)["missing"]


def test_silence_is_a_sentence() -> None:
    silent = Windows(
        codes=np.zeros_like(HELD_OUT.codes), ref_db=HELD_OUT.ref_db, label=HELD_OUT.label, key=HELD_OUT.key
    )
    assert _judge(_Model(_tones), held_out=silent)["missing"] == "all windows are silent"


def test_one_label_and_windows_of_training_are_sentences() -> None:
    found = _judge(_Model(_tones), training=_windows(0, 50, labels=(1,)), is_held_out=False)
    assert found["label"] == {"missing": "the training windows have one label"}
    assert found["nearest_training"] == {"missing": "these windows were trained on"}


def test_equal_windows_give_finite_figures() -> None:
    same = TRAINING.take(np.zeros(10, int))
    found = _judge(_Model(_tones), training=same, held_out=same)
    assert np.isfinite([list(row.values()) for row in found["against"].values()]).all()
