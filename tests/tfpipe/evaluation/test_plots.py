"""Pictures of spectrograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_tools import TINY_SPEC

from tfpipe.errors import TfpipeError
from tfpipe.evaluation import plots
from tfpipe.evaluation.plots import spectrograms
from tfpipe.spec import FeatureSpec


def test_panels_are_laid_out_in_rows_and_places_may_stay_empty(tmp_path: Path) -> None:
    from matplotlib.image import imread

    mel = np.linspace(0.0, 1.0, TINY_SPEC.n_mels * TINY_SPEC.frames).reshape(TINY_SPEC.mel_shape)
    panels = [("first", mel), None, ("third", 1.0 - mel)]
    spectrograms(str(tmp_path / "new" / "wide.png"), panels, TINY_SPEC)
    spectrograms(tmp_path / "high.png", panels, TINY_SPEC, columns=1)
    wide, high = imread(tmp_path / "new" / "wide.png"), imread(tmp_path / "high.png")
    assert wide.shape[1] / wide.shape[0] == pytest.approx((3 * 4.2 + 1.2) / 3.2, rel=0.01)
    assert high.shape[1] / high.shape[0] == pytest.approx((4.2 + 1.2) / (3 * 3.2), rel=0.01)
    assert wide.std() > 0.1


def test_axes_mark_whole_seconds_and_octaves_and_say_what_the_colours_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "write_bytes", lambda *_: None)
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    spec = FeatureSpec()
    mel = np.zeros(spec.mel_shape)
    spectrograms(tmp_path / "x.png", [("a", mel), ("b", mel), ("c", mel)], spec, columns=2)
    first, second, third, _, scale = drawn[0].axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["250", "500", "1000", "2000", "4000", "8000"]
    assert [tick for tick in first.get_xticks() if 0 <= tick <= 5] == [0, 1, 2, 3, 4, 5]
    assert scale.get_ylabel() == "mel magnitude in dB, 0 at the maximum"
    # Nothing is drawn below the second panel, so it has the times of its column.
    assert [axes.get_xlabel() for axes in (first, second, third)] == ["", "time (s)", "time (s)"]


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TfpipeError, match=r"file"):
        spectrograms(tmp_path / "file" / "x.png", [("", np.zeros(TINY_SPEC.mel_shape))], TINY_SPEC)
