"""The commands of BUCKETS.md run as they stand there, on a local S3 server instead of `bucket`."""

import shutil

import pytest
import soundfile
from page_snippets import Recipe, find, run_shell

from tfpipe.data.manifest import load_manifest, load_tracks


@pytest.mark.slow
def test_the_commands_run_on_a_store(store, endpoint, few_recordings, recordings, in_process, tmp_path, monkeypatch):
    store.put_folder(few_recordings, "recordings")
    monkeypatch.chdir(tmp_path)
    audio, rate = soundfile.read(recordings[0])
    soundfile.write(tmp_path / "take.flac", audio, rate)
    store.put("takes/first/take.flac", (tmp_path / "take.flac").read_bytes())
    shutil.copytree(next(path for path in few_recordings.iterdir() if path.is_dir()), tmp_path / "local" / "voice")
    (block,) = find("docs/BUCKETS.md", "s3://bucket/recordings")
    # The second job of the block writes into `data` what the third one replaces.
    recipe = Recipe(
        replace={"s3://bucket": store.url("")[:-1], "http://localhost:9000": endpoint},
        leave_out={
            "pip install": "installs",
            "export AWS_ACCESS_KEY_ID": "the test's own keys are set already",
            "export AWS_ENDPOINT_URL": "set already",
        },
    )
    run_shell(block, recipe, lambda: (0, 0))
    in_bucket, here = load_manifest(store.url("data")), load_manifest(tmp_path / "data")
    assert in_bucket.fingerprint == here.fingerprint
    assert len(load_tracks(tmp_path / "data")) == len(load_tracks(store.url("data")))
