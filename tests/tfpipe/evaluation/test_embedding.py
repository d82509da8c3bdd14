"""The embedding tells apart what sounds different, and not what sounds alike."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.ndimage
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.evaluation import distances
from tfpipe.evaluation.embedding import Whitening, describe_windows, out_of_order
from tfpipe.evaluation.label_classifier import LabelClassifier
from tfpipe.features.log_mel import log_mel
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()


class _Corpus(NamedTuple):
    training: np.ndarray
    held_out: np.ndarray
    labels: np.ndarray
    held_out_labels: np.ndarray
    whitening: Whitening

    def embed(self, mels: np.ndarray) -> np.ndarray:
        return self.whitening.apply(describe_windows(mels, SPEC))

    def distance(self, mels: np.ndarray) -> float:
        """The kernel distance to the held-out windows."""
        bandwidth = distances.median_distance(self.embed(self.training))
        return distances.kernel_distance(self.embed(mels), self.embed(self.held_out), bandwidth=bandwidth)


@pytest.fixture(scope="module")
def corpus(small_corpus: Path) -> _Corpus:
    """Windows of 5 s, every 2.5 s, of which those of every third recording of a label are held out."""
    parts: dict[bool, list[tuple[np.ndarray, int]]] = {True: [], False: []}
    for label, folder in enumerate(sorted(path for path in small_corpus.iterdir() if path.is_dir())):
        for place, path in enumerate(sorted(folder.iterdir())):
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            audio = soxr.resample(audio.mean(axis=1), rate, SPEC.sample_rate)
            for start in range(0, len(audio) - SPEC.samples, int(2.5 * SPEC.sample_rate)):
                mel = log_mel(audio[start : start + SPEC.samples], SPEC).mel
                parts[place % 3 == 0].append((mel.astype(np.float32), label))
    (held_out, held_out_labels), (training, labels) = (
        (np.stack([mel for mel, _ in parts[key]]), np.array([label for _, label in parts[key]]))
        for key in (True, False)
    )
    whitening = Whitening.fit(describe_windows(training, SPEC), training, SPEC)
    return _Corpus(training, held_out, labels, held_out_labels, whitening)


def test_harm_is_further_from_recordings_than_other_recordings_are(corpus: _Corpus) -> None:
    rng = np.random.default_rng(0)
    other = corpus.distance(corpus.training)
    frames_shuffled = np.stack([mel[:, rng.permutation(SPEC.frames)] for mel in corpus.training])
    blurred = scipy.ndimage.gaussian_filter(corpus.training, (0, 3, 3))
    noise = np.stack([log_mel(rng.standard_normal(SPEC.samples), SPEC).mel for _ in range(10)])
    pieces = corpus.distance(out_of_order(corpus.training, SPEC, seed=0))
    found = [corpus.distance(mels) for mels in (frames_shuffled, blurred, noise)]
    assert other < 1.5 * pieces
    assert pieces < min(found)
    assert other < 0.5 * min(found)
    assert max(found) == found[2]


def test_one_label_alone_is_further_than_all_labels(corpus: _Corpus) -> None:
    alone = [corpus.distance(corpus.training[corpus.labels == label]) for label in np.unique(corpus.labels)]
    assert corpus.distance(corpus.training) < min(alone)


def test_harmless_changes_count_little(corpus: _Corpus) -> None:
    slight = scipy.ndimage.gaussian_filter(corpus.held_out, (0, 0.6, 0.6))
    much = scipy.ndimage.gaussian_filter(corpus.held_out, (0, 3, 3))
    moved = [
        np.linalg.norm(corpus.embed(mels) - corpus.embed(corpus.held_out), axis=1).mean() for mels in (slight, much)
    ]
    assert moved[0] < 0.25 * moved[1]
    bandwidth = distances.median_distance(corpus.embed(corpus.training))
    assert moved[0] < 0.5 * bandwidth


def test_a_shift_in_time_counts_little(corpus: _Corpus) -> None:
    moved = np.linalg.norm(corpus.embed(np.roll(corpus.held_out, 20, axis=2)) - corpus.embed(corpus.held_out), axis=1)
    assert np.median(moved) < 0.6 * distances.median_distance(corpus.embed(corpus.training))


def test_labels_can_be_told(corpus: _Corpus) -> None:
    classifier = LabelClassifier.fit(corpus.embed(corpus.training), corpus.labels, count=2)
    assert (classifier.predict(corpus.embed(corpus.held_out)) == corpus.held_out_labels).mean() > 0.9


def test_it_is_the_same_in_batches_of_any_size(corpus: _Corpus) -> None:
    mels = corpus.held_out[:5]
    one_by_one = np.concatenate([describe_windows(mel[None], SPEC) for mel in mels])
    np.testing.assert_allclose(describe_windows(mels, SPEC), one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@given(st.integers(1, 20), st.integers(2, 40), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_any_size_gives_finite_numbers(bands: int, frames: int, seed: int) -> None:
    spec = FeatureSpec(n_mels=bands, n_fft=512, hop=256, window_s=(frames - 1) * 256 / 22_050 + 0.001 + 512 / 22_050)
    mels = np.random.default_rng(seed).random((3, *spec.mel_shape), dtype=np.float32)
    mels[0] = 0.0
    mels[1] = 1.0
    features = describe_windows(mels, spec)
    assert np.isfinite(features).all()
    assert np.isfinite(Whitening.fit(features, mels, spec).apply(features)).all()


def test_out_of_order_keeps_every_frame() -> None:
    mels = np.tile(np.arange(SPEC.frames, dtype=np.float32), (2, SPEC.n_mels, 1))
    mixed = out_of_order(mels, SPEC, seed=3)
    np.testing.assert_array_equal(np.sort(mixed, axis=2), mels)
    assert (np.diff(mixed[0, 0]) != 1.0).sum() > 15
    assert not np.array_equal(mixed[0], mixed[1])
