"""Recordings behind a URL: they read as local files do, little is fetched, and a lost connection is no damage."""

import io

import numpy as np
import pytest
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.localfilesystem import LocalFileSystem
from audio_files import random_reads, read, write_any

from tfpipe.audio.reader import TrackReader, is_audio, probe
from tfpipe.errors import AudioError

pytestmark = pytest.mark.usefixtures("few_kept_blocks")


class NearFileSystem(LocalFileSystem):
    """`near://PATH` is the local file PATH: to Beam, a store like any other. Counts the bytes that are read."""

    fetched, breaks_at = 0, 2**60

    @classmethod
    def scheme(cls):
        return "near"

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        return io.BufferedReader(CountedFile(path.removeprefix("near://")), 4096)

    def match(self, patterns, limits=None):
        return super().match([pattern.removeprefix("near://") for pattern in patterns], limits)

    def metadata(self, path):
        return super().metadata(path.removeprefix("near://"))


class CountedFile(io.FileIO):
    def readinto(self, buffer):
        NearFileSystem.fetched += (count := super().readinto(buffer))
        if NearFileSystem.fetched > NearFileSystem.breaks_at:
            raise OSError("the line is dead")
        return count


@pytest.fixture
def near():
    NearFileSystem.fetched, NearFileSystem.breaks_at = 0, 2**60
    return NearFileSystem


@pytest.mark.parametrize(
    "suffix",
    [
        *("WAV/PCM_16", "RF64/PCM_24", "FLAC/PCM_16", "OGG/VORBIS", "OGG/OPUS"),
        *("MP3/MPEG_LAYER_III", "MP3 without a header", "m4a", "aac", "webm"),
    ],
)
def test_a_url_reads_as_a_local_file(suffix, near, recorded):
    path = recorded(suffix)
    assert is_audio(f"near://{path}")
    assert probe(f"near://{path}") == probe(path)
    with TrackReader(f"near://{path}") as reader:
        for start, length, rate in random_reads(reader.info, 8, seed=5):
            assert np.array_equal(reader.read(start, length, rate=rate), read(path, start, length, rate))


@pytest.mark.parametrize("suffix", ["WAV/PCM_16", "RF64/PCM_24", "FLAC/PCM_16"])
def test_of_a_url_only_what_is_read_is_fetched(suffix, near, tmp_path):
    path = write_any(tmp_path / "x", suffix, seconds=20)
    with TrackReader(f"near://{path}") as reader:
        reader.read(10 * 44_100, 44_100, rate=22_050)
    assert 0 < near.fetched < path.stat().st_size / 5


@pytest.mark.parametrize("suffix", ["WAV/PCM_16", "MP3/MPEG_LAYER_III", "MP3 without a header", "m4a"])
def test_a_url_out_of_reach_is_not_a_damaged_file(suffix, near, tmp_path, capfd):
    # Opening an MP3 reads up to 20 s of it.
    path = write_any(tmp_path / "x", suffix, seconds=30 if suffix.startswith("MP3") else 16)
    info = probe(path)
    with TrackReader(f"near://{path}", info=info) as reader:
        near.breaks_at = near.fetched + 50_000
        with pytest.raises(AudioError) as caught:
            reader.read(0, info.frames, rate=info.sample_rate)
    assert caught.value.code == "unreadable"
    assert "the line is dead" in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(AudioError) as caught:
        probe(f"near://{path}.gone")
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("suffix", ["OGG/VORBIS", "MP3 without a header"])
def test_a_line_that_breaks_while_a_file_is_looked_through(suffix, near, recorded):
    path = recorded(suffix)
    assert probe(f"near://{path}") == probe(path)
    total = near.fetched
    for part in (0.1, 0.5, 0.8, 0.95):
        near.fetched, near.breaks_at = 0, total * part
        with pytest.raises(AudioError, match="the line is dead") as caught:
            probe(f"near://{path}")
        assert caught.value.code == "unreadable"
