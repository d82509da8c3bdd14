"""Checks of Predict: answers, and refusals with the right codes."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from serving.checks.probe import NO_VERSION, Case, Probe, close, refused, require
from serving.protocol.names import WAV_SIGNATURES

# More bytes than gRPC's default limit of 4 MiB.
_MANY_WINDOWS = 64


def predict_cases(probe: Probe) -> Iterator[Case]:
    """Yields the checks of Predict."""
    yield "Predict names model, version and signature", partial(_names_what_it_ran, probe)
    yield "Predict without a signature runs serving_default", partial(_default_signature, probe)
    yield "Predict gives the outputs that the filter names", partial(_filtered, probe)
    yield "Predict takes typed values as well as tensor_content", partial(_typed_values, probe)
    yield "a row's answer does not depend on its batch", partial(_rows_alone, probe)
    yield "an empty batch has an empty answer", partial(_empty_batch, probe)
    yield f"{_MANY_WINDOWS} spectrograms cross in one message", partial(_large_message, probe)
    yield "audio goes in and comes out", partial(_audio, probe)
    if probe.signatures.keys() >= set(WAV_SIGNATURES):
        yield "WAV files go in and come out", partial(_wav, probe)
        no_wav = probe.request("reconstruct_wav", {"wav_bytes": np.array([b"RIFF"], object)})
        yield (
            "Predict refuses a file that is not WAV",
            partial(refused, partial(probe.predict, no_wav), "INVALID_ARGUMENT", ""),
        )
    if probe.prior:
        yield "a window continues another", partial(_continues, probe)
        yield "a variation of nothing is the window itself", partial(_varies, probe)
    yield "concurrent signatures get their own answers", partial(_concurrent, probe)
    for name, request, code, says in _refusals(probe):
        yield f"Predict refuses {name}", partial(refused, partial(probe.predict, request), code, says)


def _refusals(probe: Probe) -> Iterator[tuple[str, Any, str, str]]:
    """Yields name, request, status code and part of the message, in the order in which a server checks a request."""
    model, z = probe.target.model, probe.z[:1]
    without = probe.request()
    without.ClearField("model_spec")
    unparsable = probe.request()
    unparsable.inputs["z"].tensor_content = b"123"
    bad, size = "INVALID_ARGUMENT", "input size does not match signature"
    yield "a request without a model", without, bad, "Missing ModelSpec"
    yield "an empty model name", probe.request(name=""), bad, "ModelSpec has no name specified."
    latest, specific = "Servable not found for request: Latest(nope)", f"Specific({model}, {NO_VERSION})"
    yield "an unknown model", probe.request(name="nope"), "NOT_FOUND", latest
    yield "an unknown version", probe.request(version=NO_VERSION), "NOT_FOUND", specific
    label = "Unrecognized servable version label: nope"
    yield "an unknown label", probe.request(label="nope"), bad, label
    unknown = 'Serving signature key "nope" not found.'
    yield "an unknown signature", probe.request("nope"), "FAILED_PRECONDITION", unknown
    yield "a missing input", probe.request(inputs={}), bad, f"{size}: 0!=1"
    yield "an input too many", probe.request(inputs={"z": z, "more": z}), bad, f"{size}: 2!=1"
    yield "an input of another name", probe.request(inputs={"more": z}), bad, ""
    yield "a tensor that cannot be read", unparsable, bad, "tensor parsing error: z"
    no_output = "output tensor alias not found in signature: nope"
    yield "an output that is not there", probe.request(output_filter=["nope"]), bad, no_output
    twice = "duplicate output tensor alias: mel"
    yield "an output that is asked for twice", probe.request(output_filter=["mel", "mel"]), bad, twice
    yield "strings for numbers", probe.request(inputs={"z": z.astype(str)}), bad, ""
    yield "doubles for floats", probe.request(inputs={"z": z.astype(np.float64)}), bad, ""
    yield "a latent of another size", probe.request(inputs={"z": np.zeros((1, probe.latent + 1), np.float32)}), bad, ""


def _names_what_it_ran(probe: Probe) -> None:
    spec = probe.predict(probe.request()).model_spec
    found = (spec.name, spec.version.value, spec.signature_name)
    require(found == (probe.target.model, probe.version, "decode"), f"it says {found}")


def _default_signature(probe: Probe) -> None:
    inputs = {"mel": probe.mel[:1]}
    default, named = probe.outputs(probe.request("", inputs)), probe.outputs(probe.request("reconstruct", inputs))
    close(default["mel"], named["mel"], "serving_default and reconstruct")


def _filtered(probe: Probe) -> None:
    inputs = probe.draw([0])
    for wanted in (["z"], ["z", "mel"], []):
        found = set(probe.outputs(probe.request("generate", inputs, output_filter=wanted)))
        require(found == set(wanted or ["z", "mel"]), f"for {wanted} it gives {sorted(found)}")


def _typed_values(probe: Probe) -> None:
    typed = probe.request()
    typed.inputs["z"].tensor_content = b""
    typed.inputs["z"].float_val.extend(probe.z[0].tolist())
    close(probe.outputs(typed)["mel"], probe.outputs(probe.request())["mel"], "the two ways")


def _rows_alone(probe: Probe) -> None:
    together = probe.outputs(probe.request(inputs={"z": probe.z}))["mel"]
    for row, z in enumerate(probe.z):
        close(together[row], probe.outputs(probe.request(inputs={"z": z[np.newaxis]}))["mel"][0], f"row {row}")
    seeds = np.array([7, -3, 7, 2**62], np.int64)
    made = probe.client.generate(seeds, 1.0)
    for row, seed in enumerate(seeds):
        close(made.z[row], probe.client.generate([seed], 1.0).z[0], f"the latent of seed {seed}")


def _empty_batch(probe: Probe) -> None:
    shape = probe.outputs(probe.request(inputs={"z": probe.z[:0]}))["mel"].shape
    require(shape == (0, *probe.spec.mel_shape), f"its shape is {shape}")


def _large_message(probe: Probe) -> None:
    mel = np.repeat(probe.mel, _MANY_WINDOWS // len(probe.mel), axis=0)
    answer = probe.outputs(probe.request("encode", {"mel": mel}))["z_mean"]
    close(answer[-1], probe.outputs(probe.request("encode", {"mel": mel[-1:]}))["z_mean"][0], "the last row")


def _audio(probe: Probe) -> None:
    spec = probe.spec
    time_s = np.arange(spec.samples) / spec.sample_rate
    tone = 0.3 * np.sin(2 * np.pi * (spec.fmin + spec.fmax) / 8 * time_s)
    encoded = probe.client.encode_audio(tone[np.newaxis])
    close(encoded.z_mean, probe.client.encode(encoded.mel).z_mean, "encode_audio and encode")
    audio = probe.client.decode_audio(encoded.z_mean, encoded.ref_db)
    require(audio.shape == (1, spec.samples), f"the audio's shape is {audio.shape}")
    require(bool(np.isfinite(audio).all()) and float(np.abs(audio).max()) > 0.0, "the audio is not finite, or silent")


def _wav(probe: Probe) -> None:
    rate, seconds = probe.spec.sample_rate, probe.spec.window_s
    wavs = probe.client.decode_wav(probe.z[:2], [9.0, 0.0])
    for row, wav in enumerate([*wavs, *probe.client.generate_wav([1]), probe.client.reconstruct_wav(wavs[0])]):
        with wave.open(io.BytesIO(wav)) as file:
            found = (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes())
        wanted = (rate, 1, 2, probe.spec.samples)
        require(found == wanted, f"file {row} has rate, channels, bytes, frames {found}, not {wanted} ({seconds:g} s)")


def _continues(probe: Probe) -> None:
    z = probe.client.generate([1, 2]).z
    steps, kept = probe.client.describe()["latent_shape"][0], int((probe.prior or {})["kept"])
    following = probe.client.continue_(z, [3, 4]).z.reshape(2, steps, -1)
    close(following[:, :kept], z.reshape(following.shape)[:, -kept:], "the steps that both windows have")
    alone = probe.client.continue_(z[1:], [4]).z.reshape(1, steps, -1)
    close(alone[0], following[1], "a row alone and in a batch")


def _varies(probe: Probe) -> None:
    close(probe.client.vary(probe.z, 0.0, [1, 2, 3, 4]).z, probe.z, "the latents")


def _concurrent(probe: Probe) -> None:
    """Compares answers to concurrent requests with the answers that the same requests got alone."""
    decoded = [probe.outputs(probe.request(inputs={"z": z[np.newaxis]}))["mel"] for z in probe.z]
    encoded = [probe.outputs(probe.request("encode", {"mel": mel[np.newaxis]}))["z_mean"] for mel in probe.mel]

    def one(number: int) -> None:
        row = number // 2 % len(probe.z)
        if number % 2:
            answer = probe.outputs(probe.request(inputs={"z": probe.z[row : row + 1]}))["mel"]
            close(answer, decoded[row], f"decode, request {number}")
        else:
            answer = probe.outputs(probe.request("encode", {"mel": probe.mel[row : row + 1]}))["z_mean"]
            close(answer, encoded[row], f"encode, request {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(64)))
