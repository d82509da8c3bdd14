"""Reading windows of every format, against decoding the whole file."""

import numpy as np
import pytest
import soundfile
from audio_files import AV_FORMATS, sound, write_av, write_sf

from tfpipe import audio_av
from tfpipe.audio import is_audio, probe, read_blocks, read_span
from tfpipe.errors import AudioError

SF_FORMATS = [  # container, codec, rate, tolerance of a window against the whole
    *(("WAV", codec, 44_100, 0) for codec in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")),
    *(("WAV", codec, 44_100, 0) for codec in ("MS_ADPCM", "IMA_ADPCM")),
    ("WAV", "GSM610", 8_000, 0),
    *((container, "PCM_24", 44_100, 0) for container in ("WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC")),
    ("CAF", "ALAC_16", 44_100, 0),
    ("FLAC", "PCM_16", 44_100, 0),
    ("OGG", "VORBIS", 44_100, 0),
    ("OGG", "OPUS", 48_000, 1e-6),
    ("MP3", "MPEG_LAYER_III", 44_100, 0),
]


def places(total, count):
    return [0, 1, 577, total // 3, total // 2 + 11, total - count, *np.random.default_rng(1).integers(0, total, 6)]


@pytest.mark.parametrize(("container", "codec", "rate", "tolerance"), SF_FORMATS)
def test_windows_equal_the_whole_file(container, codec, rate, tolerance, tmp_path):
    audio = sound(12, rate, 1 if codec == "GSM610" else 2)
    path = write_sf(tmp_path / "x.bin", audio, rate, container, codec)
    info = probe(path)
    whole = soundfile.read(path, always_2d=True)[0].mean(axis=1)
    assert (info.sample_rate, info.frames) == (rate, len(whole))
    assert abs(info.seconds - 12) < 0.1
    for start in places(info.frames, 4000):
        window = read_span(path, start=int(start), count=4000, rate=rate, info=info)
        expected = np.pad(whole[start : start + 4000], (0, max(0, start + 4000 - len(whole))))
        assert np.abs(window - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", AV_FORMATS)
def test_ffmpeg_formats(suffix, tmp_path):
    container, codec, rate = AV_FORMATS[suffix]
    audio = sound(20, rate, 2)
    path = write_av(tmp_path / "named-otherwise", audio, rate, container, codec)
    info = probe(path)
    assert is_audio(path)
    assert (info.decoder, info.sample_rate, info.channels) == ("ffmpeg", rate, 2)
    assert info.seconds == pytest.approx(20, abs=0.1)
    whole = np.concatenate(list(read_blocks(path, block_s=1e4)))
    assert len(whole) == info.frames
    # It is the sound that was written, up to what the codec changes.
    lag = int(np.argmax(np.correlate(whole[5000:25_000], audio[5000 + 4096 : 25_000 - 4096].mean(axis=1), "valid")))
    lag -= 4096
    ours, theirs = whole[30_000 + lag : 200_000 + lag], audio[30_000:200_000].mean(axis=1)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98
    assert abs(lag) <= 4096
    for start in places(info.frames, 4000):
        window = read_span(path, start=int(start), count=4000, rate=rate, info=info)
        expected = np.pad(whole[start : start + 4000], (0, max(0, start + 4000 - len(whole))))
        assert np.abs(window - expected).max() <= 1e-5, start


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("webm", {"live": "1"}), ("mp4", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"})],
)
def test_streamed_files_have_neither_length_nor_index(suffix, options, tmp_path):
    container, codec, rate = AV_FORMATS[suffix]
    path = write_av(tmp_path / "x", sound(20, rate, 2), rate, container, codec, **options)
    info = probe(path)
    assert info.seconds == pytest.approx(20, abs=0.1)
    whole = np.concatenate(list(read_blocks(path, block_s=1e4)))
    for start in places(info.frames - 4000, 4000):
        window = read_span(path, start=int(start), count=4000, rate=rate, info=info)
        assert np.abs(window - whole[start : start + 4000]).max() <= 1e-5


def test_aac_draws_its_noise_anew(tmp_path):
    """AAC may store the level of noise alone: a window has the same sound with other noise."""
    audio = sound(20, 44_100, 2)
    path = write_av(tmp_path / "x.m4a", audio, 44_100, "ipod", "aac", noise_by_level=True)
    info = probe(path)
    whole = np.concatenate(list(read_blocks(path, block_s=1e4)))
    worst = 0.0
    for start in places(info.frames - 4000, 4000):
        first, again = (read_span(path, start=int(start), count=4000, rate=44_100, info=info) for _ in range(2))
        assert np.array_equal(first, again)
        worst = max(worst, float(np.sqrt(np.square(first - whole[start : start + 4000]).mean())))
    assert 1e-5 < worst < 0.02  # no more than the recording's own noise


def test_flac_that_does_not_say_its_length(tmp_path):
    audio = sound(3, 16_000)
    soundfile.write(tmp_path / "x.flac", audio, 16_000)
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "y.flac").write_bytes(data)
    info = probe(tmp_path / "y.flac")
    assert (info.frames, info.decoder) == (48_000, "ffmpeg")
    known, unknown = (read_span(tmp_path / n, start=20_000, count=9000, rate=16_000) for n in ("x.flac", "y.flac"))
    assert np.array_equal(known, unknown)


@pytest.mark.parametrize("channels", [2, 6])
def test_opposite_phase_does_not_vanish(channels, tmp_path):
    tone = sound(9, 48_000)[:, 0]
    audio = np.stack([tone * (-1) ** k for k in range(channels)], axis=1)
    soundfile.write(tmp_path / "x.wav", audio, 48_000, subtype="DOUBLE")
    assert np.array_equal(read_span(tmp_path / "x.wav", start=0, count=len(tone), rate=48_000), tone)


def test_many_channels_at_a_high_rate_are_read_in_blocks(tmp_path):
    """The same mix whether it fits one block or not."""
    audio = sound(1.0, 192_000, 32)
    soundfile.write(tmp_path / "x.wav", audio, 192_000, subtype="DOUBLE")
    assert audio.size > 2**22
    mono = read_span(tmp_path / "x.wav", start=0, count=192_000, rate=192_000)
    assert np.array_equal(mono, audio.mean(axis=1))


def test_a_playlist_or_text_is_no_audio(tmp_path):
    """FFmpeg alone would open what a playlist names."""
    soundfile.write(tmp_path / "real.wav", sound(1, 8000), 8000)
    for text in ("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nreal.wav\n", "ffconcat version 1.0\nfile real.wav\n"):
        (tmp_path / "list.m4a").write_text(text)
        assert audio_av.container_of(tmp_path / "list.m4a") is None
        assert not is_audio(tmp_path / "list.m4a")
        with pytest.raises(AudioError) as caught:
            probe(tmp_path / "list.m4a")
        assert caught.value.code == "undecodable"
