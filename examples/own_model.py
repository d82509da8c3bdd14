"""A Keras model of your own: trained on a dataset of this package, exported with its signatures, and served.

    python examples/own_model.py --recordings recordings --out own-out

Change `build` to try another network. It must return an encoder, mel `[n, n_mels, frames, 1]` in [0, 1] -> z_mean and
z_log_var `[n, d]`, and a decoder, z `[n, d]` -> mel of the same shape; the rest works with any such pair.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import layers

import tfpipe as tp

# The weight of the KL term beside the mean squared error of a pixel. With more, draws sound more like the recordings;
# with less, reconstructions are sharper.
KL_WEIGHT = 1e-4


def build(spec: tp.FeatureSpec, latent: int = 32) -> tuple[keras.Model, keras.Model]:
    """Returns encoder and decoder of a small VAE."""
    height, width = spec.n_mels // 8, spec.frames // 8
    mel = keras.Input((*spec.mel_shape, 1))
    hidden = layers.Conv2D(16, 5, strides=4, padding="same", activation="relu")(mel)
    hidden = layers.Conv2D(32, 5, strides=2, padding="same", activation="relu")(hidden)
    hidden = layers.Flatten()(hidden)
    encoder = keras.Model(mel, [layers.Dense(latent)(hidden), layers.Dense(latent)(hidden)])
    z = keras.Input((latent,))
    hidden = layers.Dense(height * width * 32, activation="relu")(z)
    hidden = layers.Reshape((height, width, 32))(hidden)
    hidden = layers.Conv2DTranspose(16, 5, strides=2, padding="same", activation="relu")(hidden)
    decoder = keras.Model(z, layers.Conv2DTranspose(1, 5, strides=4, padding="same", activation="sigmoid")(hidden))
    return encoder, decoder


class Sample(layers.Layer):
    """Draws a latent near z_mean, and adds the KL term to the loss."""

    def call(self, posterior: list[Any]) -> Any:
        """Returns z `[n, d]` of z_mean and z_log_var."""
        z_mean, z_log_var = posterior
        kl = 0.5 * tf.reduce_sum(tf.exp(z_log_var) + z_mean**2 - 1.0 - z_log_var, axis=1)
        self.add_loss(KL_WEIGHT * tf.reduce_mean(kl))
        return z_mean + tf.exp(0.5 * z_log_var) * tf.random.normal(tf.shape(z_mean))


def train(encoder: keras.Model, decoder: keras.Model, data: Path, *, epochs: int) -> float:
    """Trains both on the dataset, and returns the mean squared error on its validation split."""
    vae = keras.Model(encoder.inputs, decoder(Sample()(encoder.outputs)))
    vae.compile("adam", loss="mse")
    for epoch in range(epochs):  # a seed for each epoch, so that each has an order of its own
        vae.fit(pairs(tp.make_dataset(data, seed=epoch)), shuffle=False, verbose=2)
    rebuilt = keras.Model(encoder.inputs, decoder(encoder.outputs[0]))
    rebuilt.compile(loss="mse")
    return float(rebuilt.evaluate(pairs(tp.make_dataset(data, split="validation")), verbose=0))


def pairs(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Turns batches of the dataset into input and target, which are the same window in [0, 1]."""
    mels = batches.map(lambda batch: tf.cast(batch["mel"], tf.float32) / 255.0)
    return mels.map(lambda mel: (mel, mel))


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=Path("recordings"), metavar="DIR", help="their folder")
    parser.add_argument("--out", type=Path, default=Path("own-out"), metavar="DIR", help="folder for the results")
    parser.add_argument("--epochs", type=int, default=40, metavar="N", help="default %(default)s")
    args = parser.parse_args()
    data, models = args.out / "data", args.out / "models" / "own"

    keras.utils.set_random_seed(1)
    tp.preprocess(args.recordings, data, semitones=(0, 4, 7), chords=())
    encoder, decoder = build(tp.FeatureSpec())
    print(f"mean squared error on recordings held out: {train(encoder, decoder, data, epochs=args.epochs):.4f}")
    tp.export_networks(encoder, decoder, models, data=data, model_name="own")

    with (
        tp.serve(models, model_name="own", port=0, rest_api_port=0) as server,
        tp.Client(server.address, model="own") as vae,
    ):
        unseen = next(tp.make_dataset(data, split="validation", batch_size=1).as_numpy_iterator())
        z = vae.encode(unseen["mel"][..., 0] / 255.0).z_mean
        (args.out / "reconstruction.wav").write_bytes(vae.decode_wav(z, unseen["ref_db"])[0])
        (args.out / "draw.wav").write_bytes(vae.generate_wav([1])[0])
    print(f"sounds are in {args.out}; serve it with: tfpipe serve --model_base_path {models} --model_name own")


if __name__ == "__main__":
    main()
