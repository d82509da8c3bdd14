import json

import pytest
from job_tools import write_corpus

from tfpipe.bench import formats, preprocess
from tfpipe.cli.main import main


@pytest.mark.slow
def test_preprocess_gives_ratios_of_one_run(tmp_path, capsys, monkeypatch):
    # The same steps with less work, and two sizes of the corpus instead of three: each job takes seconds to start.
    monkeypatch.setattr(preprocess, "_JOB_S", 0.2)
    monkeypatch.setattr(preprocess, "_SIZES", (1, 2))
    monkeypatch.setattr(preprocess, "_ENGINE_ROUNDS", 1)
    monkeypatch.setattr(preprocess, "_REPEATS", 5)
    monkeypatch.setattr(preprocess, "_FORMAT_S", 5.0)
    monkeypatch.setattr(preprocess, "SEMITONES", (-5.0, 0.0, 6.0))
    monkeypatch.setattr(formats, "RATES", (44_100,))
    monkeypatch.setattr(formats, "FORMATS", {"mp3": formats.FORMATS["mp3"]})
    corpus = write_corpus(tmp_path / "corpus", tracks=1, seconds=6.0, rate=22_050)
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
    assert results["corpus of 1x to 2x"]["ratio"] == 1.0
    assert 0.5 < results["corpus of 2x: peak of a process"]["ratio"] < 1.5
    assert results["stereo 44.1 kHz mp3: windows read"]["ratio"] > 0.2  # above 1 on an idle machine
    assert results["stereo 44.1 kHz mp3: job, per core"]["unit"] == "examples/s"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nothing"], "unknown benchmark 'nothing'; use preprocess,"), (["preprocess", "--rounds", "0"], "rounds=0")],
)
def test_what_cannot_be_measured_is_refused(arguments, words, capsys):
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
