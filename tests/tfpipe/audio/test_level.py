"""Peaks above full scale, and fades at both ends."""

import numpy as np
import pytest

from tfpipe.audio.level import fade_edges, limit_peaks, limiter_reach

RATE = 22_050
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


def test_a_peak_is_limited_and_the_rest_keeps_its_level():
    loud = TONE.copy()
    loud[10_000:10_020] *= 5
    limited = limit_peaks(loud, RATE)
    assert 0.99 < np.abs(limited).max() <= 1.0
    far = np.abs(np.arange(RATE) - 10_010) > 10 + limiter_reach(RATE)
    np.testing.assert_allclose(limited[far], TONE[far], atol=1e-12)
    # The volume moves smoothly, so the wave has no new steps.
    inside = np.s_[9_700:9_990]
    gain = limited[inside][np.abs(TONE[inside]) > 0.1] / TONE[inside][np.abs(TONE[inside]) > 0.1]
    assert np.abs(np.diff(gain)).max() < 0.05


def test_audio_within_full_scale_is_not_touched():
    assert limit_peaks(TONE, RATE) is TONE
    assert len(limit_peaks(TONE[:0], RATE)) == 0


@pytest.mark.parametrize("level", [1.5, 30.0])
def test_no_sample_exceeds_full_scale(level):
    noise = level * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    noise[[0, -1]] = 100.0
    limited = limit_peaks(noise, RATE)
    assert np.abs(limited).max() <= 1.0
    assert limited.dtype == np.float32


def test_fades_of_pieces_are_those_of_the_whole():
    whole = fade_edges(TONE, start=0, total=RATE, fade=220)
    joined = [
        fade_edges(TONE[a:b], start=a, total=RATE, fade=220) for a, b in ((0, 100), (100, 21_900), (21_900, RATE))
    ]
    np.testing.assert_allclose(np.concatenate(joined), whole)
    np.testing.assert_array_equal(whole[220:-220], TONE[220:-220])
    assert max(abs(whole[0]), abs(whole[-1])) < 1e-4
    assert np.abs(whole[:110]).max() < 0.26


def test_a_fade_takes_at_most_half_of_a_short_sound():
    assert fade_edges(np.ones(4), start=0, total=4, fade=220) == pytest.approx([0.146, 0.854, 0.854, 0.146], abs=1e-3)
    assert fade_edges(np.ones(1), start=0, total=1, fade=220).tolist() == [1.0]
