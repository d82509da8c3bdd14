"""The client against the real server, as a library and as a command."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import soundfile
from serving_tools import run_command, start_server

from serving.client import client as clients
from serving.client import windows
from tfpipe.audio.reader import probe, read_window
from tfpipe.errors import AudioError, SpecMismatch, TfpipeError, UsageError
from tfpipe.features import log_mel


def test_needs_no_tensorflow_and_is_ready_at_once(target):
    script = textwrap.dedent("""
        import sys, time
        from serving.client.client import Client
        with Client(sys.argv[1]) as client:
            assert client.spec().n_mels == 128
        print(time.process_time())
        heavy = {"tensorflow", "keras", "tensorflow_serving", "librosa", "scipy"} & set(sys.modules)
        assert not heavy, heavy
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(
        [sys.executable, "-c", script, target], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 1.0  # s of processor time: other work on this machine is not the client's


def test_methods_agree_with_the_model(client, model, recordings, spec):
    audio = np.stack([read_window(path, start_s=1.0, spec=spec) for path in recordings])
    encoded = client.encode_audio(audio)
    expected = log_mel.log_mel(audio[0], spec)
    np.testing.assert_allclose(encoded.mel[0], expected.mel, atol=1e-3)
    assert encoded.ref_db[0] == pytest.approx(expected.ref_db, abs=2e-3)
    z_mean, z_log_var = model.encoder(encoded.mel[..., None])
    np.testing.assert_allclose(client.encode(encoded.mel).z_mean, z_mean, atol=1e-4)
    np.testing.assert_allclose(encoded.z_log_var, z_log_var, atol=1e-4)
    np.testing.assert_allclose(client.reconstruct(encoded.mel), client.decode(encoded.z_mean), atol=1e-4)
    assert client.decode_audio(encoded.z_mean, encoded.ref_db).shape == (2, spec.samples)
    walk = client.interpolate(*encoded.z_mean, steps=3)
    np.testing.assert_allclose(walk.z[[0, -1]], encoded.z_mean, atol=1e-5)
    np.testing.assert_allclose(walk.mel, client.decode(walk.z))
    assert client.status() == [(1, "AVAILABLE", "")]
    assert client.describe()["labels"] == ["Human", "Piano"]
    assert client.spec() == spec


def test_large_batches_are_split_without_a_trace(client):
    seeds = np.arange(70)
    made = client.generate(seeds, 0.5)
    assert made.mel.shape == (70, 128, 216)
    np.testing.assert_array_equal(made.z[69], client.generate([69], [0.5]).z[0])
    assert client.generate([]).mel.shape == (0, 128, 216)


def test_messages_beyond_grpcs_default_limit(client, spec):
    mel = np.random.default_rng(0).uniform(size=(40, *spec.mel_shape))
    assert client.reconstruct(mel).shape == mel.shape


def test_typed_errors(target, client, spec):
    with pytest.raises(clients.RequestRefusedError, match="INVALID_ARGUMENT"):
        client.decode(np.zeros((1, 5)))
    with pytest.raises(clients.RequestRefusedError, match="one batch dimension"):
        client.decode_audio(np.zeros((2, 8)), 0.0)
    for options in ({"model": "other"}, {"version": 5}):
        with clients.Client(target, **options) as other, pytest.raises(clients.ModelNotFoundError):
            other.spec()
    with clients.Client(target, timeout_s=0.001) as hasty, pytest.raises(clients.DeadlineExceededError):
        hasty.decode_audio(np.zeros((8, 8)), np.zeros(8))
    said = []
    lost = clients.Client("127.0.0.1:1", timeout_s=5, on_wait=said.append)
    with lost, pytest.raises(clients.ServerUnavailableError):
        lost.spec()
    assert said == ["127.0.0.1:1: no answer yet; trying for 5 s"]
    other_spec = dataclasses.replace(spec, fmin=50.0)
    with clients.Client(target, expected_spec=other_spec) as wrong, pytest.raises(SpecMismatch, match="fmin"):
        wrong.encode_audio(np.zeros((1, 100)))
    with clients.Client(target, expected_spec=spec) as right:
        assert right.encode_audio(np.zeros((1, 100))).ref_db[0] == pytest.approx(spec.ref_db_floor)


def test_waits_for_a_server_that_starts_late(exported):
    late = {}
    probe_server = start_server(exported.path.parent, enable_model_warmup=False, file_system_poll_wait_seconds=-1)
    port = probe_server.port
    probe_server.stop(grace_s=1)

    def start():
        time.sleep(1.0)
        from serving.server.config import ServerConfig
        from serving.server.server import Server

        config = ServerConfig(
            model_base_path=exported.path.parent, port=port, rest_api_port=-1, enable_model_warmup=False
        )
        late["server"] = Server(config)
        late["server"].start()

    starter = threading.Thread(target=start)
    starter.start()
    try:
        with clients.Client(f"127.0.0.1:{port}", timeout_s=60) as patient:
            assert patient.decode(np.zeros((1, 8))).shape == (1, 128, 216)
    finally:
        starter.join()
        late["server"].stop(grace_s=1)


def test_windows_cover_a_file_of_another_rate_and_stitch_back(spec, tmp_path):
    time_s = np.arange(int(44_100 * 12.3)) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], axis=1), 44_100)
    for overlap_s in (0.0, 0.5, 2.5):
        cut = list(windows.windows_of_file(tmp_path / "tone.wav", spec, overlap_s=overlap_s))
        assert cut[1].start_s == pytest.approx(spec.window_s - overlap_s)
        # The last one is full of sound, as in training: it ends with the recording.
        assert cut[-1].start_s == pytest.approx(12.3 - spec.window_s, abs=1e-4)
        assert np.abs(cut[-1].audio[-100:]).max() > 0.3
        placed = [(round(window.start_s * spec.sample_rate), window.audio) for window in cut]
        overlap = windows.overlap_samples(spec, overlap_s)
        whole = np.concatenate(list(windows.stitch(placed, overlap=overlap)))
        assert len(whole) == pytest.approx(12.3 * spec.sample_rate, abs=1)
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(whole)) / spec.sample_rate)
        faded = np.zeros(len(whole), bool)
        end = spec.samples
        for start, audio in placed[1:]:
            faded[end - overlap : end] = True
            end = start + len(audio)
        faded[-spec.sample_rate // 10 :] = faded[: spec.sample_rate // 10] = True  # resampling rings at the ends
        np.testing.assert_allclose(whole[~faded], expected[~faded], atol=2e-3)
        assert np.abs(whole).max() < 0.5 * np.sqrt(2) + 0.01
    soundfile.write(tmp_path / "short.wav", tone[:441], 44_100)
    assert len(list(windows.windows_of_file(tmp_path / "short.wav", spec))) == 1
    with pytest.raises(UsageError, match="overlap"):
        list(windows.windows_of_file(tmp_path / "tone.wav", spec, overlap_s=3.0))


def test_cross_fade_keeps_the_power_of_unrelated_windows():
    noise = np.random.default_rng(0).standard_normal((2, 40_000))
    whole = np.concatenate(list(windows.stitch([(0, noise[0]), (20_000, noise[1])], overlap=20_000)))
    assert len(whole) == 60_000
    assert np.std(whole[20_000:40_000]) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(whole[:20_000], noise[0, :20_000], rtol=1e-6)
    # What a window shares with the one before beyond the fade is that one's.
    whole = np.concatenate(list(windows.stitch([(0, noise[0]), (5_000, noise[1])], overlap=1_000)))
    assert len(whole) == 45_000
    np.testing.assert_allclose(whole[:39_000], noise[0, :39_000], rtol=1e-6)
    np.testing.assert_allclose(whole[40_000:], noise[1, 35_000:], rtol=1e-6)


def test_interpolation_is_spherical():
    first, last = np.array([2.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    walk = windows.interpolate(first, last, steps=5)
    np.testing.assert_allclose(walk[[0, -1]], [first, last], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(walk, axis=1), [2, 1.75, 1.5, 1.25, 1], atol=1e-6)
    np.testing.assert_allclose(np.degrees(np.arctan2(walk[:, 1], walk[:, 0])), [0, 22.5, 45, 67.5, 90], atol=1e-4)
    np.testing.assert_allclose(windows.interpolate(first, first, steps=3), [first] * 3)
    np.testing.assert_allclose(windows.interpolate(first, 0 * last, steps=3)[1], first / 2)
    with pytest.raises(UsageError, match="2 or more"):
        windows.interpolate(first, last, steps=1)


def test_command_encode_and_decode(target, client, recordings, spec, tmp_path, capsys):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF no")
    run_command("client", "encode", *recordings, broken, "--out", tmp_path / "x.npz", "--server", target, "--json")
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    assert [entry["reason"] for entry in result["skipped"]] == ["undecodable"]
    assert str(broken) in output.err
    with np.load(tmp_path / "x.npz") as latents:
        count = len(latents["path"])
        assert count == result["windows"] >= 5
        assert latents["z_mean"].shape == latents["z_log_var"].shape == (count, 8)
        assert latents["start_s"][1] == pytest.approx(spec.window_s)
        assert set(latents["path"]) == {str(path) for path in recordings}
        assert latents["fingerprint"] == spec.fingerprint
        arrays = dict(latents)
    run_command("client", "decode", tmp_path / "x.npz", "--out", tmp_path / "d", "--server", target)
    assert len(list((tmp_path / "d").glob("*.wav"))) == count
    assert soundfile.info(tmp_path / "d" / "00000.wav").frames == spec.samples
    with np.load(tmp_path / "d" / "mel.npz") as decoded:
        assert decoded["mel"].shape == (count, *spec.mel_shape)
        np.testing.assert_allclose(decoded["mel"], client.decode(arrays["z_mean"]), atol=1e-5)
    _is_png(tmp_path / "d" / "mel.png")
    for change, says in (
        ({"checkpoint": json.dumps({"preset": "tiny", "step": 8})}, "step 8 in the file, 7 in the model"),
        ({"z_mean": np.full_like(arrays["z_mean"], np.nan)}, "NaN"),
    ):
        np.savez(tmp_path / "y.npz", **{**arrays, **change})
        with pytest.raises(UsageError, match=says):
            run_command("client", "decode", tmp_path / "y.npz", "--out", tmp_path / "e", "--server", target)
    assert not (tmp_path / "e").exists()


def test_command_reconstruct(target, recordings, spec, tmp_path, capsys):
    run_command("client", "reconstruct", recordings[0], "--out", tmp_path, "--server", target, "--json")
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["mse"] < 1
    audio, rate = soundfile.read(tmp_path / f"{recordings[0].stem}-reconstruction.wav")
    assert rate == spec.sample_rate
    assert len(audio) / rate == pytest.approx(probe(recordings[0]).seconds, abs=1e-3)
    assert np.abs(audio).max() > 0
    _is_png(tmp_path / f"{recordings[0].stem}-reconstruction.png")


def test_command_generate_and_interpolate(target, recordings, spec, tmp_path, capsys):
    run_command("client", "generate", "--seeds", "1,2", "--out", tmp_path, "--server", target, "--ref_db", "12")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated.png", "seed-1.wav", "seed-2.wav"]
    run_command("client", "interpolate", *recordings, "--steps", "3", "--out", tmp_path, "--server", target)
    assert soundfile.info(tmp_path / "interpolation.wav").frames == 3 * spec.samples - 2 * round(0.5 * spec.sample_rate)
    _is_png(tmp_path / "interpolation.png")


def test_command_status_and_errors(target, tmp_path, capsys):
    run_command("client", "status", "--server", target, "--json")
    versions = json.loads(capsys.readouterr().out)["versions"]
    assert versions == [{"version": 1, "state": "AVAILABLE", "error": ""}]
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"x\.npz"):
        run_command("client", "decode", tmp_path / "x.npz", "--out", tmp_path, "--server", target)
    with pytest.raises(TfpipeError, match=r"gone\.npz: no such file"):
        run_command("client", "decode", tmp_path / "gone.npz", "--out", tmp_path, "--server", target)
    with pytest.raises(AudioError):
        run_command("client", "reconstruct", tmp_path / "x.npz", "--out", tmp_path, "--server", target)
    with pytest.raises(TfpipeError, match="none of 1 files"):
        run_command("client", "encode", tmp_path / "x.npz", "--out", tmp_path / "y.npz", "--server", target)
    assert not (tmp_path / "y.npz").exists()


def _is_png(path):
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
