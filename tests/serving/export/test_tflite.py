"""Encoder and decoder for TensorFlow Lite."""

import numpy as np
import pytest

from serving.export import tflite
from serving.export.latent_pruning import with_dimensions
from serving.export.signatures import build_signatures
from tfpipe.errors import ServingError


@pytest.fixture(scope="module")
def small(model):
    """A model of two latent dimensions, and its signatures."""
    kept = with_dimensions(model, [5, 2])
    return kept, build_signatures(kept)


@pytest.mark.slow
def test_the_converted_models_give_what_the_signatures_give(small, tmp_path):
    import tensorflow as tf

    model, functions = small
    tflite.write_tflite(model, functions, tmp_path)
    z = np.array([[1.0, -2.0]], np.float32)
    lite = tf.lite.Interpreter(str(tmp_path / "decode.tflite")).get_signature_runner("serving_default")
    np.testing.assert_allclose(lite(z=z)["mel"], functions["decode"](z=z)["mel"], atol=1e-3)
    assert (tmp_path / "encode.tflite").stat().st_size > 10_000


def test_a_converted_model_that_differs_is_refused(small, tmp_path, monkeypatch):
    model, functions = small
    monkeypatch.setattr(tflite, "_convert", lambda function, owner: b"")
    monkeypatch.setattr(tflite, "_run", lambda converted, feeds: {})
    with pytest.raises(ServingError, match=r"encode\.tflite differs .* nothing was exported"):
        tflite.write_tflite(model, functions, tmp_path)
    assert not list(tmp_path.iterdir())
