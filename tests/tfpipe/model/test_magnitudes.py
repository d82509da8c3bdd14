"""The network that corrects magnitudes: it begins by changing nothing, and fits any spec."""

import numpy as np
import pytest
import tensorflow as tf

from tfpipe.features.inversion_tf import (
    FAINTEST_LOG,
    corrected,
    covered_bins,
    estimated_magnitude,
    invert_log_mel,
    levelled,
)
from tfpipe.model.magnitudes import MagnitudeSize, build
from tfpipe.spec import FeatureSpec


@pytest.mark.parametrize(
    "spec", [FeatureSpec(), FeatureSpec(n_mels=40, window_s=0.5, sample_rate=16_000, n_fft=512, hop=128, power=2.0)]
)
def test_untrained_it_changes_nothing(spec):
    network = build(spec, MagnitudeSize(width=16, depth=2))
    mels = np.random.default_rng(0).uniform(0.2, 1.0, (2, *spec.mel_shape)).astype(np.float32)
    change = network(tf.transpose(mels, [0, 2, 1]))
    assert change.shape == (2, spec.frames, covered_bins(spec)[1])
    assert not np.asarray(change).any()
    before = np.asarray(estimated_magnitude(levelled(mels, spec), spec))
    after = np.asarray(corrected(before, change))
    loud = before > 1e-5 * before.max()
    np.testing.assert_allclose(after[loud], before[loud], rtol=1e-3)
    assert after[~loud].max(initial=0.0) <= 1.1e-5 * before.max()
    audio = invert_log_mel(mels, np.zeros(2, np.float32), spec, correct=network)
    assert audio.shape == (2, spec.samples)
    assert np.isfinite(audio).all()


def test_a_correction_scales_and_neither_makes_sound_of_silence_nor_overflows():
    magnitude = tf.constant([[[1.0, 0.5, 0.0, 1e-5]]])
    changed = np.asarray(corrected(magnitude, tf.constant([[[0.0, np.log(3.0), 9.0, -9.0]]])))[0, 0]
    np.testing.assert_allclose(changed, [1.0, 1.5, 0.0, 0.0], rtol=1e-5)
    assert np.isfinite(corrected(magnitude, tf.fill([1, 1, 4], 1e6))).all()
    assert np.log(1e-5) - 9.0 < FAINTEST_LOG
