"""Log-mel in three places: NumPy written out here, librosa in the job, TensorFlow ops in the graph."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import scipy.signal
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from librosa.filters import mel as librosa_mel

from tfpipe.audio.reader import read_window
from tfpipe.errors import TfpipeError
from tfpipe.features import log_mel, log_mel_tf
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()
TIME = np.arange(SPEC.samples) / SPEC.sample_rate
RNG = np.random.default_rng(0)
SIGNALS = {
    "tone 440 Hz": np.sin(2 * np.pi * 440 * TIME),
    "quiet tone 3 kHz": 0.002 * np.sin(2 * np.pi * 3000 * TIME),
    "DC": np.full_like(TIME, 0.5),
    "noise": 0.1 * RNG.standard_normal(TIME.size),
    "clipping": np.clip(3 * np.sin(2 * np.pi * 97 * TIME), -1, 1),
    "click": np.eye(1, TIME.size, 5000)[0],
    "chirp": np.sin(2 * np.pi * (50 + 1500 * TIME) * TIME),
}
# What both lanes computed when the feature version was set.
NOISE_CODES = "4c0a0cee66f9cff1"
CLIPS_CODES = "0a568f2b164f491c"
GRAPH = tf.function(lambda audio: log_mel_tf.log_mel(audio, SPEC))


def reference(audio: np.ndarray, spec: FeatureSpec = SPEC) -> np.ndarray:
    """The definition, written out with NumPy and the published formulas alone."""
    padded = np.pad(audio.astype(np.float32).astype(np.float64), spec.n_fft // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.n_fft) / spec.n_fft)
    starts = range(0, len(audio) + 1, spec.hop)
    frames = np.stack([padded[start : start + spec.n_fft] * window for start in starts])
    spectrum = np.abs(np.fft.rfft(frames)) ** spec.power
    mel = slaney_filters(spec) @ spectrum.T
    decibel = 10 * np.log10(np.maximum(mel, 1e-10)) - 10 * np.log10(max(1e-10, mel.max()))
    return np.clip(decibel / spec.top_db + 1.0, 0.0, 1.0)


def slaney_filters(spec: FeatureSpec) -> np.ndarray:
    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    mels = np.linspace(to_mel(spec.fmin), to_mel(spec.fmax), spec.n_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    bins = np.arange(spec.bins) * spec.sample_rate / spec.n_fft
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def notebook(audio: np.ndarray) -> np.ndarray:
    """librosa called as the notebook's In [8] calls it, in decibel."""
    mel = librosa.feature.melspectrogram(
        y=audio, sr=22_050, n_mels=128, fmax=8000, hop_length=512, n_fft=2048, fmin=30, power=1.0
    )
    return librosa.power_to_db(mel, ref=np.max)


def clips(folder: Path) -> list[np.ndarray]:
    return [read_window(path, start_s=4.0, spec=SPEC) for path in sorted(folder.rglob("*.wav"))]


@pytest.mark.parametrize("name", SIGNALS)
def test_three_places_agree_on_signals(name: str) -> None:
    audio = SIGNALS[name]
    job = log_mel.log_mel(audio, SPEC)
    graph, ref_db = GRAPH(audio[None].astype(np.float32))
    assert job.mel.shape == SPEC.mel_shape == (128, 216)
    np.testing.assert_allclose(job.mel, reference(audio), atol=1e-6)
    np.testing.assert_allclose(graph[0], job.mel, atol=1e-6)
    assert float(ref_db[0]) == pytest.approx(job.ref_db, abs=1e-3)


def test_three_places_agree_on_every_clip(small_corpus: Path) -> None:
    windows = clips(small_corpus)
    graph, ref_db = GRAPH(np.stack(windows).astype(np.float32))
    for window, mel, level in zip(windows, np.asarray(graph), np.asarray(ref_db), strict=True):
        job = log_mel.log_mel(window, SPEC)
        np.testing.assert_allclose(job.mel, reference(window), atol=1e-9)
        np.testing.assert_allclose(mel, job.mel, atol=1e-6)
        # The graph's output is float32, so a value on the edge between two codes may fall to either side.
        steps = np.abs(log_mel.quantise(mel).astype(int) - log_mel.quantise(job.mel).astype(int))
        assert steps.max() <= 1
        assert steps.mean() < 1e-4
        assert level == pytest.approx(job.ref_db, abs=1e-3)


def codes_digest(windows: list[np.ndarray]) -> str:
    codes = [log_mel.quantise(log_mel.log_mel(window, SPEC).mel).tobytes() for window in windows]
    return hashlib.sha256(b"".join(codes)).hexdigest()[:16]


def test_codes_are_the_same_on_every_lane(small_corpus: Path) -> None:
    # Whole numbers over a power of two: the same audio whatever the versions of the tools.
    noise = np.random.default_rng(5).integers(-20_000, 20_000, SPEC.samples) / 32_768
    assert codes_digest([noise]) == NOISE_CODES
    if small_corpus.name == "corpus_small":
        assert codes_digest(clips(small_corpus)) == CLIPS_CODES


def test_features_are_the_notebooks_on_real_audio(small_corpus: Path) -> None:
    for window in clips(small_corpus):
        expected = notebook(window.astype(np.float32)) / 80.0 + 1.0
        np.testing.assert_allclose(log_mel.log_mel(window, SPEC).mel, expected, atol=1e-4)


def test_whole_track_is_the_same_call(small_corpus: Path) -> None:
    track, _ = librosa.load(sorted(small_corpus.rglob("*.wav"))[0], sr=22_050)
    np.testing.assert_allclose(log_mel.log_mel(track, SPEC).mel, notebook(track) / 80.0 + 1.0, atol=1e-4)


def test_a_row_of_the_graph_does_not_depend_on_its_batch() -> None:
    audio = np.stack([*SIGNALS.values(), np.full_like(TIME, np.nan)]).astype(np.float32)
    mel, ref_db = GRAPH(audio)
    for row in range(len(SIGNALS)):
        alone, level = GRAPH(audio[row : row + 1])
        np.testing.assert_array_equal(mel[row], alone[0])
        assert ref_db[row] == level[0]
    assert GRAPH(audio[:0])[0].shape == (0, *SPEC.mel_shape)


@pytest.mark.parametrize("level", [0.0, 1e-4, 0.9e-3])
def test_silence_is_zero_with_the_floor_as_reference(level: float) -> None:
    audio = np.full(SPEC.samples, level)
    mel, ref_db = log_mel.log_mel(audio, SPEC)
    graph, graph_ref = GRAPH(audio[None].astype(np.float32))
    assert not mel.any()
    assert not np.asarray(graph).any()
    assert ref_db == SPEC.ref_db_floor == -100.0
    assert float(graph_ref[0]) == -100.0


@settings(max_examples=20, deadline=None)
@given(
    spec=st.builds(
        FeatureSpec,
        sample_rate=st.sampled_from([16_000, 22_050, 44_100]),
        window_s=st.sampled_from([0.5, 1.0]),
        n_fft=st.sampled_from([1024, 1500, 2000, 2048]),
        hop=st.sampled_from([256, 300, 512]),
        n_mels=st.sampled_from([20, 40, 64]),
        fmin=st.sampled_from([0.0, 50.0]),
        power=st.sampled_from([1.0, 2.0]),
        top_db=st.sampled_from([60.0, 80.0]),
    ),
    seed=st.integers(0, 1000),
)
def test_job_and_graph_agree_on_any_spec(spec: FeatureSpec, seed: int) -> None:
    audio = 0.1 * np.random.default_rng(seed).standard_normal((2, spec.samples))
    graph, _ = log_mel_tf.log_mel(audio.astype(np.float32), spec)
    for row, mel in zip(audio, np.asarray(graph), strict=True):
        job = log_mel.log_mel(row, spec).mel
        assert job.shape == mel.shape == spec.mel_shape
        np.testing.assert_allclose(job, reference(row, spec), atol=1e-6)
        np.testing.assert_allclose(mel, job, atol=1e-6)


@given(st.floats(0.0, 1.0))
def test_codes_are_within_half_a_step(value: float) -> None:
    codes = log_mel.quantise(np.array([value]))
    assert abs(float(log_mel.dequantise(codes)[0]) - value) <= 0.5 / 255 + 1e-6


def test_shifted_filterbank_moves_a_tone_where_pitch_shifting_would() -> None:
    low, high = SIGNALS["tone 440 Hz"], np.sin(2 * np.pi * 440 * 2 ** (7 / 12) * TIME)
    shifted = log_mel.normalise(log_mel.mel_basis(SPEC, 7.0) @ log_mel.magnitude(low, SPEC), SPEC)
    assert int(shifted.mel.mean(axis=1).argmax()) == int(log_mel.log_mel(high, SPEC).mel.mean(axis=1).argmax())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fmin": 0.0, "fmax": 900.0, "n_mels": 20},
        {"fmin": 1500.0, "fmax": 7000.0, "n_mels": 20},
        {"sample_rate": 16_000, "n_mels": 60, "fmin": 50.0, "fmax": 6000.0},
        {"n_fft": 1500, "hop": 300, "n_mels": 40},
        {"fmin": 1000.0, "n_mels": 30},
    ],
    ids=str,
)
def test_filters_are_librosas_to_the_last_bit(changes: dict[str, Any]) -> None:
    spec = FeatureSpec(**changes)
    for semitones in (0.0, 7.0, -3.5):
        rate = spec.sample_rate * 2.0 ** (semitones / 12.0)
        expected = librosa_mel(
            sr=rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.fmin, fmax=spec.fmax, dtype=np.float64
        )
        np.testing.assert_array_equal(log_mel.mel_basis(spec, semitones).toarray(), expected)
    np.testing.assert_array_equal(
        log_mel.mel_edges(spec), librosa.mel_frequencies(spec.n_mels + 2, fmin=spec.fmin, fmax=spec.fmax)
    )


@pytest.mark.parametrize("n_fft", [256, 1500, 2048, 4096])
def test_the_window_is_scipys_to_the_last_bit(n_fft: int) -> None:
    np.testing.assert_array_equal(log_mel._window(n_fft), scipy.signal.get_window("hann", n_fft))


def test_impossible_shift_names_the_engine_that_can() -> None:
    with pytest.raises(TfpipeError, match="waveform"):
        log_mel.mel_basis(SPEC, -12.0)
