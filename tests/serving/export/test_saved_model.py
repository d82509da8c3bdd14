import dataclasses
import fcntl
import json
import os
import shutil
import threading

import numpy as np
import pytest

from serving.export import read_back, saved_model
from serving.protocol import protos
from tfpipe.audio.reader import read_window
from tfpipe.data.records import read_records
from tfpipe.errors import ServingError
from tfpipe.features import log_mel

SIGNATURES = {
    "encode": ({"mel"}, {"z_mean", "z_log_var"}),
    "encode_audio": ({"audio"}, {"z_mean", "z_log_var", "mel", "ref_db"}),
    "decode": ({"z"}, {"mel"}),
    "decode_audio": ({"z", "ref_db"}, {"audio"}),
    "reconstruct": ({"mel"}, {"mel"}),
    "serving_default": ({"mel"}, {"mel"}),
    "generate": ({"seed", "temperature"}, {"z", "mel"}),
    "spec": ({"index"}, {"json"}),
}


@pytest.fixture(scope="module")
def loaded(exported):
    import tensorflow as tf

    return tf.saved_model.load(str(exported.path))


def call(loaded, name, **inputs):
    import tensorflow as tf

    outputs = loaded.signatures[name](**{alias: tf.constant(value) for alias, value in inputs.items()})
    return {alias: tensor.numpy() for alias, tensor in outputs.items()}


def test_model_folder_holds_one_whole_version(exported):
    folder = exported.path.parent
    assert [p.name for p in folder.iterdir()] == ["1"]
    extra = exported.path / "assets.extra"
    assert {p.name for p in extra.iterdir()} == {
        "tf_serving_warmup_requests",
        "spec.json",
        "model.json",
        "MODEL_CARD.md",
    }
    described = json.loads((extra / "model.json").read_text())
    assert described["labels"] == ["Human", "Piano"]
    assert described["metadata"]["step"] == 7
    assert exported.difference <= saved_model.TOLERANCE


def test_signatures_have_the_contracts_names_types_and_batch_dimension(loaded):
    assert set(loaded.signatures) == set(SIGNATURES)
    for name, (inputs, outputs) in SIGNATURES.items():
        function = loaded.signatures[name]
        specs = function.structured_input_signature[1]
        assert set(specs) == inputs
        assert set(function.structured_outputs) == outputs
        for tensor in (*specs.values(), *function.structured_outputs.values()):
            assert tensor.shape[0] is None
            assert tensor.dtype.name in {"float32", "int64", "int32", "string"}


def test_warmup_file_has_every_signature(exported):
    records = list(read_records(exported.path / saved_model.WARMUP_FILE))
    logs = [protos.PredictionLog.FromString(record) for record in records]
    assert {log.predict_log.request.model_spec.signature_name for log in logs} == set(SIGNATURES)


def test_encode_audio_agrees_with_librosa(loaded, recordings, spec):
    audio = np.stack([read_window(path, start_s=2.5, spec=spec) for path in recordings]).astype(np.float32)
    time = np.arange(spec.samples) / spec.sample_rate
    extra = [np.sin(2 * np.pi * 440 * time), np.full(spec.samples, 0.25), np.zeros(spec.samples)]
    audio = np.concatenate([audio, np.float32(extra)])
    answer = call(loaded, "encode_audio", audio=audio)
    for index, row in enumerate(audio):
        expected = log_mel.log_mel(row, spec)
        np.testing.assert_allclose(answer["mel"][index], expected.mel, atol=1e-3)
        assert answer["ref_db"][index] == pytest.approx(expected.ref_db, abs=2e-3)


@pytest.mark.parametrize("length", [1, 1000, 110_250, 150_000])
def test_encode_audio_pads_or_cuts_to_one_window(loaded, spec, length):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (1, length)).astype(np.float32)
    window = np.zeros((1, spec.samples), np.float32)
    window[:, : min(length, spec.samples)] = audio[:, : spec.samples]
    given, whole = call(loaded, "encode_audio", audio=audio), call(loaded, "encode_audio", audio=window)
    np.testing.assert_allclose(given["mel"], whole["mel"], atol=1e-6)


def test_encode_and_decode_equal_the_keras_models(loaded, model, spec):
    rng = np.random.default_rng(0)
    mel, z = rng.uniform(size=(3, *spec.mel_shape)), rng.standard_normal((3, model.latent))
    mel, z = mel.astype(np.float32), z.astype(np.float32)
    latent, decoded = call(loaded, "encode", mel=mel), call(loaded, "decode", z=z)["mel"]
    z_mean, z_log_var = model.encoder(mel[..., None])
    np.testing.assert_allclose(latent["z_mean"], z_mean, atol=1e-4)
    np.testing.assert_allclose(latent["z_log_var"], z_log_var, atol=1e-4)
    np.testing.assert_allclose(decoded, model.decoder(z)[..., 0], atol=1e-4)
    assert decoded.std() > 0.05
    assert np.abs(decoded[0] - decoded[1]).max() > 0.05
    both = model.decoder(z_mean)[..., 0]
    np.testing.assert_allclose(call(loaded, "reconstruct", mel=mel)["mel"], both, atol=1e-3)
    np.testing.assert_array_equal(
        call(loaded, "serving_default", mel=mel)["mel"], call(loaded, "reconstruct", mel=mel)["mel"]
    )


def test_decode_audio_is_griffin_lim_of_the_decoded_spectrogram(loaded, model, spec):
    from tfpipe.features.log_mel_tf import griffin_lim

    z, ref_db = np.eye(2, model.latent, dtype=np.float32), np.float32([9.0, 3.0])
    audio = call(loaded, "decode_audio", z=z, ref_db=ref_db)["audio"]
    assert audio.shape == (2, spec.samples)
    decoded = call(loaded, "decode", z=z)["mel"]
    np.testing.assert_allclose(audio, griffin_lim(decoded, ref_db, spec), atol=1e-2 * np.abs(audio).max())
    for row in range(2):
        level = log_mel.log_mel(audio[row], spec).ref_db
        assert level == pytest.approx(ref_db[row] + (decoded[row].max() - 1) * spec.top_db, abs=3.0)


def test_generated_row_depends_on_its_seed_alone(loaded, model):
    seeds = np.array([5, -3, 5, 2**62, 0], np.int64)
    batch = call(loaded, "generate", seed=seeds, temperature=np.float32([1, 1, 0.5, 1, 1]))
    for row, seed in enumerate(seeds):
        alone = call(loaded, "generate", seed=seeds[row : row + 1], temperature=np.float32([0.5 if row == 2 else 1]))
        np.testing.assert_array_equal(batch["z"][row], alone["z"][0], err_msg=str(seed))
        np.testing.assert_allclose(batch["mel"][row], alone["mel"][0], atol=1e-5)
    np.testing.assert_allclose(batch["z"][2] * 2, batch["z"][0], rtol=1e-6)
    assert len(np.unique(batch["z"])) == 5 * model.latent


def test_generated_latents_are_standard_normal_and_defined_by_splitmix64():
    import tensorflow as tf
    from scipy import stats

    z = saved_model.seeded_normal(tf.range(4000, dtype=tf.int64), 16).numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(z.T) - np.eye(16)).max() < 0.08
    assert np.abs(np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]) < 0.02

    def mix(value):
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    state = (mix(7) + 3 * 0x9E3779B97F4A7C15) % 2**64
    assert z[7, 2] == pytest.approx(stats.norm.ppf(((mix(state) >> 11) + 0.5) / 2**53), rel=1e-6)


def test_empty_batches(loaded, model, spec):
    inputs = {
        "encode": {"mel": np.zeros((0, *spec.mel_shape), np.float32)},
        "encode_audio": {"audio": np.zeros((0, 100), np.float32)},
        "decode": {"z": np.zeros((0, model.latent), np.float32)},
        "decode_audio": {"z": np.zeros((0, model.latent), np.float32), "ref_db": np.zeros(0, np.float32)},
        "generate": {"seed": np.zeros(0, np.int64), "temperature": np.zeros(0, np.float32)},
        "spec": {"index": np.zeros(0, np.int32)},
    }
    for name, feeds in inputs.items():
        assert all(len(array) == 0 for array in call(loaded, name, **feeds).values())


def test_spec_signature_describes_the_model(loaded, spec):
    answer = call(loaded, "spec", index=np.arange(3, dtype=np.int32))["json"]
    assert answer.shape == (3,)
    described = json.loads(answer[2])
    assert described["spec"] == spec.to_dict()
    assert described["fingerprint"] == spec.fingerprint
    assert described["latent"] == 8


def test_stock_ops_alone(exported):
    ops, unknown = read_back.ops_of(str(exported.path))
    assert {"Conv2D", "RFFT", "IRFFT", "MatMul"} <= ops
    assert not unknown
    assert not [op for op in ops if "PyFunc" in op]


def test_read_back_check_sees_other_weights(exported, model, tmp_path):
    """The check that guards an export fails when the written weights are not the model's."""
    damaged = tmp_path / "damaged"
    shutil.copytree(exported.path, damaged)
    data = next((damaged / "variables").glob("*.data*"))
    data.write_bytes(bytes(len(data.read_bytes())))
    functions = saved_model.build_signatures(model)
    examples = {"decode": {"z": np.ones((1, model.latent), np.float32)}}
    with pytest.raises(ServingError, match="nothing was exported"):
        saved_model._check_in_child(functions, examples, damaged)


def test_mixed_precision_is_refused(model, spec, tmp_path):
    import dataclasses

    from tfpipe.model.networks import build

    half = build("tiny", spec, latent=8, policy="mixed_bfloat16")
    with pytest.raises(ServingError, match="bfloat16"):
        saved_model.export_model(dataclasses.replace(model, encoder=half.encoder), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_racing_exports_get_different_versions(tmp_path):
    folder = tmp_path / "models"
    (folder / "0007").mkdir(parents=True)
    (folder / "notes").mkdir()
    versions, barrier = [], threading.Barrier(8)

    def publish(index):
        temporary = folder / f".tmp-{index}"
        temporary.mkdir()
        (temporary / "saved_model.pb").write_text(str(index))
        barrier.wait()
        versions.append(saved_model._publish(temporary, folder))

    threads = [threading.Thread(target=publish, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(8, 16))
    assert {(folder / str(v) / "saved_model.pb").read_text() for v in versions} == set("01234567")


def test_fewer_dimensions_are_those_that_carry_most(model, spec, tmp_path):
    import tensorflow as tf

    from serving.export.latent_pruning import informative, with_dimensions
    from tfpipe.errors import UsageError

    data = small_dataset(tmp_path / "data", spec)
    # Two dimensions get a mean that follows the loudness of the window, the others' posterior is their prior.
    mel = tf.keras.Input((*spec.mel_shape, 1))
    level = tf.keras.ops.mean(mel, axis=(1, 2))
    weights = np.zeros((1, model.latent), np.float32)
    weights[0, [5, 2]] = 30.0, 3.0
    z_mean = tf.keras.ops.matmul(level, weights)
    biased = dataclasses.replace(model, encoder=tf.keras.Model(mel, [z_mean, 0.0 * z_mean]))
    assert informative(biased, data)[:2] == [5, 2]
    with pytest.raises(UsageError, match="another dataset"):
        informative(dataclasses.replace(model, metadata={"dataset": "0" * 16}), data)

    kept = with_dimensions(model, [5, 2])
    batch = np.random.default_rng(0).uniform(size=(3, *spec.mel_shape, 1)).astype(np.float32)
    for small, whole in zip(kept.encoder(batch), model.encoder(batch), strict=True):
        np.testing.assert_allclose(small, whole.numpy()[:, [5, 2]], atol=1e-5)
    z = np.float32([[1.0, -2.0]])
    full = np.zeros((1, model.latent), np.float32)
    full[0, [5, 2]] = z
    np.testing.assert_allclose(kept.decoder(z), model.decoder(full), atol=1e-5)

    done = saved_model.export_model(kept, tmp_path / "models", model_name="small", tflite=True)
    loaded = tf.saved_model.load(str(done.path))
    assert call(loaded, "generate", seed=np.arange(2), temperature=np.ones(2, np.float32))["z"].shape == (2, 2)
    described = json.loads(call(loaded, "spec", index=np.zeros(1, np.int32))["json"][0])
    assert (described["latent"], described["metadata"]["latent_kept"]) == (2, [5, 2])
    extra = done.path / "assets.extra"
    assert "# small" in (extra / "MODEL_CARD.md").read_text()
    lite = tf.lite.Interpreter(str(extra / "decode.tflite")).get_signature_runner("serving_default")
    np.testing.assert_allclose(lite(z=z)["mel"], call(loaded, "decode", z=z)["mel"], atol=1e-3)
    assert (extra / "encode.tflite").stat().st_size > 10_000


def test_what_a_killed_export_left_is_removed_and_a_working_one_is_not(exported, tmp_path):
    left, working, young = (tmp_path / f".tmp-{name}" for name in ("left", "working", "young"))
    for folder in (left, working, young):
        folder.mkdir()
        (folder / "saved_model.pb").write_text("")
    for folder in (left, working):
        os.utime(folder, (0, 0))
    with open(working / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(working, (0, 0))
        saved_model._sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-working", ".tmp-young"]
    assert not (exported.path / ".lock").exists()


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
