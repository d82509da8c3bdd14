"""Cutting recordings into windows, joining windows, and interpolating between latents."""

import numpy as np
import pytest
import soundfile

from serving.client import windows
from tfpipe.errors import UsageError


def test_windows_cover_a_file_of_another_rate_and_stitch_back(spec, tmp_path):
    time_s = np.arange(int(44_100 * 12.3)) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], axis=1), 44_100)
    for overlap_s in (0.0, 0.5, 2.5):
        cut = list(windows.windows_of_file(tmp_path / "tone.wav", spec, overlap_s=overlap_s))
        assert cut[1].start_s == pytest.approx(spec.window_s - overlap_s)
        # The last window ends with the recording, so it is full of sound.
        assert cut[-1].start_s == pytest.approx(12.3 - spec.window_s, abs=1e-4)
        assert np.abs(cut[-1].audio[-100:]).max() > 0.3
        placed = [(round(window.start_s * spec.sample_rate), window.audio) for window in cut]
        overlap = windows.overlap_samples(spec, overlap_s)
        whole = np.concatenate(list(windows.stitch(placed, overlap=overlap)))
        assert len(whole) == pytest.approx(12.3 * spec.sample_rate, abs=1)
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(whole)) / spec.sample_rate)
        faded = np.zeros(len(whole), bool)
        end = spec.samples
        for start, audio in placed[1:]:
            faded[end - overlap : end] = True
            end = start + len(audio)
        faded[-spec.sample_rate // 10 :] = faded[: spec.sample_rate // 10] = True  # resampling rings at the ends
        np.testing.assert_allclose(whole[~faded], expected[~faded], atol=2e-3)
        assert np.abs(whole).max() < 0.5 * np.sqrt(2) + 0.01
    soundfile.write(tmp_path / "short.wav", tone[:441], 44_100)
    assert len(list(windows.windows_of_file(tmp_path / "short.wav", spec))) == 1
    with pytest.raises(UsageError, match="overlap"):
        list(windows.windows_of_file(tmp_path / "tone.wav", spec, overlap_s=3.0))


def test_cross_fade_keeps_the_power_of_unrelated_windows():
    noise = np.random.default_rng(0).standard_normal((2, 40_000))
    whole = np.concatenate(list(windows.stitch([(0, noise[0]), (20_000, noise[1])], overlap=20_000)))
    assert len(whole) == 60_000
    assert np.std(whole[20_000:40_000]) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(whole[:20_000], noise[0, :20_000], rtol=1e-6)
    # If windows share more than the fade, the earlier one is used for the rest.
    whole = np.concatenate(list(windows.stitch([(0, noise[0]), (5_000, noise[1])], overlap=1_000)))
    assert len(whole) == 45_000
    np.testing.assert_allclose(whole[:39_000], noise[0, :39_000], rtol=1e-6)
    np.testing.assert_allclose(whole[40_000:], noise[1, 35_000:], rtol=1e-6)


def test_interpolation_is_spherical():
    first, last = np.array([2.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    walk = windows.interpolate(first, last, steps=5)
    np.testing.assert_allclose(walk[[0, -1]], [first, last], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(walk, axis=1), [2, 1.75, 1.5, 1.25, 1], atol=1e-6)
    np.testing.assert_allclose(np.degrees(np.arctan2(walk[:, 1], walk[:, 0])), [0, 22.5, 45, 67.5, 90], atol=1e-4)
    np.testing.assert_allclose(windows.interpolate(first, first, steps=3), [first] * 3)
    np.testing.assert_allclose(windows.interpolate(first, 0.0 * last, steps=3)[1], first / 2)
    with pytest.raises(UsageError, match="at least 2 steps"):
        windows.interpolate(first, last, steps=1)
