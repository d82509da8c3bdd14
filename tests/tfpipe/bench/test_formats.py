"""The limit that the job's decoding is compared with is a fair one: it gives the same sound."""

import numpy as np
import pytest
from job_tools import config_for, note

from tfpipe.audio.reader import TrackReader, probe
from tfpipe.bench import formats
from tfpipe.bench.formats import FORMATS, bench_formats, decode_plainly, write_recording
from tfpipe.errors import TfpipeError


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_files_are_stereo_of_each_format_and_the_limit_decodes_all_of_them(suffix, tmp_path):
    left = note(330.0, 2.0, 44_100)
    path = tmp_path / f"x.{suffix}"
    write_recording(path, np.stack([left, 0.5 * left], axis=1), 44_100)
    info = probe(path)
    assert (info.channels, info.sample_rate) == (2, 44_100)
    assert info.seconds == pytest.approx(2.0, abs=0.1)
    assert decode_plainly(path, 22_050) == pytest.approx(44_100, abs=2_300)
    with TrackReader(path) as reader:
        audio = reader.read(0, 40_000, rate=44_100)
    ours, theirs = audio[5000:30_000], 0.75 * left
    lag = int(np.argmax(np.correlate(theirs[:35_000], ours, "valid")))
    assert np.corrcoef(ours, theirs[lag : lag + 25_000])[0, 1] > 0.98


def test_every_file_is_measured_against_the_limit(job_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "RATES", (48_000,))
    monkeypatch.setattr(formats, "FORMATS", {suffix: FORMATS[suffix] for suffix in ("wav", "m4a")})
    results = bench_formats(config_for(job_corpus, tmp_path / "out"), rounds=1, seconds=2.0)
    by_name = {row.name: row for row in results}
    assert len(by_name) == len(results) == 2 * 4
    for suffix in ("wav", "m4a"):
        windows, job = (by_name[f"stereo 48 kHz {suffix}: {what}"] for what in ("windows read", "job"))
        assert (windows.unit, windows.against) == (job.unit, job.against) == ("x time", "limit")
        assert windows.value > job.value > 0
        # Each second has two windows, with five shifts and a chord each.
        assert by_name[f"{job.name}, per core"].value == pytest.approx(job.value * 12, rel=0.1)


def test_without_audio_there_is_nothing_to_measure(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(TfpipeError, match="in"):
        bench_formats(config_for(tmp_path / "in", tmp_path / "out"), rounds=1, seconds=1.0)
