"""Draws through a learned prior: the client's calls against a running server and in this process."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile
from serving_tools import assert_same_sound

import tfpipe as tp
from serving.client.connection import RequestRefusedError, SignatureNotFoundError
from serving.client.local_model import LocalModel
from tfpipe.errors import UsageError

# Levels in dB at which the model of the tests, which makes noise, stays below full scale.
LOW = [-20.0, -25.0]


@pytest.fixture(scope="module")
def vae(prior_exported):
    with tp.load(prior_exported) as opened:
        yield opened


def samples_of(wav):
    audio, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return audio, rate


def test_the_server_and_this_process_draw_the_same(vae, prior_client):
    assert vae.prior() == prior_client.prior() == {"kind": "flow", "kept": 3}
    for label in (None, "Human", "Piano"):
        here, there = (each.generate([1, 2], 0.5, label) for each in (vae, prior_client))
        np.testing.assert_allclose(here.z, there.z, atol=1e-4)
        following, again = (each.continue_(here.z, [3, 4], 1.0, label) for each in (vae, prior_client))
        np.testing.assert_allclose(following.z, again.z, atol=1e-4)
        np.testing.assert_allclose(following.mel, vae.decode(following.z), atol=1e-4)
        varied, again = (each.vary(here.z, [0.0, 0.5], [3, 4], label) for each in (vae, prior_client))
        np.testing.assert_allclose(varied.z, again.z, atol=1e-4)
        np.testing.assert_allclose(varied.z[0], here.z[0], atol=1e-6)
    assert np.abs(vae.generate([1], 1.0, "Human").z - vae.generate([1], 1.0, "Piano").z).max() > 1e-3
    assert prior_client.generate([]).z.shape == (0, 96)


@pytest.mark.slow
def test_wav_files_are_the_audio(vae, prior_client):
    drawn = vae.generate([5, 6], label="Piano")
    files = prior_client.generate_wav([5, 6], label="Piano", ref_db=LOW)
    audio = vae.decode_audio(drawn.z, LOW)
    for wav, other, row in zip(files, vae.decode_wav(drawn.z, LOW), audio, strict=True):
        found, rate = samples_of(wav)
        assert (len(found), rate) == (22_050, 22_050)
        assert_same_sound(found[500:-500], row[500:-500].clip(-1, 1))
        assert_same_sound(found, samples_of(other)[0])
    rebuilt, _ = samples_of(prior_client.reconstruct_wav(files[0]))
    assert_same_sound(rebuilt, samples_of(vae.reconstruct_wav(files[0]))[0])
    assert np.abs(rebuilt).max() > 0.0


def test_what_is_no_wav_file_is_refused_in_words(vae, prior_client):
    for each in (vae, prior_client):
        with pytest.raises(RequestRefusedError, match="Expected RIFF but found"):
            each.reconstruct_wav(b"OggS" + bytes(100))
    file = io.BytesIO()
    soundfile.write(file, np.ones(100), 500, "PCM_16", format="WAV")
    with pytest.raises(RequestRefusedError, match=r"sample rate must be 1000 to 1000000 Hz; best is 22050 Hz, not"):
        prior_client.reconstruct_wav(file.getvalue())


def test_a_long_sound_is_the_windows_in_a_row(vae, prior_client):
    audio = prior_client.generate(label="Piano", seconds=3.0, seed=4)
    assert audio.shape == (66_150,)
    assert audio.dtype == np.float32
    assert_same_sound(audio, vae.generate(label="Piano", seconds=3.0, seed=4))
    first = vae.decode_audio(vae.generate([4], label="Piano").z, [9.0])[0]
    np.testing.assert_array_equal(vae.generate(label="Piano", seconds=0.5, seed=4), first[:11_025])
    assert_same_sound(audio[:12_000], first[:12_000])  # the first join comes after it
    assert np.abs(vae.generate(seconds=3.0, seed=5)[30_000:] - audio[30_000:]).max() > 1e-3


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (
            lambda vae: vae.generate([1], label="piano"),
            "label 'piano' is not one of the model's, which are Human, Piano",
        ),
        (lambda vae: vae.generate(seconds=9.0, label="Violin"), "Human, Piano"),
        (lambda vae: vae.generate_wav([1], label="Violin"), "Human, Piano"),
        (lambda vae: vae.vary(np.zeros((1, 96)), 1.5, [1]), "amount is out of range; use 0"),
        (lambda vae: vae.vary(np.zeros((1, 96)), np.nan, [1]), "amount is out of range; use 0"),
        (lambda vae: vae.generate(seconds=0.0), "0 s is out of range; use more than 0 and at most 86400 s"),
        (lambda vae: vae.generate(seconds=1e9), "1e.09 s is out of range"),
        (lambda vae: vae.generate(seconds=float("nan")), "nan s is out of range"),
        (lambda vae: vae.generate(), "give seeds .* or seconds"),
        (lambda vae: vae.generate([1], seconds=2.0), "one of the two"),
    ],
)
def test_bad_values_are_refused_before_anything_is_drawn(vae, ask, says):
    with pytest.raises(UsageError, match=says):
        ask(vae)


@pytest.mark.parametrize(
    "draw",
    [
        lambda vae, z: vae.continue_(z, [1]),
        lambda vae, z: vae.vary(z, 0.1, [1]),
        lambda vae, z: vae.decode(z),
        lambda vae, z: vae.decode_audio(z, [9.0]),
        lambda vae, z: vae.decode_wav(z, [9.0]),
    ],
)
def test_a_latent_of_another_length_is_refused(vae, prior_client, draw):
    for each in (vae, prior_client):
        with pytest.raises(
            RequestRefusedError, match=r"z has the shape \[1, 95\], but the model's latents are \[n, 96\]"
        ):
            draw(each, np.zeros((1, 95)))


@pytest.mark.slow
def test_a_model_without_a_prior_says_how_to_get_one(client):
    advice = "has no learned prior; train it with `--prior flow`"
    assert client.prior() is None
    for ask in (
        lambda: client.generate([1], label="Piano"),
        lambda: client.continue_(np.zeros((1, 8)), [1]),
        lambda: client.vary(np.zeros((1, 8)), 0.1, [1]),
        lambda: client.generate(seconds=6.0),
    ):
        with pytest.raises(UsageError, match=advice):
            ask()
    assert len(client.generate(seconds=1.0)) == 22_050  # shorter than a window, so nothing is continued
    assert len(samples_of(client.generate_wav([1])[0])[0]) == 110_250


def test_a_model_of_an_earlier_version_is_used_as_before_and_asks_for_an_export(prior_exported, tmp_path, monkeypatch):
    shutil.copytree(prior_exported, tmp_path / "1")
    old = LocalModel(tmp_path).load()
    kept = ("encode", "encode_audio", "decode", "decode_audio", "reconstruct")
    signatures = {name: old._loaded.signatures[name] for name in kept}
    description = {name: value for name, value in old.describe().items() if name not in ("prior", "latent_shape")}
    monkeypatch.setattr(old, "_loaded", type("Old", (), {"signatures": signatures}))
    monkeypatch.setattr(old, "_description", json.loads(json.dumps(description)))
    assert old.prior() is None
    assert old.decode(np.zeros((1, 96))).shape == (1, 32, 44)
    for ask in (lambda: old.reconstruct_wav(b"RIFF"), lambda: old.decode_wav(np.zeros((1, 96)), [1.0])):
        with pytest.raises(SignatureNotFoundError, match=r"was exported before .* existed; run `tfpipe export` again"):
            ask()
