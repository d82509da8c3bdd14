"""Bad input: one job over every odd file that `hostile` can make, and each file alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
from job_memory import ROOT, run_watched, spec_options
from job_tools import write_corpus

from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest, load_skipped, load_tracks

# Decodes each file named on stdin within 300 MB more than it has after its imports.
_ALONE = """
import json, os, re, resource, sys, time
from tfpipe.audio.reader import probe, read_window
from tfpipe.errors import AudioError
from tfpipe.spec import FeatureSpec
have = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (have + 300 * 2**20,) * 2)
for name in json.load(sys.stdin):
    started = time.monotonic()
    try:
        info = probe(name)
        for start in (0.0, max(0.0, info.seconds - 5.0)):
            read_window(name, start_s=start, spec=FeatureSpec(), info=info)
        outcome = "audio"
    except AudioError as error:
        outcome = error.code if "\\n" not in str(error).replace(name, "") else "more than a line"
    except BaseException as error:
        outcome = f"raised {error!r}"
    print(json.dumps([name, outcome, time.monotonic() - started]), flush=True)
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    hostile.make_all(folder / "odd")
    write_corpus(folder, tracks=4)
    return folder


@pytest.mark.slow
def test_one_job_over_all_of_them(odd, tmp_path):
    assert len(hostile.CASES) >= 60
    output = tmp_path / "data"
    arguments = ["preprocess", odd, "--output", output, "--max-skipped", "1", "--json"]
    code, _, errors, peaks = run_watched([*arguments, *spec_options()], seconds=300)
    assert code == 0, errors
    assert "Traceback" not in errors
    assert peaks[-1] < 2**30, peaks
    assert main(["verify", str(output)]) == 0
    tracks = {track.path: track for track in load_tracks(output)}
    skipped = {row.path: row for row in load_skipped(output)}
    assert not tracks.keys() & skipped.keys()
    good = {f"{label}/{index}.wav" for label in ("Human", "Piano") for index in range(4)}
    assert tracks.keys() | skipped.keys() == good | {f"odd/{name}" for name in hostile.CASES}
    assert good <= tracks.keys()
    outcomes = {path.removeprefix("odd/"): "track" for path in tracks}
    outcomes |= {path.removeprefix("odd/"): row.code for path, row in skipped.items()}
    wrong = {name: outcomes[name] for name, (_, allowed) in hostile.CASES.items() if outcomes[name] not in allowed}
    assert not wrong
    assert all("\n" not in row.message and len(row.message) < 800 for row in skipped.values())
    per_track = {track.path: track.windows * track.variants for track in tracks.values()}
    assert all(per_track.values())
    assert sum(shard.examples for shard in load_manifest(output).shards) == sum(per_track.values())


def test_each_file_alone_is_audio_or_a_reason(odd):
    names = [str(odd / "odd" / name) for name in hostile.CASES]
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        input=json.dumps(names),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in results] == names, done.stderr[-500:]
    assert max(seconds for _, _, seconds in results) < 10
    wrong = {}
    for name, outcome, _ in results:
        allowed = hostile.CASES[Path(name).name][1]
        # What is too short or silent for a track is audio all the same; damage may lie beside the two windows.
        as_audio = {"track", "too_short", "silent"} & {*allowed} or {"damaged", "truncated"} & {*allowed}
        if outcome not in allowed and not (outcome == "audio" and as_audio):
            wrong[name] = outcome
    assert not wrong
