import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from job_tools import config_for, run_without_beam, write_corpus

from beam_jobs.recompute import verify_deep
from tfpipe.cli.main import main
from tfpipe.data.manifest import MANIFEST, load_manifest, load_tracks
from tfpipe.data.records import decode_example, encode_example, read_records, write_record
from tfpipe.data.verify import verify
from tfpipe.files.storage import sha256_file

VARIED = {
    "semitones": (0, 2),
    "chords": ("0:4@-3",),
    "stretch": (0.9, 1.25),
    "gains": (-6,),
    "noise_snr": (20,),
    "also": ("shift+2+noise10dB",),
}


@pytest.fixture(scope="module", params=["spectral", "waveform"])
def varied(request, tmp_path_factory):
    """A dataset with every kind of variant, and its recordings, whose sample rate is not that of the features."""
    folder = tmp_path_factory.mktemp("varied")
    corpus = write_corpus(folder / "corpus", tracks=2, seconds=1.2, rate=22_050)
    run_without_beam(config_for(corpus, folder / "data", engine=request.param, **VARIED))
    return folder / "data", corpus


def damaged(folder, copy, change):
    """Copies a dataset with one changed training example and right checksums, so that only the recordings show it."""
    shutil.copytree(folder, copy)
    manifest = load_manifest(copy)
    shard = next(shard for shard in manifest.shards if shard.split == "train")
    path = copy / shard.name
    examples = [decode_example(data, manifest.spec.mel_shape) for data in read_records(path)]
    examples[3] = change(examples[3])
    with open(path, "wb") as file:
        for example in examples:
            write_record(file, encode_example(example))
    shards = [
        dataclasses.replace(row, sha256=sha256_file(copy / row.name), bytes=(copy / row.name).stat().st_size)
        for row in manifest.shards
    ]
    manifest = dataclasses.replace(manifest, shards=tuple(shards))
    (copy / MANIFEST).write_text(json.dumps(manifest.to_dict()))
    assert verify(copy) == []
    return path, examples[3].key


def test_every_variant_can_be_computed_again_from_its_record(varied):
    folder, _ = varied
    total = sum(shard.examples for shard in load_manifest(folder).shards)
    seen = []
    check = verify_deep(folder, count=10**6, on_example=lambda: seen.append(1))
    assert (check.checked, check.problems, check.unavailable) == (total, [], [])
    assert len(seen) == total
    assert verify_deep(folder, count=7).checked == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda example: dataclasses.replace(example, mel=np.where(example.mel == example.mel[5, 5], 7, example.mel)),
        lambda example: dataclasses.replace(example, ref_db=example.ref_db + 0.01),
    ],
    ids=["codes", "level"],
)
def test_an_example_that_its_recording_does_not_give_is_named(varied, change, tmp_path, capsys):
    path, key = damaged(varied[0], tmp_path / "copy", change)
    check = verify_deep(tmp_path / "copy", count=10**6)
    (problem,) = check.problems
    assert str(path) in problem
    assert key in problem
    assert main(["verify", str(tmp_path / "copy"), "--deep", "1000000", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["deep"]["problems"] == [problem]


def test_missing_and_changed_recordings_are_reported_without_failure(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", tracks=2)
    run_without_beam(config_for(corpus, tmp_path / "data"))
    gone, changed, *_ = (Path(corpus / track.path) for track in load_tracks(tmp_path / "data"))
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"x")
    assert main(["verify", str(tmp_path / "data"), "--deep", "1000"]) == 0
    said = capsys.readouterr().err
    assert f"{gone}: no such file" in said
    assert f"{changed}: has changed" in said


def test_a_sample_cannot_be_negative(job_dataset, capsys):
    assert main(["verify", str(job_dataset), "--deep=-1"]) == 2
    assert "--deep -1" in capsys.readouterr().err
