"""The vocoder against librosa's."""

import numpy as np
import pytest

from beam_jobs.vocoder import Vocoder
from tfpipe.audio.reader import read_window
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()


@pytest.mark.parametrize("semitones", [4.0, -5.0, 12.0, 0.5])
def test_the_vocoder_gives_librosas_samples(semitones, clips):
    from librosa.effects import pitch_shift, time_stretch

    audio = read_window(clips[0], start_s=3.0, spec=SPEC)
    vocoder = Vocoder(audio, SPEC.sample_rate)
    expected = pitch_shift(audio, sr=SPEC.sample_rate, n_steps=semitones)
    np.testing.assert_allclose(vocoder.copy(semitones=semitones), expected, atol=1e-9)
    for stretch in (0.8, 1.25):
        expected = time_stretch(audio, rate=1 / stretch)
        np.testing.assert_allclose(vocoder.copy(stretch=stretch), expected, atol=1e-9)
