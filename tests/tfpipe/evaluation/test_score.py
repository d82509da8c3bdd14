"""Recordings scored without a dataset: the figures of `evaluate`, files that cannot be used, the latents file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import sound, write_sf
from run_tools import save_run

from beam_jobs.corpus import discover
from tfpipe.audio.reader import read_window
from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest, load_tracks
from tfpipe.data.records import decode_example, read_records
from tfpipe.evaluation.evaluate import evaluate
from tfpipe.evaluation.score import score
from tfpipe.features.log_mel import dequantise, log_mel
from tfpipe.lanes import installed_version, tensorflow_io_loads
from tfpipe.model import networks
from tfpipe.spec import FeatureSpec
from tfpipe.training import checkpoint
from tfpipe.training.trained_model import load_models

SPEC = FeatureSpec()
TFIO_LOADS = tensorflow_io_loads(installed_version("tensorflow"))


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the random weights that training would start from."""
    models = networks.build("tiny", load_manifest(dataset).spec, latent=4)
    return save_run(tmp_path_factory.mktemp("score") / "run", dataset, models, preset="tiny", latent=4)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of every kind of file: good, half silent, and five that cannot be used."""
    folder = tmp_path / "mixed"
    (folder / "Tones").mkdir(parents=True)
    good = sound(13.0, 22_050)
    write_sf(folder / "Tones" / "good.flac", good, 22_050, "FLAC", "PCM_16")
    half = good.copy()
    half[: 6 * 22_050] = 0.0
    write_sf(folder / "Tones" / "half silent.wav", half, 22_050, "WAV", "PCM_16")
    # The NaN is in the third window, so two good windows have been scored before it is met.
    broken = good.astype(np.float32)
    broken[-100] = np.nan
    soundfile.write(folder / "Tones" / "broken.wav", broken, 22_050, subtype="FLOAT")
    write_sf(folder / "Tones" / "short.wav", good[:22_050], 22_050, "WAV", "PCM_16")
    write_sf(folder / "Tones" / "silent.wav", 0.0 * good, 22_050, "WAV", "PCM_16")
    (folder / "Tones" / "text.wav").write_text("no audio at all")
    (folder / "Tones" / "nothing.mp3").mkdir()
    return folder


@pytest.mark.slow
def test_scores_of_a_splits_recordings_are_those_of_evaluate(dataset: Path, small_corpus: Path, run: Path) -> None:
    tracks = {track.hash: track for track in load_tracks(dataset)}
    paths = [str(small_corpus / track.path) for track in tracks.values() if track.split == "test"]
    found = score(discover(paths).files, run=run, quiet=True)
    summary, windows = found

    manifest, model = load_manifest(dataset), load_models(run)
    records = [record for shard in manifest.split_shards("test") for record in read_records(dataset / shard.name)]
    examples = [decode_example(record, SPEC.mel_shape) for record in records]
    mels = np.stack([dequantise(example.mel) for example in examples])
    z_mean, z_log_var = (np.asarray(z) for z in model.encoder(mels[..., None], training=False))
    rebuilt = np.asarray(model.decoder(z_mean, training=False))[..., 0]
    expected = {
        (Path(tracks[example.track].path).name, round(example.start_s, 4)): row for row, example in enumerate(examples)
    }
    names = [Path(summary["tracks"][track]["path"]).name for track in windows["track"]]
    places = [(name, round(float(start), 4)) for name, start in zip(names, windows["start_s"], strict=True)]
    assert set(places) == set(expected)
    assert len(places) == len(expected)
    rows = [expected[place] for place in places]

    # The dataset's codes are off by up to 1/510 of a log-mel, 1.3e-6 in the mean square.
    mse = np.square(mels - rebuilt).mean(axis=(1, 2))[rows]
    np.testing.assert_allclose(windows["mse"], mse, rtol=1e-3, atol=5e-6)
    # How far the codes move a latent depends on the weights: up to 6e-3 was seen. Other windows are about 1 away.
    np.testing.assert_allclose(windows["z_mean"], z_mean[rows], atol=0.03)
    np.testing.assert_allclose(windows["z_log_var"], z_log_var[rows], atol=0.03)
    np.testing.assert_allclose(windows["ref_db"], [examples[row].ref_db for row in rows], atol=2e-3)
    whole = evaluate(dataset, run, split="test", draws=0, quiet=True)
    assert (summary["windows"], summary["latent"]) == (whole["windows"], whole["latent"])
    assert summary["mse"] == pytest.approx(whole["mse"], rel=5e-5, abs=5e-6)
    # The codes change the KL of a run that has learned little by a thousandth of a nat.
    assert summary["kl"] == pytest.approx(whole["kl"], rel=5e-3, abs=0.02)

    # On the very mels, without codes in between, nothing but rounding is left.
    exact = log_mel(read_window(paths[0], start_s=0.0, spec=SPEC), SPEC).mel.astype(np.float32)
    first = places.index((Path(paths[0]).name, 0.0))
    np.testing.assert_allclose(windows["z_mean"][first], model.encoder(exact[None, ..., None])[0][0], atol=1e-4)


@pytest.mark.slow
def test_what_cannot_be_used_is_listed_and_left_out_as_a_whole(mixed: Path, run: Path, capsys) -> None:
    latents = mixed.parent / "out" / "latents.npz"
    assert main(["score", str(mixed), "--run", str(run), "--json", "--batch-size", "2", "--latents", str(latents)]) == 0
    output = capsys.readouterr()
    summary = json.loads(output.out.splitlines()[-1])
    codes = {Path(row["path"]).name: row["code"] for row in summary["skipped"]}
    assert codes == {
        "broken.wav": "not_finite",
        "short.wav": "too_short",
        "silent.wav": "silent",
        "text.wav": "undecodable",
        "nothing.mp3": "not_a_file",
    }
    assert all(row["message"] in output.err for row in summary["skipped"])
    tracks = {Path(track["path"]).name: track for track in summary["tracks"]}
    assert {name: (track["windows"], track["silent"]) for name, track in tracks.items()} == {
        "good.flac": (3, 0),
        "half silent.wav": (2, 1),
    }
    assert {track["label"] for track in tracks.values()} == {"Tones"}
    assert (summary["windows"], summary["silent"]) == (5, 1)
    assert summary["mse"] == pytest.approx(sum(t["mse"] * t["windows"] for t in tracks.values()) / 5)

    with np.load(latents) as saved:
        assert saved["z_mean"].shape == saved["z_log_var"].shape == (5, summary["latent"])
        names = [Path(saved["path"][track]).name for track in saved["track"]]
        assert names == ["good.flac"] * 3 + ["half silent.wav"] * 2
        assert saved["start_s"].tolist() == [0.0, 5.0, 8.0, 5.0, 8.0]
        assert saved["ref_db"].shape == (5,)
        assert saved["fingerprint"] == SPEC.fingerprint == summary["fingerprint"]
        assert json.loads(str(saved["checkpoint"])) == {"run": str(run), **summary["checkpoint"]}
    stored = checkpoint.load(run / "checkpoints", "best")
    assert stored is not None
    weights = {name: array for name, array in stored.arrays.items() if name.startswith(("encoder/", "decoder/"))}
    assert summary["checkpoint"]["weights"] == checkpoint.digest(checkpoint.Checkpoint(weights, {}))
    assert summary["checkpoint"]["step"] == stored.state["step"]


def test_nothing_usable_ends_with_1_and_one_line(mixed: Path, run: Path, capsys) -> None:
    bad = [str(mixed / "Tones" / name) for name in ("silent.wav", "text.wav", "nothing.mp3")]
    assert main(["score", *bad, "--run", str(run)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "tfpipe: none of 3 files can be used; the lines above say why"
    assert sum(line.startswith("skipped: ") for line in lines) == 3


def test_people_get_a_line_for_each_track(mixed: Path, run: Path, capsys) -> None:
    assert main(["score", str(mixed / "Tones" / "*.flac"), "--run", str(run), "--which", "latest"]) == 0
    heading, track, total = capsys.readouterr().out.splitlines()
    assert heading.split() == ["mse", "KL", "windows", "silent", "track"]
    assert track.endswith("good.flac")
    assert track.split()[:4] == total.split()[:4]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--batch-size", "0"], 2, "batch_size=0 is out of range"),
        (["--hop-s", "0"], 2, "hop_s=0.0 is out of range"),
        (["--min-fill", "1.5"], 2, "min_fill=1.5 is out of range"),
        (["--latents", "out.csv"], 2, "ends in .npz"),
        (["--latents", "s3://bucket/out.npz"], 2, "must be a local folder"),
        (["--run", "elsewhere"], 1, "no training run here"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(mixed, run, capsys, options, code, message) -> None:
    assert main(["score", str(mixed), "--run", str(run), *options]) == code
    errors = capsys.readouterr().err.splitlines()
    assert message in errors[-1]
    assert "Traceback" not in "".join(errors)


def test_one_path_or_several_as_text_or_path_are_scored_alike(mixed: Path, run: Path) -> None:
    good = mixed / "Tones" / "good.flac"
    one, several = score(str(good), run=str(run), quiet=True), score([good], run=run, quiet=True)
    assert one.summary == several.summary
    (track,) = one.summary["tracks"]
    assert (track["path"], track["label"], track["windows"]) == (str(good), "Tones", 3)


@pytest.mark.skipif(TFIO_LOADS, reason="here it loads")
def test_where_tensorflow_io_does_not_load_the_error_says_which_lane_has_it(mixed: Path, run: Path, capsys) -> None:
    assert main(["score", str(mixed), "--run", str(run), "--decoder", "tensorflow-io"]) == 2
    assert "the default lane, where it can" in capsys.readouterr().err.splitlines()[-1]
