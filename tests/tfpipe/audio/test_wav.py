"""Writing wav files: samples, scaling, and failures."""

import resource
import signal

import numpy as np
import pytest
import soundfile

from tfpipe.audio.wav import write_long_wav, write_wav
from tfpipe.errors import TfpipeError


def test_samples_are_written_with_16_bits(tmp_path):
    audio = np.array([0.0, 0.5, -1.0])
    write_wav(str(tmp_path / "new" / "x.wav"), audio, 16_000)
    read, rate = soundfile.read(tmp_path / "new" / "x.wav", dtype="int16")
    assert (read.tolist(), rate) == ([0, 2**14, -(2**15)], 16_000)


def test_audio_that_would_clip_is_scaled_down(tmp_path):
    write_wav(tmp_path / "x.wav", np.array([0.5, -2.0]), 16_000)
    assert soundfile.read(tmp_path / "x.wav")[0] == pytest.approx([0.25, -1.0], abs=1e-4)


def test_a_long_wav_is_that_of_its_pieces_joined(tmp_path):
    rng = np.random.default_rng(0)
    for level in (0.1, 2.0):
        audio = (level * rng.standard_normal(100_000)).astype(np.float32)
        write_wav(tmp_path / "whole.wav", audio, 22_050)
        pieces = np.split(audio, [1, 1, 70_000])
        assert write_long_wav(tmp_path / "long.wav", iter(pieces), 22_050) == len(audio)
        whole, long = (soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0] for name in ("whole", "long"))
        assert np.abs(whole.astype(int) - long).max() <= 1
    with pytest.raises(TfpipeError, match="NaN"):
        write_long_wav(tmp_path / "bad.wav", [audio, np.array([np.nan])], 22_050)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.wav", "whole.wav"]


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
