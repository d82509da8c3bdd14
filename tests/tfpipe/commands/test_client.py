"""The actions on a model: `tfpipe client ACTION` against a running server, and `tfpipe ACTION` without one."""

import json

import numpy as np
import pytest
import soundfile
from serving_tools import run_command

from tfpipe.audio.reader import probe
from tfpipe.errors import AudioError, TfpipeError, UsageError


@pytest.mark.slow
def test_encode_and_decode_without_a_server(exported, client, recordings, spec, tmp_path, capsys):
    model = exported.path.parent
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF no")
    run_command("encode", *recordings, broken, "--out", tmp_path / "x.npz", "--model", model, "--json")
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    assert [entry["reason"] for entry in result["skipped"]] == ["undecodable"]
    assert str(broken) in output.err
    with np.load(tmp_path / "x.npz") as latents:
        count = len(latents["path"])
        assert count == result["windows"] == 4
        assert latents["z_mean"].shape == latents["z_log_var"].shape == (count, 8)
        assert latents["start_s"][1] == pytest.approx(spec.window_s)
        assert set(latents["path"]) == {str(path) for path in recordings}
        assert latents["fingerprint"] == spec.fingerprint
        arrays = dict(latents)
    run_command("decode", tmp_path / "x.npz", "--out", tmp_path / "d", "--model", model)
    assert len(list((tmp_path / "d").glob("*.wav"))) == count
    assert soundfile.info(tmp_path / "d" / "00000.wav").frames == spec.samples
    with np.load(tmp_path / "d" / "mel.npz") as decoded:
        assert decoded["mel"].shape == (count, *spec.mel_shape)
        np.testing.assert_allclose(decoded["mel"], client.decode(arrays["z_mean"]), atol=1e-5)
    _is_png(tmp_path / "d" / "mel.png")
    for change, says in (
        ({"checkpoint": json.dumps({"preset": "tiny", "step": 8})}, "step 8 in the file, 7 in the model"),
        ({"z_mean": np.full_like(arrays["z_mean"], np.nan)}, "NaN"),
        (
            {"z_mean": arrays["z_mean"][:, :5]},
            r"y\.npz: z_mean has the shape \[4, 5\], .* latents are \[n, 8\]; encode",
        ),
    ):
        np.savez(tmp_path / "y.npz", **{**arrays, **change})
        with pytest.raises(UsageError, match=says):
            run_command("decode", tmp_path / "y.npz", "--out", tmp_path / "e", "--model", model)
    assert not (tmp_path / "e").exists()


def test_command_reconstruct(target, recordings, spec, tmp_path, capsys):
    run_command("client", "reconstruct", recordings[0], "--out", tmp_path, "--server", target, "--json")
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["mse"] < 1
    audio, rate = soundfile.read(tmp_path / f"{recordings[0].stem}-reconstruction.wav")
    assert rate == spec.sample_rate
    assert len(audio) / rate == pytest.approx(probe(recordings[0]).seconds, abs=1e-3)
    assert np.abs(audio).max() > 0
    for ends in (audio, audio[::-1]):
        first, following = np.split(np.square(ends[: rate // 10]), [rate // 100])
        assert first.mean() <= following.mean()
    _is_png(tmp_path / f"{recordings[0].stem}-reconstruction.png")


def test_command_generate_and_interpolate(target, recordings, spec, tmp_path, capsys):
    run_command("client", "generate", "--seeds", "1,2", "--out", tmp_path, "--server", target, "--ref_db", "12")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated.png", "seed-1.wav", "seed-2.wav"]
    run_command("client", "interpolate", *recordings, "--steps", "3", "--out", tmp_path, "--server", target)
    assert soundfile.info(tmp_path / "interpolation.wav").frames == 3 * spec.samples - 2 * round(0.5 * spec.sample_rate)
    _is_png(tmp_path / "interpolation.png")


def test_command_generate_makes_one_continuous_wav_of_a_label(prior_server, tmp_path, capsys):
    ask = ("--out", tmp_path, "--server", f"127.0.0.1:{prior_server.port}", "--json")
    run_command("client", "generate", "--label", "Piano", "--seconds", "4.5", "--count", "2", *ask)
    assert json.loads(capsys.readouterr().out) == {"out": str(tmp_path), "sounds": 2, "seconds": 4.5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated.png", "seed-0.wav", "seed-1.wav"]
    sounds = [soundfile.read(tmp_path / f"seed-{seed}.wav")[0] for seed in (0, 1)]
    assert [len(sound) for sound in sounds] == [99_225, 99_225]
    assert np.abs(sounds[0] - sounds[1]).max() > 0.01
    _is_png(tmp_path / "generated.png")


@pytest.mark.slow
def test_pictures_say_what_was_asked_for_and_where_a_window_begins(prior_exported, recordings, tmp_path, monkeypatch):
    titles: list[str] = []
    monkeypatch.setattr(
        "tfpipe.evaluation.plots.spectrograms", lambda _, panels, *rest, **named: titles.extend(t for t, _ in panels)
    )
    model = ("--out", tmp_path, "--model", prior_exported)
    run_command("generate", "--label", "Piano", "--seeds", "4", *model)
    run_command("generate", *model)
    run_command("reconstruct", recordings[0], "--overlap-s", "0.3456", *model)
    assert titles[:4] == ["Piano, seed 4", "seed 0", "original, from 0.0 s", "reconstruction, from 0.0 s"]
    assert titles[4] == "original, from 0.7 s"


@pytest.mark.slow
def test_command_continue_and_vary(prior_exported, recordings, tmp_path, capsys):
    model = ("--out", tmp_path, "--model", prior_exported, "--json")
    run_command("continue", recordings[0], "--seconds", "2.5", "--label", "Human", *model)
    assert json.loads(capsys.readouterr().out)["seconds"] == 3.5
    assert soundfile.info(tmp_path / f"{recordings[0].stem}-continued.wav").frames == round(3.5 * 22_050)
    run_command("vary", recordings[0], "--amount", "0", *model)
    run_command("reconstruct", recordings[0], *model)
    varied, rebuilt = (
        soundfile.read(tmp_path / f"{recordings[0].stem}-{name}.wav")[0] for name in ("variation", "reconstruction")
    )
    np.testing.assert_allclose(varied, rebuilt, atol=2e-2)
    run_command("vary", recordings[0], "--amount", "1", "--seed", "3", *model)
    assert np.abs(soundfile.read(tmp_path / f"{recordings[0].stem}-variation.wav")[0] - rebuilt).max() > 0.05
    _is_png(tmp_path / f"{recordings[0].stem}-variation.png")


def test_bad_draws_are_refused_and_leave_no_file(prior_exported, exported, recordings, tmp_path):
    short = tmp_path / "short.wav"
    soundfile.write(short, np.ones(1000), 22_050)
    for command, arguments, says in (
        ("generate", ["--label", "Violin"], "Human, Piano"),
        ("generate", ["--seconds", "-1"], "-1 s is out of range"),
        ("generate", ["--count", "0"], "--count 0 is out of range"),
        ("generate", ["--temperature", "nan"], "--temperature nan is out of range"),
        ("vary", [recordings[0], "--amount", "1.1"], "--amount 1.1 is out of range; use 0"),
        ("continue", [recordings[0], "--seconds", "0"], "0 s is out of range"),
        ("continue", [short], r"short\.wav: shorter than one window of 1 s"),
    ):
        with pytest.raises(UsageError, match=says):
            run_command(command, *arguments, "--out", tmp_path / "out", "--model", prior_exported)
    for command, arguments in (
        ("generate", ["--seconds", "30"]),
        ("vary", [recordings[0]]),
        ("continue", [recordings[0]]),
    ):
        with pytest.raises(UsageError, match="no learned prior; train it with `--prior flow`"):
            run_command(command, *arguments, "--out", tmp_path / "out", "--model", exported.path)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_silent_recording_is_named(prior_exported, recordings, tmp_path, capsys):
    quiet, ends_quiet = tmp_path / "quiet.wav", tmp_path / "ends quiet.wav"
    soundfile.write(quiet, np.zeros(30_000), 22_050)
    soundfile.write(ends_quiet, np.concatenate([np.sin(np.arange(22_050)), np.zeros(30_000)]), 22_050)
    model = ("--out", tmp_path / "out", "--model", prior_exported)
    with pytest.raises(UsageError, match=r"quiet\.wav: is silent \(no sound above -60 dBFS\); use another recording"):
        run_command("interpolate", recordings[0], quiet, *model)
    with pytest.raises(UsageError, match=r"ends quiet\.wav: the last 1 s are silent .*; cut the silence off"):
        run_command("continue", ends_quiet, *model)
    assert not (tmp_path / "out").exists()
    run_command("reconstruct", quiet, *model)
    assert (
        "is silent (no sound above -60 dBFS), so the result is silent; check the recording" in capsys.readouterr().err
    )
    run_command("reconstruct", ends_quiet, *model)
    assert "is silent" not in capsys.readouterr().err


def test_a_long_sound_that_is_stopped_leaves_no_half_file(prior_exported, tmp_path, monkeypatch):
    from serving.client.local_model import LocalModel

    calls = []

    def stop(self, z, *rest):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, z, *rest)

    original = LocalModel.continue_
    monkeypatch.setattr(LocalModel, "continue_", stop)
    with pytest.raises(KeyboardInterrupt):
        run_command("generate", "--seconds", "60", "--out", tmp_path, "--model", prior_exported)
    assert list(tmp_path.iterdir()) == []


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
