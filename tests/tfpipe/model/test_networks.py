"""Encoder and decoder: the notebook's parameters, any input size, float32 latents and outputs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import slow

from tfpipe.errors import SpecError, UsageError
from tfpipe.model import networks
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()


def test_notebook_preset_has_the_notebooks_parameters() -> None:
    encoder, decoder = networks.build("notebook", SPEC, latent=16)
    assert encoder.count_params() == 3_926_816
    assert decoder.count_params() == 2_857_729
    convolutions = [layer for layer in encoder.layers if isinstance(layer, tf.keras.layers.Conv2D)]
    assert [(layer.filters, layer.strides[0]) for layer in convolutions] == [(32, 1), (64, 2), (128, 2), (256, 2)]


@pytest.mark.parametrize("preset", ["sequence", "compact"])
def test_presets_have_no_more_parameters_than_the_notebook(preset: str) -> None:
    assert sum(part.count_params() for part in networks.build(preset, SPEC)) <= 6_784_545


@pytest.mark.parametrize("preset", ["sequence", "compact", slow("large"), "tiny"])
@pytest.mark.parametrize("spec", [SPEC, FeatureSpec(n_mels=50, window_s=1.3), FeatureSpec(n_mels=127, window_s=0.1)])
def test_presets_that_pad_take_spectrograms_of_any_size(preset: str, spec: FeatureSpec) -> None:
    encoder, decoder = networks.build(preset, spec, latent=5)
    z_mean, z_log_var = encoder(tf.random.uniform([2, *spec.mel_shape, 1]))
    assert z_mean.shape == z_log_var.shape == (2, 5)
    mel = decoder(z_mean)
    assert mel.shape == (2, *spec.mel_shape, 1)
    assert 0.0 <= float(tf.reduce_min(mel)) <= float(tf.reduce_max(mel)) <= 1.0


def test_notebook_preset_refuses_a_size_and_names_one_that_fits() -> None:
    with pytest.raises(SpecError, match=r"n_mels=104.*216 frames"):
        networks.build("notebook", FeatureSpec(n_mels=100), latent=16)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_latents_and_output_are_float32_under_every_policy(policy: str) -> None:
    encoder, decoder = networks.build("tiny", SPEC, latent=4, policy=policy)
    z_mean, z_log_var = encoder(tf.random.uniform([1, *SPEC.mel_shape, 1]))
    assert {z_mean.dtype, z_log_var.dtype, decoder(z_mean).dtype} == {tf.float32}
    assert any(layer.compute_dtype == policy.removeprefix("mixed_") for layer in encoder.layers)


def test_samples_have_the_mean_and_deviation_of_the_posterior() -> None:
    noise = tf.random.stateless_normal([20_000, 1], seed=[0, 0])
    z = networks.sample(tf.fill([20_000, 1], 2.0), tf.fill([20_000, 1], float(np.log(9.0))), noise)
    assert float(tf.reduce_mean(z)) == pytest.approx(2.0, abs=0.1)
    assert float(tf.math.reduce_std(z)) == pytest.approx(3.0, abs=0.1)


def test_unknown_preset_and_latent_size_are_refused() -> None:
    with pytest.raises(UsageError, match="sequence, compact"):
        networks.build("huge", SPEC, latent=16)
    with pytest.raises(UsageError, match="latent"):
        networks.build("tiny", SPEC, latent=0)
