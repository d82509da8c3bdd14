"""A wav that is sent while it is made."""

import io

import numpy as np
import pytest
import soundfile

from tfpipe.audio.wav import write_long_wav
from tfpipe.audio.wav_stream import wav_stream

RATE = 8000


def sound():
    rng = np.random.default_rng(3)
    audio = rng.normal(scale=0.3, size=5000).astype(np.float32)
    audio[[1200, 1999, 2000, 4990]] = 2.5
    return audio


@pytest.mark.parametrize("size", [1, 7, 50, 1000, 5000])
def test_the_stream_is_what_a_file_of_the_same_sound_holds(tmp_path, size):
    audio = sound()[: 500 if size == 1 else None]
    pieces = [audio[at : at + size] for at in range(0, len(audio), size)]
    write_long_wav(tmp_path / "a.wav", pieces, RATE, fade_s=0.01)
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    data = b"".join(wav_stream(pieces, RATE, samples=len(audio), fade_s=0.01))
    found, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == RATE
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_sound_without_an_end_has_a_header_that_players_read_on_from():
    audio = sound()
    [head, *rest] = wav_stream(iter([audio, audio]), RATE)
    assert (len(head), head[:4], head[4:8], head[8:16], head[40:]) == (
        44,
        b"RIFF",
        b"\xff" * 4,
        b"WAVEfmt ",
        b"\xff" * 4,
    )
    assert sum(map(len, rest)) == 4 * len(audio)
    assert len(rest) == 3


def test_a_sound_is_sent_before_the_next_piece_is_made():
    def pieces():
        yield sound()
        raise AssertionError("the next piece is not needed yet")

    stream = wav_stream(pieces(), RATE)
    assert len(next(stream)) == 44
    assert len(next(stream)) > 9000
