"""TensorBoard files: the same windows each time, and no influence on the training."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from training_tools import arrays, same, train_config

from tfpipe.training import tensorboard
from tfpipe.training.loop import train
from tfpipe.training.run_folder import Run


def events(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Returns step and value of each event, by tag."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for file in sorted((run / "tensorboard").glob("events.*")):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    return found


def test_short_run_draws_at_its_end_alone(trained: Run) -> None:
    assert [step for step, _ in events(trained.path)["pictures/samples from the prior"]] == [3]


@pytest.mark.slow
def test_drawing_shows_the_same_windows_each_time_and_changes_no_weight(
    small: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard.Summaries, "due", property(lambda self: self._spent == 0.0))
    # Some programs train in another thread than the main one; then no signal handler can be set.
    often = asyncio.run(asyncio.to_thread(train, train_config(small, tmp_path / "often"), quiet=True))
    assert same(arrays(trained.path), arrays(often.path))
    found = events(often.path)
    assert [step for step, _ in found["val_mse"]] == [1, 2, 3]
    pictures = found["pictures/original | reconstruction"]
    assert [step for step, _ in pictures] == [1, 3]
    decoded = [[tf.io.decode_png(png).numpy()[..., 0] for png in value[2:]] for _, value in (pictures[0], pictures[-1])]
    for first, last in zip(*decoded, strict=True):
        assert first.shape == (16, 16 + 4 + 16)
        assert np.array_equal(first[:, :16], last[:, :16])
        assert not np.array_equal(first[:, 20:], last[:, 20:])
    (original,) = found["sounds/original"]
    assert len(found["sounds/reconstruction"]) == len(found["sounds/samples from the prior"]) == 2
    audio, rate = tf.audio.decode_wav(original[1].ravel()[0])
    assert (rate, audio.shape[0]) == (22_050, often.spec.samples)
    assert np.abs(audio).max() > 0.01
    assert found["latent/z_mean"][-1][1][:, 2].sum() == 12 * 4
    assert found["latent/KL per dimension"][-1][1][:, 2].sum() == 4
