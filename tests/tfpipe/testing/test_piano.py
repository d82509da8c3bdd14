"""The parts of the synthesised piano."""

import numpy as np

from tfpipe.testing.piano import _damped_sines
from tfpipe.testing.recording import SAMPLE_RATE


def test_the_matrix_product_is_the_sum_of_damped_sines():
    audio = _damped_sines(
        np.array([440.0, 3000.0]),
        amplitude=np.array([1.0, 0.5]),
        decay_s=np.array([0.2, 0.1]),
        phase=np.array([0.0, 1.0]),
        count=5000,
    )
    time = np.arange(5000) / SAMPLE_RATE
    direct = np.exp(-time / 0.2) * np.sin(2 * np.pi * 440 * time)
    direct += 0.5 * np.exp(-time / 0.1) * np.sin(2 * np.pi * 3000 * time + 1.0)
    np.testing.assert_allclose(audio, direct, atol=1e-9)
