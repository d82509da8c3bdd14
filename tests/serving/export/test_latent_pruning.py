"""A trained model with fewer latent dimensions."""

import dataclasses
import json

import numpy as np
import pytest

from serving.export.latent_pruning import informative, with_dimensions
from serving.export.signatures import describe
from tfpipe.errors import UsageError


def test_dimensions_are_sorted_by_the_information_that_they_carry(model, spec, tmp_path):
    import keras

    data = small_dataset(tmp_path / "data", spec)
    # The mean of two dimensions follows the loudness of the window; the posterior of the others is their prior.
    mel = keras.Input((*spec.mel_shape, 1))
    level = keras.ops.mean(mel, axis=(1, 2))
    weights = np.zeros((1, model.latent), np.float32)
    weights[0, [5, 2]] = 30.0, 3.0
    z_mean = keras.ops.matmul(level, weights)
    biased = dataclasses.replace(model, encoder=keras.Model(mel, [z_mean, 0.0 * z_mean]))
    assert informative(biased, data)[:2] == [5, 2]
    with pytest.raises(UsageError, match="another dataset"):
        informative(dataclasses.replace(model, metadata={"dataset": "0" * 16}), data)


def test_the_kept_dimensions_are_encoded_and_decoded_as_before(model, spec):
    kept = with_dimensions(model, [5, 2])
    batch = np.random.default_rng(0).uniform(size=(3, *spec.mel_shape, 1)).astype(np.float32)
    for small, whole in zip(kept.encoder(batch), model.encoder(batch), strict=True):
        np.testing.assert_allclose(small, whole.numpy()[:, [5, 2]], atol=1e-5)
    z = np.array([[1.0, -2.0]], np.float32)
    full = np.zeros((1, model.latent), np.float32)
    full[0, [5, 2]] = z
    np.testing.assert_allclose(kept.decoder(z), model.decoder(full), atol=1e-5)
    described = describe(kept)
    assert (described["latent"], described["metadata"]["latent_kept"]) == (2, [5, 2])


def small_dataset(folder, spec):
    """A dataset folder of one shard: eight training windows, each louder than the one before."""
    from tfpipe.data.manifest import MANIFEST, Manifest, Shard
    from tfpipe.data.records import Example, encode_example, write_record

    folder.mkdir()
    path = folder / "train-00000-of-00001.tfrecord"
    with open(path, "wb") as file:
        for index in range(8):
            mel = np.full(spec.mel_shape, 30 * index, np.uint8)
            key = f"{index:064x}/000000000000/original"
            write_record(
                file,
                encode_example(
                    Example(mel=mel, ref_db=0.0, label=0, track=key[:64], start_s=0.0, variant="original", key=key)
                ),
            )
    shard = Shard(name=path.name, split="train", examples=8, bytes=path.stat().st_size, sha256="", variants={})
    (folder / MANIFEST).write_text(json.dumps(Manifest(spec=spec, labels=("any",), shards=(shard,)).to_dict()))
    return folder
