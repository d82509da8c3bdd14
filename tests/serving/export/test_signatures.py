"""The signatures of an exported model, loaded by TensorFlow alone."""

import io
import json

import numpy as np
import pytest
import soundfile
from serving_tools import assert_same_sound, run_signature

from serving.protocol.names import PRIOR_SIGNATURES, SIGNATURES
from tfpipe.audio.level import EDGE_FADE_S
from tfpipe.audio.reader import read_window
from tfpipe.audio.wav import write_wav
from tfpipe.features import log_mel


@pytest.mark.parametrize(
    ("fixture", "agreed"), [("loaded", SIGNATURES), ("prior_loaded", {**SIGNATURES, **PRIOR_SIGNATURES})]
)
def test_signatures_have_the_agreed_names_and_types_and_take_any_batch(fixture, agreed, request):
    signatures = request.getfixturevalue(fixture).signatures
    assert set(signatures) == set(agreed)
    for name, names in agreed.items():
        function = signatures[name]
        specs = function.structured_input_signature[1]
        assert set(specs) == set(names.inputs)
        assert set(function.structured_outputs) == set(names.outputs)
        for tensor in (*specs.values(), *function.structured_outputs.values()):
            assert tensor.shape[0] is None
            assert tensor.dtype.name in {"float32", "int64", "int32", "string"}


def test_encode_audio_agrees_with_librosa(loaded, recordings, spec):
    audio = np.stack([read_window(path, start_s=2.5, spec=spec) for path in recordings]).astype(np.float32)
    time = np.arange(spec.samples) / spec.sample_rate
    extra = [np.sin(2 * np.pi * 440 * time), np.full(spec.samples, 0.25), np.zeros(spec.samples)]
    audio = np.concatenate([audio, np.array(extra, np.float32)])
    answer = run_signature(loaded, "encode_audio", audio=audio)
    for index, row in enumerate(audio):
        expected = log_mel.log_mel(row, spec)
        np.testing.assert_allclose(answer["mel"][index], expected.mel, atol=1e-3)
        assert answer["ref_db"][index] == pytest.approx(expected.ref_db, abs=2e-3)


@pytest.mark.parametrize("length", [1, 1000, 110_250, 150_000])
def test_encode_audio_pads_or_cuts_to_one_window(loaded, spec, length):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (1, length)).astype(np.float32)
    window = np.zeros((1, spec.samples), np.float32)
    window[:, : min(length, spec.samples)] = audio[:, : spec.samples]
    given, whole = (
        run_signature(loaded, "encode_audio", audio=audio),
        run_signature(loaded, "encode_audio", audio=window),
    )
    np.testing.assert_allclose(given["mel"], whole["mel"], atol=1e-6)


def test_encode_and_decode_equal_the_keras_models(loaded, model, spec):
    rng = np.random.default_rng(0)
    mel, z = rng.uniform(size=(3, *spec.mel_shape)), rng.standard_normal((3, model.latent))
    mel, z = mel.astype(np.float32), z.astype(np.float32)
    latent, decoded = run_signature(loaded, "encode", mel=mel), run_signature(loaded, "decode", z=z)["mel"]
    z_mean, z_log_var = model.encoder(mel[..., None])
    np.testing.assert_allclose(latent["z_mean"], z_mean, atol=1e-4)
    np.testing.assert_allclose(latent["z_log_var"], z_log_var, atol=1e-4)
    np.testing.assert_allclose(decoded, model.decoder(z)[..., 0], atol=1e-4)
    assert decoded.std() > 0.05
    assert np.abs(decoded[0] - decoded[1]).max() > 0.05
    both = model.decoder(z_mean)[..., 0]
    np.testing.assert_allclose(run_signature(loaded, "reconstruct", mel=mel)["mel"], both, atol=1e-3)
    np.testing.assert_array_equal(
        run_signature(loaded, "serving_default", mel=mel)["mel"], run_signature(loaded, "reconstruct", mel=mel)["mel"]
    )


def test_decode_audio_is_the_inversion_of_the_decoded_spectrogram(loaded, model, spec):
    from tfpipe.features.inversion_tf import invert_log_mel

    z, ref_db = np.eye(2, model.latent, dtype=np.float32), np.array([9.0, 3.0], np.float32)
    audio = run_signature(loaded, "decode_audio", z=z, ref_db=ref_db)["audio"]
    assert audio.shape == (2, spec.samples)
    decoded = run_signature(loaded, "decode", z=z)["mel"]
    np.testing.assert_allclose(audio, invert_log_mel(decoded, ref_db, spec), atol=1e-2 * np.abs(audio).max())
    for row in range(2):
        assert log_mel.log_mel(audio[row], spec).ref_db == pytest.approx(ref_db[row], abs=3.0)


def test_generated_row_depends_on_its_seed_alone(loaded, model):
    seeds = np.array([5, -3, 5, 2**62, 0], np.int64)
    batch = run_signature(loaded, "generate", seed=seeds, temperature=np.array([1, 1, 0.5, 1, 1], np.float32))
    for row, seed in enumerate(seeds):
        temperature = np.array([0.5 if row == 2 else 1], np.float32)
        alone = run_signature(loaded, "generate", seed=seeds[row : row + 1], temperature=temperature)
        np.testing.assert_array_equal(batch["z"][row], alone["z"][0], err_msg=str(seed))
        np.testing.assert_allclose(batch["mel"][row], alone["mel"][0], atol=1e-5)
    np.testing.assert_allclose(batch["z"][2] * 2, batch["z"][0], rtol=1e-6)
    assert len(np.unique(batch["z"])) == 5 * model.latent


def test_an_empty_batch_has_an_empty_answer(loaded, model, spec):
    inputs: dict[str, dict[str, np.ndarray]] = {
        "encode": {"mel": np.zeros((0, *spec.mel_shape), np.float32)},
        "encode_audio": {"audio": np.zeros((0, 100), np.float32)},
        "decode": {"z": np.zeros((0, model.latent), np.float32)},
        "decode_audio": {"z": np.zeros((0, model.latent), np.float32), "ref_db": np.zeros(0, np.float32)},
        "decode_wav": {"z": np.zeros((0, model.latent), np.float32), "ref_db": np.zeros(0, np.float32)},
        "reconstruct_wav": {"wav_bytes": np.zeros(0, object)},
        "generate": {"seed": np.zeros(0, np.int64), "temperature": np.zeros(0, np.float32)},
        "spec": {"index": np.zeros(0, np.int32)},
    }
    for name, feeds in inputs.items():
        assert all(len(array) == 0 for array in run_signature(loaded, name, **feeds).values())


def test_wav_signatures_give_the_files_of_the_arrays(loaded, recordings, spec, tmp_path):
    z, ref_db = np.eye(3, 8, dtype=np.float32), np.array([9.0, 30.0, -20.0], np.float32)
    made = run_signature(loaded, "decode_wav", z=z, ref_db=ref_db)["wav_bytes"]
    for wav, audio in zip(made, run_signature(loaded, "decode_audio", z=z, ref_db=ref_db)["audio"], strict=True):
        _same_file(wav, audio, tmp_path, spec)
    ones = np.ones(2, np.float32)
    drawn = run_signature(loaded, "generate", seed=np.arange(2), temperature=ones)["z"]
    generated = run_signature(loaded, "generate_wav", seed=np.arange(2), temperature=ones, ref_db=9 * ones)["wav_bytes"]
    for wav, audio in zip(
        generated, run_signature(loaded, "decode_audio", z=drawn, ref_db=9 * ones)["audio"], strict=True
    ):
        _same_file(wav, audio, tmp_path, spec)

    audio = read_window(recordings[0], start_s=0.0, spec=spec).astype(np.float32)
    encoded = run_signature(loaded, "encode_audio", audio=audio[np.newaxis])
    rebuilt = run_signature(loaded, "decode_audio", z=encoded["z_mean"], ref_db=encoded["ref_db"])["audio"][0]
    wavs = [recordings[0].read_bytes(), _wav(audio[:40_000], spec.sample_rate)]
    whole, short = run_signature(loaded, "reconstruct_wav", wav_bytes=np.array(wavs, object))["wav_bytes"]
    if soundfile.info(recordings[0]).samplerate == spec.sample_rate:
        _same_file(whole, rebuilt, tmp_path, spec)
    assert soundfile.info(io.BytesIO(whole)).frames == spec.samples
    assert soundfile.info(io.BytesIO(short)).frames == 40_000


def _wav(audio, rate):
    file = io.BytesIO()
    soundfile.write(file, audio, rate, "PCM_16", format="WAV")
    return file.getvalue()


def _same_file(wav, audio, folder, spec):
    """Requires that `wav` is the file that the commands write for `audio`; `test_wav_graph.py` compares exactly."""
    write_wav(folder / "x.wav", audio, spec.sample_rate, fade_s=EDGE_FADE_S)
    expected, rate = soundfile.read(folder / "x.wav")
    actual, own_rate = soundfile.read(io.BytesIO(wav))
    assert own_rate == rate == spec.sample_rate
    assert_same_sound(actual, expected)


def test_draws_through_a_prior_are_the_priors(prior_loaded, prior_model):
    seeds, label = np.array([5, -3, 5, 5], np.int64), np.array([0, 1, 1, -1], np.int32)
    temperature = np.array([1, 0.5, 1, 1], np.float32)
    drawn = run_signature(prior_loaded, "generate", seed=seeds, temperature=temperature, label=label)
    for row, seed in enumerate(seeds):
        expected = prior_model.draw([seed], label=int(label[row]), temperature=float(temperature[row]))
        np.testing.assert_allclose(drawn["z"][row], expected[0], atol=1e-3)
    assert len({z.tobytes() for z in drawn["z"]}) == 4
    np.testing.assert_allclose(drawn["mel"], prior_model.decoder(drawn["z"])[..., 0], atol=1e-3)

    shared = {"z": drawn["z"], "seed": seeds, "label": label}
    following = run_signature(prior_loaded, "continue", temperature=temperature, **shared)["z"]
    kept = prior_model.prior.kept * prior_model.latent_shape[1]
    np.testing.assert_array_equal(following[:, :kept], drawn["z"][:, -kept:])
    assert np.abs(following[:, kept:] - drawn["z"][:, kept:]).max() > 0.1

    amount = np.array([0.0, 0.1, 0.9, 1.0], np.float32)
    varied = run_signature(prior_loaded, "vary", amount=amount, **shared)["z"]
    np.testing.assert_allclose(varied[0], drawn["z"][0], atol=1e-6)
    np.testing.assert_allclose(varied[3], drawn["z"][3], atol=1e-3)  # all the way to the noise of the same seed


def test_spec_signature_describes_the_model(loaded, spec):
    answer = run_signature(loaded, "spec", index=np.arange(3, dtype=np.int32))["json"]
    assert answer.shape == (3,)
    described = json.loads(answer[2])
    assert described["spec"] == spec.to_dict()
    assert described["fingerprint"] == spec.fingerprint
    assert described["latent"] == 8
    assert described["prior"] is None


def test_spec_signature_describes_the_prior(prior_loaded):
    answer = run_signature(prior_loaded, "spec", index=np.zeros(1, np.int32))["json"]
    assert json.loads(answer[0])["prior"] == {"kind": "flow", "kept": 3}
