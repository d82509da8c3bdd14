"""The job reads from and writes to buckets of a local S3 server; gs:// is tested as far as it works without Google."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from job_tools import (
    config_for,
    count_without_beam,
    last_line,
    note,
    run_here,
    run_without_beam,
    spec_options,
    write_corpus,
)

from beam_jobs import files
from beam_jobs.corpus import discover
from beam_jobs.recompute import verify_deep
from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest, load_skipped
from tfpipe.data.statistics import inspect
from tfpipe.data.verify import verify
from tfpipe.errors import TfpipeError
from tfpipe.files import remote, s3
from tfpipe.spec import FeatureSpec

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--semitones", "0,4", "--chords", "")


def names(corpus):
    return [(file.name, file.label) for file in corpus.files]


def local_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def parted(found):
    """Returns a dataset's files without manifest and scans, and the manifest without the paths in it."""
    manifest = json.loads(found.pop("dataset.json"))
    found.pop(".scans.jsonl")
    return found, {**manifest, "config": {**manifest["config"], "inputs": "", "output": "", "base": ""}}


def test_a_job_between_buckets_gives_the_dataset_of_a_job_between_folders(
    store, small_corpus, in_process, tmp_path, capsys
):
    recordings = store.put_folder(small_corpus, "takes/recordings")
    store.put("takes/recordings/Piano/broken.wav", b"RIFF no audio")
    assert main(["preprocess", recordings, "--output", store.url("data"), "--json", *FAST]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])

    corpus = tmp_path / "recordings"
    corpus.mkdir()
    for label in {path.parent for path in small_corpus.glob("*/*")}:
        (corpus / label.name).mkdir()
        for path in label.iterdir():
            (corpus / label.name / path.name).symlink_to(path)
    (corpus / "Piano" / "broken.wav").write_bytes(b"RIFF no audio")
    changes = {"spec": FeatureSpec(), "shard_bytes": 2**27, "semitones": (0, 4), "chords": ()}
    run_without_beam(config_for(corpus, tmp_path / "data", **changes))

    (theirs, their_manifest), (ours, our_manifest) = parted(local_files(tmp_path / "data")), parted(store.get("data"))
    skipped = json.loads(ours.pop("skipped.jsonl")), json.loads(theirs.pop("skipped.jsonl"))
    assert [(row["path"], row["code"]) for row in skipped] == [("Piano/broken.wav", "undecodable")] * 2
    for dataset_files in (ours, theirs):
        dataset_files.pop("croissant.json")  # it holds the checksum of skipped.jsonl
    assert ours == theirs
    assert our_manifest == their_manifest
    assert summary == inspect(tmp_path / "data")

    before = store.get("data")
    assert main(["preprocess", recordings, "--output", store.url("data"), *FAST]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert store.get("data") == before


@pytest.mark.slow
def test_two_workers_get_beams_options_and_give_the_same_bytes_in_any_order_without_tensorflow(
    endpoint, store, job_corpus, job_dataset, monkeypatch, tmp_path, capsys
):
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", str(trap.parent))
    recordings = store.put_folder(job_corpus, "in")
    shuffled = [f"{recordings}/Piano", *(f"{recordings}/Human/{index}.wav" for index in reversed(range(6)))]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3._connection.cache_clear()
    options = [f"--s3_endpoint_url={endpoint}", "--s3_access_key_id=us", "--s3_secret_access_key=secret"]
    arguments = [*shuffled, "--output", store.url("out"), "--shard-mib", "0.0625", "--workers", "2", *spec_options()]
    assert main(["preprocess", *arguments, "--", *options]) == 0, capsys.readouterr().err
    ours, theirs = parted(store.get("out"))[0], parted(local_files(job_dataset))[0]
    assert ours == theirs
    assert ours["skipped.jsonl"] == b""
    assert b"secret" not in store.get("out")["dataset.json"]
    assert not (tmp_path / "imported").exists()


def test_audio_suffixes_decide_in_buckets(store, tmp_path):
    for name in (
        *("in/A/one.wav", "in/A/two.FLAC", "in/B/deep/three.mp3", "in/A/notes.txt", "in/A/noname", "in/.hidden/x.wav"),
        *("in/A/.x.wav", "in/work/stages.json", "in/work/check/made.wav", "in/[1] é?*/four.wav", "in-other/x.wav"),
    ):
        store.put(name, b"x")
    for name in ("in/", "in/A/", "in/C.wav/"):
        store.put(name, b"")
    first = [("A/one.wav", "A"), ("A/two.FLAC", "A"), ("B/deep/three.mp3", "deep"), ("[1] é?*/four.wav", "[1] é?*")]
    assert names(discover([store.url("in")])) == names(discover([store.url("in/")])) == first
    assert discover([store.url("in/")]).base == store.url("in")
    assert names(discover([store.url("in/[1] é?*")])) == [("four.wav", "[1] é?*")]
    assert names(discover([store.url("in/?/*")])) == first[:3]
    assert names(discover([store.url("in/**/*.mp3")])) == [("three.mp3", "deep")]
    assert names(discover([store.url("in/A"), store.url("in/B")])) == first[:3]
    assert names(discover([store.url("in/A/noname")])) == [("noname", "A")]
    for nothing in ("no", "in/no", "in/x*", "in/A/on"):
        with pytest.raises(TfpipeError, match="nothing is there"):
            discover([store.url(nothing)])
    with pytest.raises(TfpipeError, match="no audio files"):
        discover([store.url("in/work")])
    soundfile.write(tmp_path / "here.wav", note(220, 1.0, 16_000), 16_000)
    mixed = discover([store.url("in/B"), str(tmp_path)])
    assert mixed.base == ""
    assert names(mixed) == [(str(tmp_path / "here.wav"), tmp_path.name), (store.url("in/B/deep/three.mp3"), "deep")]


def test_globs_match_in_buckets_what_they_match_in_folders(store, job_corpus):
    store.put_folder(job_corpus, "in")
    for pattern in ("*", "*/", "*/*.wav", "**", "**/*.wav", "[!P]*", "?uman/[0-2].wav", "H*/0*"):
        there, here = discover([f"{store.url('in')}/{pattern}"]), discover([f"{job_corpus}/{pattern}"])
        assert [file.path.removeprefix(store.url("in")) for file in there.files] == [
            file.path.removeprefix(str(job_corpus)) for file in here.files
        ]
        assert [file.label for file in there.files] == [file.label for file in here.files]


def test_lists_and_groups_may_be_in_buckets(store, tmp_path):
    for name in ("a.wav", "more/b.wav", "c"):
        store.put(f"in/{name}", b"x")
    store.put("in/list.csv", f"path,label\na.wav,A\n../in/more/b.wav,B\n{store.url('in/c')},C\ngone.wav,A\n".encode())
    store.put("in/groups.jsonl", b'{"path": "a.wav", "group": "g"}\n')
    found = discover([store.url("in/list.csv")], groups=store.url("in/groups.jsonl"))
    assert [(file.name, file.label, file.group) for file in found.files] == [
        *(("a.wav", "A", "g"), ("c", "C", ""), ("gone.wav", "A", ""), ("more/b.wav", "B", "")),
    ]
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": store.url("in/a.wav"), "label": "A"}))
    (here,) = discover([str(tmp_path / "list.jsonl")]).files
    assert here.path == here.name == store.url("in/a.wav")
    store.put("in/wrong.csv", b"path,label\n,A\n")
    with pytest.raises(TfpipeError, match=r"in/wrong.csv:2: no text for 'path'"):
        discover([store.url("in/wrong.csv")])


@pytest.mark.slow
def test_a_missing_object_of_a_list_is_reported(store, job_corpus):
    rows = "".join(f"Human/{index}.wav,Human\n" for index in range(8))
    store.put_folder(job_corpus, "in")
    store.put("in/list.csv", f"path,label\n{rows}".encode())
    run_without_beam(config_for(store.url("in/list.csv"), store.url("out")))
    assert [(row.path, row.code) for row in load_skipped(store.url("out"))] == [
        *(("Human/6.wav", "missing"), ("Human/7.wav", "missing")),
    ]


@pytest.mark.slow
def test_verify_and_inspect_read_buckets(store, job_corpus, job_dataset, capsys):
    recordings = store.put_folder(job_corpus, "in")
    run_without_beam(config_for(recordings, store.url("data")))
    url = store.url("data")
    assert verify(url) == []
    assert main(["verify", url, "--deep", "6", "--json"]) == 0
    deep = json.loads(capsys.readouterr().out.splitlines()[-1])["deep"]
    assert (deep["checked"], deep["unavailable"]) == (6, [])
    assert main(["inspect", url, "--json"]) == 0
    there = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["inspect", str(job_dataset), "--json"]) == 0
    assert there == json.loads(capsys.readouterr().out.splitlines()[-1])

    store.put("in/Human/0.wav", b"other")
    (changed,) = verify_deep(url, count=6).unavailable
    assert changed.startswith(f"{recordings}/Human/0.wav: has changed since the dataset was made")

    shards = [name for name in store.names("data/") if name.startswith("train-")]
    whole = store.get("data")[shards[0]]
    store.put(f"data/{shards[0]}", whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    store.client.delete_object(Bucket=store.bucket, Key=f"data/{shards[1]}")
    store.put("data/train-00000-of-00001.tfrecord", whole)
    assert main(["verify", url]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{url}/train-00000-of-00001.tfrecord: not in the manifest (extra shard)"
    assert lines[1] == f"{url}/{shards[0]}: damaged record at byte 0 (checksum differs)"
    assert lines[2:] == [f"{url}/{shards[1]}: missing shard"]


@pytest.mark.slow
def test_kill_in_the_middle_then_resume(store, job_corpus, job_dataset, monkeypatch, capsys):
    recordings = store.put_folder(job_corpus, "in")
    code = "import sys; from tfpipe.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = ["preprocess", recordings, "--output", store.url("out"), "--shard-mib", "0.0625", *spec_options()]
    job = subprocess.Popen([sys.executable, "-c", code, *command], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        end = time.monotonic() + 120
        while not [name for name in store.names("out/.work/") if name.endswith(".tfrecord.json")]:
            assert job.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        job.kill()
        job.wait()
    assert "dataset.json" not in store.names("out/")
    with pytest.raises(TfpipeError, match="no complete dataset here"):
        load_manifest(store.url("out"))

    assert main(command) == 1
    assert re.search(r"another preprocessing job .* if it was killed, run this again in \d+ s", last_line(capsys))
    store.put("out/.work/x.tfrecord.tmp-1", b"half")
    monkeypatch.setattr(files, "_LAPSE_S", 0.0)
    with files.held(store.url("out"), what="job"):
        counts = count_without_beam(config_for(recordings, store.url("out")))
    assert counts["copied"] > 0
    assert parted(store.get("out"))[0] == parted(local_files(job_dataset))[0]


@pytest.mark.slow
def test_a_failing_job_leaves_the_old_dataset_whole(store, tmp_path):
    corpus = write_corpus(tmp_path, tracks=2)
    config = config_for(store.put_folder(corpus, "in"), store.url("out"), semitones=(0,), chords=())
    run_without_beam(config)
    before = store.get("out")
    for index in range(6):
        store.put(f"in/Human/broken-{index}.wav", b"no audio")
    with pytest.raises(TfpipeError, match="cannot be used"):
        run_here(config)
    assert {name: body for name, body in store.get("out").items() if not name.startswith(".work/")} == before
    for index in range(6):
        store.client.delete_object(Bucket=store.bucket, Key=f"in/Human/broken-{index}.wav")
    store.client.delete_object(Bucket=store.bucket, Key="in/Human/0.wav")
    run_without_beam(config)
    after = store.get("out")
    assert after["tracks.jsonl"].count(b"\n") == before["tracks.jsonl"].count(b"\n") - 1
    assert not [name for name in after if name.startswith((".work", ".lock"))]


@pytest.mark.slow
def test_two_jobs_do_not_share_a_folder(store, monkeypatch):
    url = store.url("out")
    with files.held(url, what="job"):
        with pytest.raises(TfpipeError, match=rf"another job \(process {os.getpid()} on .* is working here"):
            files.held(url, what="job").__enter__()
        assert len(store.names("out/")) == 1
    assert store.names("out/") == []
    # A running job renews its lock; a lock that is not renewed is old. The store's clock counts whole seconds.
    monkeypatch.setattr(files, "_BEAT_S", 0.1)
    monkeypatch.setattr(files, "_LAPSE_S", 1.5)
    store.put("other/.lock-dead", b"{}")
    with files.held(url, what="job"):
        time.sleep(3.0)
        with pytest.raises(TfpipeError, match="is working here"):
            files.held(url, what="job").__enter__()
    with files.held(store.url("other"), what="job"):
        assert ".lock-dead" not in store.names("other/")


def test_a_window_is_read_without_fetching_the_whole_object(store):
    """Reading a window of a long recording fetches little more than its bytes, not Beam's 16 MiB."""
    store.put("big", bytes(range(256)) * 2**16)
    with remote.open_read(store.url("big")) as file:
        file.seek(10_000_000)
        assert file.read(4) == bytes([128, 129, 130, 131])
        assert isinstance(file, io.BufferedReader)
        assert file.raw.tell() - 10_000_000 < 2**20


def test_a_name_that_s3_cannot_have_is_an_error_of_that_file(store):
    with pytest.raises(OSError, match="S3 path"):
        remote.open_read(store.url("a\nb.wav"))


def test_no_connection_is_made_twice(store):
    """Making a boto3 client takes 0.1 s of CPU, and Beam would make one for every request."""
    made = s3._connection.cache_info
    for _ in range(3):
        assert not remote.exists(store.url("nothing"))
        files.write(store.url("a"), b"a")
    assert made().misses == made().currsize == 2  # one for the first request, one for all others
