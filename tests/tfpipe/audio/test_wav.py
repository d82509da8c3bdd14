"""Writing wav files: samples, peaks, ends, and failures."""

import resource
import signal

import numpy as np
import pytest
import soundfile

from tfpipe.audio import wav
from tfpipe.audio.level import EDGE_FADE_S
from tfpipe.audio.wav import write_long_wav, write_wav
from tfpipe.errors import TfpipeError


def test_samples_are_written_with_16_bits(tmp_path):
    audio = np.array([0.0, 0.5, -1.0])
    write_wav(str(tmp_path / "new" / "x.wav"), audio, 16_000)
    read, rate = soundfile.read(tmp_path / "new" / "x.wav", dtype="int16")
    assert (read.tolist(), rate) == ([0, 2**14, -(2**15)], 16_000)


def test_a_peak_that_would_clip_is_limited_and_the_rest_is_kept(tmp_path):
    audio = np.full(20_000, 0.5)
    audio[10_000] = -2.0
    write_wav(tmp_path / "x.wav", audio, 16_000)
    read = soundfile.read(tmp_path / "x.wav")[0]
    assert read[10_000] == pytest.approx(-1.0, abs=1e-4)
    assert read[:9_000] == pytest.approx(0.5, abs=1e-4)
    assert read[11_000:] == pytest.approx(0.5, abs=1e-4)


def test_a_long_wav_is_that_of_its_pieces_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(wav, "_BLOCK", 7_000)
    rng = np.random.default_rng(0)
    for level in (0.1, 0.3):  # of the louder one, a few samples exceed full scale
        audio = (level * rng.standard_normal(100_000)).astype(np.float32)
        write_wav(tmp_path / "whole.wav", audio, 22_050, fade_s=0.01)
        pieces = np.split(audio, [1, 1, 70_000])
        assert write_long_wav(tmp_path / "long.wav", iter(pieces), 22_050, fade_s=0.01) == len(audio)
        whole, long = (soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0] for name in ("whole", "long"))
        assert np.abs(whole.astype(int) - long).max() <= 1
        assert np.abs(whole[:5]).max() <= np.abs(whole).max() / 100
    with pytest.raises(TfpipeError, match="NaN"):
        write_long_wav(tmp_path / "bad.wav", [audio, np.array([np.nan])], 22_050)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.wav", "whole.wav"]


def test_a_made_sound_does_not_begin_or_end_with_a_click(tmp_path):
    write_wav(tmp_path / "x.wav", np.full(22_050, 0.8), 22_050, fade_s=EDGE_FADE_S)
    read = soundfile.read(tmp_path / "x.wav")[0]
    for edge, beside in ((read[:220], read[220:440]), (read[-220:], read[-440:-220])):
        assert np.square(edge).mean() < 0.5 * np.square(beside).mean()
    assert np.abs(np.diff(read, prepend=0.0, append=0.0)).max() < 0.01


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, capfd):
    audio = np.zeros(100_000)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(TfpipeError, match=r"a\.wav: cannot be written .* is the disk full\?$"):
            write_wav(tmp_path / "a.wav", audio, 22_050)
        with pytest.raises(TfpipeError, match=r"b\.wav: cannot be written .* is the disk full\?$"):
            write_long_wav(tmp_path / "b.wav", [audio], 22_050)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""
