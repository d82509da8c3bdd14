"""The VAE: the notebook's sizes, any input size, float32 where it must be, the objectives."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import last_json, tfpipe

from tfpipe.errors import SpecError, UsageError
from tfpipe.model import networks
from tfpipe.spec import FeatureSpec
from tfpipe.training.run_folder import PRESET_NAMES

SPEC = FeatureSpec()


def test_notebook_preset_has_the_notebooks_parameters() -> None:
    encoder, decoder = networks.build("notebook", SPEC, latent=16)
    assert encoder.count_params() == 3_926_816
    assert decoder.count_params() == 2_857_729
    convolutions = [layer for layer in encoder.layers if isinstance(layer, tf.keras.layers.Conv2D)]
    assert [(layer.filters, layer.strides[0]) for layer in convolutions] == [(32, 1), (64, 2), (128, 2), (256, 2)]


def test_summary_command_prints_the_counts() -> None:
    counts = last_json(tfpipe("train", "--preset", "notebook", "--summary", "--json"))
    assert counts == {"encoder": 3_926_816, "decoder": 2_857_729, "total": 6_784_545}


def test_standard_has_at_most_the_notebooks_parameters() -> None:
    assert sum(part.count_params() for part in networks.build("standard", SPEC, latent=16)) <= 6_784_545


def test_every_preset_name_is_known_to_both_modules() -> None:
    assert set(PRESET_NAMES) == set(networks.PRESETS)


@pytest.mark.parametrize("preset", ["standard", "large", "tiny"])
@pytest.mark.parametrize("spec", [SPEC, FeatureSpec(n_mels=50, window_s=1.3), FeatureSpec(n_mels=127, window_s=0.1)])
def test_any_size_goes_in_and_comes_out(preset: str, spec: FeatureSpec) -> None:
    encoder, decoder = networks.build(preset, spec, latent=5)
    z_mean, z_log_var = encoder(tf.random.uniform([2, *spec.mel_shape, 1]))
    assert z_mean.shape == z_log_var.shape == (2, 5)
    mel = decoder(z_mean)
    assert mel.shape == (2, *spec.mel_shape, 1)
    assert 0.0 <= float(tf.reduce_min(mel)) <= float(tf.reduce_max(mel)) <= 1.0


def test_notebook_refuses_sizes_with_ones_that_fit() -> None:
    with pytest.raises(SpecError, match=r"n_mels=104.*216 frames"):
        networks.build("notebook", FeatureSpec(n_mels=100), latent=16)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_latents_and_output_are_float32_under_every_policy(policy: str) -> None:
    encoder, decoder = networks.build("tiny", SPEC, latent=4, policy=policy)
    z_mean, z_log_var = encoder(tf.random.uniform([1, *SPEC.mel_shape, 1]))
    assert {z_mean.dtype, z_log_var.dtype, decoder(z_mean).dtype} == {tf.float32}
    assert any(layer.compute_dtype == policy.removeprefix("mixed_") for layer in encoder.layers)


def test_start_from_pca_reconstructs_as_pca_does() -> None:
    rng = np.random.default_rng(0)
    spec = FeatureSpec(n_mels=32, window_s=1.0)
    factors = rng.standard_normal((40, 3)) @ rng.standard_normal((3, spec.n_mels * spec.frames)) * 0.03
    mels = (0.5 + factors).reshape(40, *spec.mel_shape).astype(np.float32)
    models = networks.build("tiny", spec, latent=3)
    networks.start_from_pca(models, mels)
    z_mean, _ = models.encoder(mels[..., None])
    rebuilt = np.asarray(models.decoder(z_mean))[..., 0]
    np.testing.assert_allclose(np.std(z_mean, axis=0), 1.0, rtol=0.05)
    assert np.square(rebuilt - mels).mean() < 0.1 * mels.var(axis=0).mean()


def test_start_from_pca_with_fewer_examples_than_dimensions() -> None:
    models = networks.build("tiny", SPEC, latent=8)
    mels = np.random.default_rng(0).uniform(size=(3, *SPEC.mel_shape)).astype(np.float32)
    networks.start_from_pca(models, mels)
    assert np.isfinite(np.asarray(models.encoder(mels[..., None])[0])).all()


def test_losses_are_the_textbooks() -> None:
    z_mean, z_log_var = tf.constant([[1.0, 0.0]]), tf.constant([[0.0, np.log(4.0)]], tf.float32)
    terms = networks.losses(tf.zeros([1, 2, 2, 1]), tf.fill([1, 2, 2, 1], 0.5), z_mean, z_log_var)
    assert float(terms.mse[0]) == pytest.approx(0.25)
    np.testing.assert_allclose(terms.kl[0], [0.5, 0.5 * (4 - 1 - np.log(4))], rtol=1e-5)


def test_objective_and_its_gradient_weight_agree() -> None:
    mse = tf.Variable(0.02)
    for name, factor in (("notebook", 1.0), ("gaussian", 0.5 / 0.02)):
        with tf.GradientTape() as tape:
            loss = networks.objective(name, mse.read_value(), tf.constant(3.0), pixels=100, latent=4)
        assert float(tape.gradient(loss, mse)) == pytest.approx(factor, rel=1e-4)
        assert float(networks.gradient_weight(name, mse.read_value())) == pytest.approx(factor, rel=1e-4)
    assert networks.objective("notebook", 0.5, 8.0, pixels=100, latent=4) == pytest.approx(2.5)
    assert networks.objective("gaussian", 0.5, 8.0, pixels=100, latent=4) == pytest.approx(0.5 * np.log(0.5) + 0.08)


def test_sample_has_the_posteriors_moments() -> None:
    noise = tf.random.stateless_normal([20_000, 1], seed=[0, 0])
    z = networks.sample(tf.fill([20_000, 1], 2.0), tf.fill([20_000, 1], float(np.log(9.0))), noise)
    assert float(tf.reduce_mean(z)) == pytest.approx(2.0, abs=0.1)
    assert float(tf.math.reduce_std(z)) == pytest.approx(3.0, abs=0.1)


def test_unknown_preset_and_latent() -> None:
    with pytest.raises(UsageError, match="standard"):
        networks.build("huge", SPEC, latent=16)
    with pytest.raises(UsageError, match="latent"):
        networks.build("tiny", SPEC, latent=0)
