"""`tfpipe bench plan` reports time and memory of planning; the values depend on the machine."""

import json

import pytest

from tfpipe.cli.main import main


@pytest.mark.slow
def test_a_plan_without_audio_is_measured(capsys):
    assert main(["bench", "plan", "--tracks", "375", "--labels", "7", "--workers", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = {row["name"].removeprefix("375 tracks: "): row["value"] for row in report["results"]}
    assert found["shards"] > 8
    assert found["CPU time"] > 0
    assert 50 < found["peak of the pipeline's process"] < 1024
    assert 500 < found["text between steps"] < 3000


def test_a_plan_of_no_track_is_refused(capsys):
    assert main(["bench", "plan", "--tracks", "10", "0"]) == 2
    assert "--tracks, --labels, --workers and --rounds must be at least 1" in capsys.readouterr().err.splitlines()[-1]
