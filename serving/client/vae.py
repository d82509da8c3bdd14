"""The calls of an exported model, whether a server runs it or this process: NumPy arrays in and out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from serving.client.answers import Encoded, EncodedWindows, FloatArray, Generated, Latent, RebuiltWindows
from serving.client.calls import MAX_ROWS, float32
from serving.client.draws import Draws
from serving.client.windows import interpolate, windows_of_file


class Vae(Draws):
    """An exported model. `Client` asks a server for it, `LocalModel` runs it in this process.

    A large batch is sent in several calls. `with` closes it at the end.

    Attributes:
        target: where the model is: `HOST:PORT` or a folder.
    """

    def encode(self, mel: ArrayLike) -> Latent:
        """Encodes log-mel windows `[n, n_mels, frames]` in [0, 1]."""
        answer = self.call("encode", mel=float32(mel))
        return Latent(answer["z_mean"], answer["z_log_var"])

    def encode_audio(self, audio: ArrayLike) -> Encoded:
        """Encodes audio `[n, samples]` at the spec's sample rate. Rows are padded or cut to one window."""
        answer = self.call("encode_audio", audio=float32(audio))
        return Encoded(answer["z_mean"], answer["z_log_var"], answer["mel"], answer["ref_db"])

    def encode_file(self, path: str | os.PathLike[str], *, overlap_s: float = 0.0) -> Iterator[EncodedWindows]:
        """Encodes an audio file of any length, a batch of windows at a time.

        Args:
            path: audio file of any sample rate and number of channels.
            overlap_s: time that neighbouring windows share, in s.

        Raises:
            AudioError: the file cannot be read as audio.
        """
        windows = windows_of_file(path, self.spec(), overlap_s=overlap_s)
        while batch := list(itertools.islice(windows, MAX_ROWS)):
            starts = np.array([window.start_s for window in batch])
            yield EncodedWindows(starts, self.encode_audio(np.stack([window.audio for window in batch])))

    def rebuild_file(
        self,
        path: str | os.PathLike[str],
        *,
        overlap_s: float = 0.0,
        change: Callable[[FloatArray, int], FloatArray] | None = None,
    ) -> Iterator[RebuiltWindows]:
        """Encodes and decodes an audio file of any length, a batch of windows at a time.

        `windows.stitch` joins the audio to one recording.

        Args:
            path: see `encode_file`.
            overlap_s: see `encode_file`.
            change: gets latents `[n, d]` and the number of their first window, and returns those to decode.

        Raises:
            AudioError: see `encode_file`.
        """
        done = 0
        for start_s, encoded in self.encode_file(path, overlap_s=overlap_s):
            z = encoded.z_mean if change is None else change(encoded.z_mean, done)
            done += len(z)
            yield RebuiltWindows(start_s, encoded, self.decode(z), self.decode_audio(z, encoded.ref_db))

    def reconstruct(self, mel: ArrayLike) -> FloatArray:
        """Encodes and decodes log-mel windows `[n, n_mels, frames]`."""
        return self.call("reconstruct", mel=float32(mel))["mel"]

    def reconstruct_wav(self, wav: bytes) -> bytes:
        """Encodes and decodes the first window of a recording at its own level: a WAV file in, a WAV file out.

        Args:
            wav: a WAV file of 16 bits, of any sample rate and number of channels.

        Raises:
            RequestRefusedError: it is no such file, or the model was exported before it could do this.
        """
        answer: bytes = self.call("reconstruct_wav", wav_bytes=np.array([wav], object))["wav_bytes"][0]
        return answer

    def interpolate(self, first: ArrayLike, last: ArrayLike, *, steps: int) -> Generated:
        """Decodes `steps` latents on the way from `first` `[d]` to `last` `[d]`; see `windows.interpolate`.

        Raises:
            UsageError: fewer than two steps.
        """
        z = interpolate(float32(first), float32(last), steps=steps)
        return Generated(z, self.decode(z))
