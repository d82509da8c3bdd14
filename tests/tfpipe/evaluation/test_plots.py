"""Pictures of spectrograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_tools import TINY_SPEC

from tfpipe.errors import TfpipeError
from tfpipe.evaluation.plots import spectrograms


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


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TfpipeError, match=r"file"):
        spectrograms(tmp_path / "file" / "x.png", [("", np.zeros(TINY_SPEC.mel_shape))], TINY_SPEC)
