"""`tfpipe bench serve` runs and reports every comparison; the values depend on the machine."""

import json

import pytest
from serving_tools import run_command

from tfpipe.bench import serving
from tfpipe.errors import UsageError


@pytest.mark.slow
def test_bench_serve(exported, capsys, monkeypatch):
    # The same steps with less work.
    monkeypatch.setattr(serving, "_TIMING_S", 0.05)
    monkeypatch.setitem(serving.bench_serve.__kwdefaults__, "pairs", 10)
    assert run_command("bench", "serve", exported.path.parent, "--rounds", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bench"] == "serve"
    found = {result["name"]: result for result in report["results"]}
    assert all(result["value"] > 0 for name, result in found.items() if "added" not in name)
    assert {result["against"] for result in found.values()} == {"baseline", "limit", None}
    assert found["first decode after the start"]["ratio"] > 0
    assert len(found) == len(report["results"]) == 32


def test_bench_serve_needs_one_model(tmp_path):
    for inputs in ([], [tmp_path, tmp_path]):
        with pytest.raises(SystemExit):
            run_command("bench", "serve", *inputs)
    with pytest.raises(UsageError, match="exported"):
        run_command("bench", "serve", tmp_path)
