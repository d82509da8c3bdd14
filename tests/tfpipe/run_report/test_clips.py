"""Sounds inside a page."""

import base64
import io

import numpy as np
import pytest
import soundfile

from tfpipe.run_report.clips import clip


def decoded(uri):
    assert uri.startswith("data:audio/mpeg;base64,")
    return soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(("rate", "kept"), [(22_050, 22_050), (16_000, 16_000), (7_000, 8_000), (96_000, 48_000)])
def test_a_sound_keeps_its_pitch_and_length(rate, kept):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    audio, found = decoded(clip(tone, rate))
    assert found == kept
    assert len(audio) / kept == pytest.approx(2.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(audio))
    assert np.argmax(spectrum) * kept / len(audio) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(audio[kept // 2 : -kept // 2] ** 2)) == pytest.approx(0.354, rel=0.05)


def test_small_sounds_are_smaller_and_loud_ones_are_limited():
    noise = np.random.default_rng(0).normal(0, 1.0, 44_100)
    assert len(clip(noise, 22_050, small=True)) < 0.9 * len(clip(noise, 22_050))
    audio, _ = decoded(clip(noise * 10, 22_050))
    assert np.isfinite(audio).all()
    assert np.sqrt(np.mean(audio**2)) < 1.1
