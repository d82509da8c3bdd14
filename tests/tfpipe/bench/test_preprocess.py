import json

import pytest
from job_tools import write_corpus

from tfpipe.bench import preprocess
from tfpipe.cli.main import main


@pytest.mark.slow
def test_preprocess_gives_ratios_of_one_run(tmp_path, capsys, monkeypatch):
    # The same steps with less work.
    monkeypatch.setattr(preprocess, "_JOB_S", 0.5)
    monkeypatch.setattr(preprocess, "_BASE_S", 50.0)
    monkeypatch.setattr(preprocess, "_ENGINE_ROUNDS", 2)
    monkeypatch.setattr(preprocess, "SEMITONES", (-5.0, 0.0, 3.0, 6.0))
    corpus = write_corpus(tmp_path / "corpus", tracks=2, seconds=6.0, rate=22_050)
    assert main(["bench", "preprocess", str(corpus), "--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bench"] == "preprocess"
    results = {row["name"]: row for row in report["results"]}
    assert all(set(row) == {"name", "value", "unit", "against", "ratio"} for row in report["results"])
    assert results["notebook loop"]["ratio"] == 1.0
    assert results["spectral engine"]["against"] == "baseline"
    assert results["spectral engine"]["ratio"] > 5  # 20 and more on an idle machine
    assert results["waveform engine"]["ratio"] > 0.3
    assert results["Beam job, 1 process"]["against"] == "limit"
    assert {"plain loop", "Beam job, 2 processes", "Beam job, 1 process: start"} <= set(results)
    assert results["corpus of 4x to 16x"]["ratio"] > 0
    assert 0.5 < results["corpus of 16x: peak of a process"]["ratio"] < 1.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nothing"], "unknown benchmark 'nothing'; use preprocess,"), (["preprocess", "--rounds", "0"], "rounds=0")],
)
def test_what_cannot_be_measured_is_refused(arguments, words, capsys):
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
