"""Spectrograms and curves inside a page."""

import base64
import io
import re

import numpy as np
from PIL import Image

from tfpipe.run_report.curves import curves
from tfpipe.run_report.pictures import difference, scale, spectrogram
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()


def pixels(svg):
    """Returns the picture of an SVG as `[rows, columns, 3]`, the first row at the top."""
    data = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", svg)[0]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def test_loud_is_bright_and_low_frequencies_are_at_the_bottom():
    mel = np.zeros(SPEC.mel_shape)
    mel[5, 100:] = 1.0
    shown = pixels(spectrogram(mel, SPEC, about="a tone"))
    assert shown.shape[:2] == SPEC.mel_shape
    bright = shown.sum(axis=2) > 500
    assert bright[-1 - 5, 100:].all()
    assert bright.sum() == SPEC.mel_shape[1] - 100


def test_axes_are_in_hz_and_seconds():
    svg = spectrogram(np.zeros(SPEC.mel_shape), SPEC, about="<nothing>")
    marks = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert marks == ["0", "1", "2", "3", "4", "5", "250", "500", "1000", "2000", "4000", "time in s", "frequency in Hz"]
    assert 'aria-label="&lt;nothing&gt;"' in svg
    # Slaney's mel scale is linear below 1000 Hz, so 500 Hz lies between 250 and 1000 Hz at a third of the way.
    height = {hz: float(y) for y, hz in re.findall(r'y="([\d.]+)">(\d+)</text>', svg) if int(hz) >= 250}
    assert abs((height["250"] - height["500"]) / (height["250"] - height["1000"]) - 1 / 3) < 0.02


def test_a_difference_is_red_where_sound_was_added_and_blue_where_it_is_lost():
    mel = np.full(SPEC.mel_shape, 0.5)
    rebuilt = mel.copy()
    rebuilt[:64] += 0.25  # 20 dB
    rebuilt[64:] -= 0.25
    shown = pixels(difference(mel, rebuilt, SPEC))
    low, high = shown[-1, 0], shown[0, 0]
    assert low[0] > low[2] + 50
    assert high[2] > high[0] + 50
    assert 'aria-label="difference of reconstruction and original: 20.0 dB' in difference(mel, rebuilt, SPEC)
    same = pixels(difference(mel, mel, SPEC))
    assert np.ptp(same[0, 0]) < 10


def test_a_scale_names_its_ends():
    assert re.sub(r"<img[^>]*>", "|", scale("magma", "-80 dB", "<0>")) == (
        '<p class="scale"><span>-80 dB</span>|<span>&lt;0&gt;</span></p>'
    )


def test_curves_leave_out_what_is_missing_or_no_number():
    rows = [{"epoch": 1, "a": 3.0}, {"epoch": 2, "a": float("nan"), "b": 1.0}, {"epoch": 3, "a": 1.0, "b": 2.0}]
    svg = curves(rows, {"a": "training", "b": "held out", "c": "none"}, x="epoch", title="Loss")
    [first, second] = re.findall(r'<polyline class="line\d" points="([^"]*)"', svg)
    assert len(first.split()) == len(second.split()) == 2
    assert "training, at last 1" in svg
    assert "none" not in svg
    assert 'aria-label="Loss: training from 3 to 1; held out from 1 to 2"' in svg
    assert curves(rows[:1], {"a": "training"}, x="epoch", title="Loss") == ""
    assert curves([], {"a": "training"}, x="epoch", title="Loss") == ""
    assert "nan" not in curves([{"epoch": n, "a": 2.0} for n in (1, 2)], {"a": "flat"}, x="epoch", title="Loss")
