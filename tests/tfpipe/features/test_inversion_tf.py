"""From log-mel back to audio: phases, level, edges, extremes and rows of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import tensorflow as tf

from tfpipe.audio.reader import read_window
from tfpipe.features import inversion_tf
from tfpipe.features.inversion_tf import invert_log_mel
from tfpipe.features.log_mel import log_mel, magnitude
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec(window_s=1.0)
TIME = np.arange(SPEC.samples) / SPEC.sample_rate
CHORD = sum(0.1 * np.sin(2 * np.pi * hz * TIME) for hz in (220.0, 277.2, 329.6, 440.0))


def invert(audio: np.ndarray, spec: FeatureSpec = SPEC) -> np.ndarray:
    mel, ref_db = log_mel(audio, spec)
    return np.asarray(invert_log_mel(mel[None].astype(np.float32), np.array([ref_db], np.float32), spec))[0]


def level_db(audio: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(audio, dtype=np.float64)))


def covered_stft(audio: np.ndarray) -> np.ndarray:
    """STFT `[frames, bins that mel bands cover]`, with phases at the centre of each frame."""
    filters = inversion_tf._filters(SPEC)
    stft = librosa.stft(audio, n_fft=SPEC.n_fft, hop_length=SPEC.hop, pad_mode="constant").T
    return stft[:, filters.first : filters.first + filters.centre.size] * filters.centre


@pytest.mark.parametrize("slope", [0.0, 300.0, 1000.0], ids=["tone", "chirp", "fast chirp"])
def test_phases_at_a_peak_change_as_the_true_ones_do(slope: float) -> None:
    stft = covered_stft(np.sin(2 * np.pi * (1003.0 + slope / 2 * TIME) * TIME))
    phases = np.asarray(inversion_tf._phases(tf.constant(np.abs(stft)[None], tf.float32), SPEC))[0]
    found = np.exp(1j * phases)
    frames = np.arange(5, SPEC.frames - 5)
    peaks = np.abs(stft[frames]).argmax(axis=1)
    for before, bins in ((frames - 1, peaks), (frames, peaks + 1)):
        true = stft[frames, peaks] * stft[before, bins].conj()
        error = np.angle(found[frames, peaks] * found[before, bins].conj() * true.conj())
        assert np.abs(error).max() < 0.2
        assert np.abs(error).max() < 0.05 or slope


def test_a_chord_fits_its_magnitudes_better_than_with_random_phases() -> None:
    true = magnitude(CHORD, SPEC)
    used = tf.constant(np.abs(covered_stft(CHORD))[None], tf.float32)
    random = tf.random.stateless_uniform(used.shape, seed=[0, 0], maxval=2 * np.pi)
    errors = []
    for phases in (inversion_tf._phases(used, SPEC), random):
        audio = np.asarray(inversion_tf._inverse_stft(used, phases, SPEC))[0]
        inner = np.s_[:, 3:-3]
        errors.append(np.linalg.norm(magnitude(audio, SPEC)[inner] - true[inner]) / np.linalg.norm(true[inner]))
    assert errors[0] < 0.1
    assert errors[1] > 5 * errors[0]


def test_recordings_keep_their_spectrogram_and_level(small_corpus: Path) -> None:
    spec = FeatureSpec()
    for path in sorted(small_corpus.rglob("*.wav"))[::3]:
        original = read_window(path, start_s=4.0, spec=spec)
        made = invert(original, spec)
        assert made.shape == (spec.samples,)
        assert made.dtype == np.float32
        assert abs(level_db(made) - level_db(original)) < 1.5, path.name
        error = np.abs(log_mel(made, spec).mel - log_mel(original, spec).mel).mean() * spec.top_db
        assert error < 2.0, path.name


def test_a_maximum_below_one_does_not_lower_the_level() -> None:
    mel, ref_db = log_mel(CHORD, SPEC)
    lower = np.where(mel > 0.1, mel - 0.1, 0.0)  # 8 dB of magnitude are 16 dB of sound
    mels = np.stack([mel, lower, 0.5 * mel]).astype(np.float32)
    audio = np.asarray(invert_log_mel(mels, np.full(3, ref_db, np.float32), SPEC))
    assert level_db(audio[0]) == pytest.approx(level_db(CHORD), abs=1.0)
    assert level_db(audio[1]) == pytest.approx(level_db(audio[0]), abs=0.1)
    # 0.5 is 80 dB of sound below the maximum, and no more than 20 of them are added.
    assert level_db(audio[2]) < level_db(audio[0]) - 50


@pytest.mark.parametrize(("hop", "n_fft"), [(512, 2048), (600, 1500), (1000, 2000)])
def test_overlapping_frames_are_added_at_distances_of_a_hop(hop: int, n_fft: int) -> None:
    spec = FeatureSpec(window_s=1.0, hop=hop, n_fft=n_fft)
    frames = np.random.default_rng(0).standard_normal((2, spec.frames, n_fft)).astype(np.float32)
    expected = np.zeros((2, (spec.frames - 1) * hop + n_fft))
    for frame in range(spec.frames):
        expected[:, frame * hop : frame * hop + n_fft] += frames[:, frame]
    np.testing.assert_allclose(inversion_tf._overlap_added(tf.constant(frames), spec), expected, atol=1e-5)


@pytest.mark.parametrize("bins", [1, 31, 32, 33, 741])
def test_running_sums_are_those_of_numpy(bins: int) -> None:
    values = np.random.default_rng(0).standard_normal((2, 5, bins)).astype(np.float32)
    sums = inversion_tf._running_sum(tf.constant(values))
    np.testing.assert_allclose(sums, np.cumsum(values.astype(np.float64), axis=2), atol=1e-4)
    ones = inversion_tf._running_sum(tf.ones([1, 2, bins]))
    np.testing.assert_array_equal(ones[0, 1], np.arange(1, bins + 1))


def test_silence_stays_silent() -> None:
    for ref_db in (SPEC.ref_db_floor, 9.0):
        audio = invert_log_mel(tf.zeros([1, *SPEC.mel_shape]), tf.constant([ref_db]), SPEC)
        assert not np.asarray(audio).any()


def test_extreme_values_give_finite_audio() -> None:
    pixel = np.zeros(SPEC.mel_shape, np.float32)
    pixel[5, 7] = 1.0
    noise = np.random.default_rng(0).uniform(-0.5, 1.5, SPEC.mel_shape).astype(np.float32)
    stripes = np.tile(np.arange(SPEC.frames) % 2, (SPEC.n_mels, 1)).astype(np.float32)
    mels = np.stack([np.ones(SPEC.mel_shape, np.float32), pixel, noise, stripes, 1e30 * stripes, 1e-30 + 0 * pixel])
    for ref_db in (-1e9, -100.0, 30.0, 1e9):
        assert np.isfinite(invert_log_mel(mels, np.full(len(mels), ref_db, np.float32), SPEC)).all()


def test_a_row_does_not_depend_on_its_batch() -> None:
    mels = np.random.default_rng(1).uniform(0, 1, (3, *SPEC.mel_shape)).astype(np.float32)
    mels[0], levels = 0.0, np.array([9.0, 3.0, -20.0], np.float32)
    batch = np.asarray(invert_log_mel(mels, levels, SPEC))
    for row in range(3):
        alone = np.asarray(invert_log_mel(mels[row : row + 1], levels[row : row + 1], SPEC))[0]
        np.testing.assert_allclose(alone, batch[row], atol=1e-4 * np.abs(alone).max())
    assert invert_log_mel(mels[:0], levels[:0], SPEC).shape == (0, SPEC.samples)


def test_a_row_with_nan_is_nan_and_leaves_the_others_alone() -> None:
    mels = np.random.default_rng(1).uniform(0, 1, (3, *SPEC.mel_shape)).astype(np.float32)
    levels = np.zeros(3, np.float32)
    alone = np.asarray(invert_log_mel(mels[2:], levels[2:], SPEC))[0]
    mels[0], mels[1, 3, 4] = np.nan, np.nan
    batch = np.asarray(invert_log_mel(mels, levels, SPEC))
    assert np.isnan(batch[:2]).all()
    np.testing.assert_allclose(batch[2], alone, atol=1e-4 * np.abs(alone).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"power": 2.0},
        {"hop": 1024},
        {"hop": 300, "n_fft": 1500},
        {"hop": 600, "n_fft": 1500},
        {"n_fft": 256, "hop": 128, "n_mels": 4, "window_s": 0.02},
        {"n_fft": 2048, "hop": 1024, "window_s": 2048 / 22_050},
        {"n_fft": 4096, "fmin": 0.0, "fmax": 11_025.0, "n_mels": 40},
        {"n_mels": 1, "top_db": 200.0},
    ],
    ids=str,
)
def test_any_spec_keeps_length_and_level_and_has_no_click_at_its_ends(changes: dict[str, Any]) -> None:
    spec = FeatureSpec(**{"window_s": 1.0, **changes})
    noise = 0.1 * np.random.default_rng(0).standard_normal(spec.samples)
    made = invert(noise, spec)
    assert made.shape == (spec.samples,)
    if spec.frames > 10:
        end, whole = spec.samples // 50, level_db(made)
        assert level_db(made[:end]) < whole + 3
        assert level_db(made[-end:]) < whole + 3
    again = log_mel(made, spec)
    assert again.ref_db == pytest.approx(log_mel(noise, spec).ref_db, abs=4.0)
