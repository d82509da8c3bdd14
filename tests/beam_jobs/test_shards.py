"""Writing a shard: what a killed job left is used if it is whole, and a recording that changes is noticed."""

import os
import shutil
import subprocess

import pytest
import soundfile
from job_tools import config_for, note, run_here, run_without_beam, shard_bytes

from beam_jobs import pipeline
from beam_jobs.corpus import discover
from beam_jobs.plan import make_plan
from beam_jobs.scan import scan_track
from beam_jobs.shards import shard_path, write_shard
from tfpipe.errors import TfpipeError


def test_a_recording_that_changes_during_the_job_is_refused(job_corpus, tmp_path):
    source = shutil.copytree(job_corpus, tmp_path / "in")
    config = config_for(source, tmp_path / "out")
    plan = make_plan([scan_track(file, config) for file in discover(config.inputs).files], skipped=(), config=config)
    victim = plan.shards[0].tracks[0].path
    soundfile.write(victim, note(500, 3, 16_000), 16_000)
    with pytest.raises(TfpipeError, match="changed while the job was reading it"):
        write_shard(plan.shards[0], config=config, folder=str(tmp_path / "w"))
    assert list((tmp_path / "w").iterdir()) == []


def test_a_damaged_shard_of_a_killed_job_is_not_used(job_corpus, job_dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "publish", lambda job: None)
        with pytest.raises(TfpipeError, match="no complete dataset"):
            run_without_beam(config_for(job_corpus, tmp_path / "out"))
    leftovers = sorted((tmp_path / "out" / ".work").glob("*/*.tfrecord"))
    data = bytearray(leftovers[0].read_bytes())
    data[100] ^= 1
    leftovers[0].write_bytes(data)
    run_without_beam(config_for(job_corpus, tmp_path / "out"))
    assert shard_bytes(tmp_path / "out") == shard_bytes(job_dataset)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount a small file system")
def test_a_full_disk_is_reported_and_the_next_job_keeps_the_finished_shards(job_corpus, job_dataset, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        with pytest.raises(
            TfpipeError, match=r"small/out.*: disk full; free some space and run the same command again"
        ):
            run_here(config_for(job_corpus, small / "out"))
        assert not (small / "out" / "dataset.json").exists()
        done = [path.with_suffix("") for path in (small / "out" / ".work").glob("*/*.tfrecord.json")]
        assert done
        kept = {path.stat().st_ino for path in done}
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        run_without_beam(config_for(job_corpus, small / "out"))
        assert kept <= {path.stat().st_ino for path in (small / "out").glob("*.tfrecord")}
        assert shard_bytes(small / "out") == shard_bytes(job_dataset)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_digest_cannot_name_a_file_elsewhere():
    assert shard_path("work", "0123abc") == "work/0123abc.tfrecord"
    for digest in ("../../secret", "/etc/passwd", ""):
        with pytest.raises(TfpipeError, match="a shard cannot have the digest"):
            shard_path("work", digest)
