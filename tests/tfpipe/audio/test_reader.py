"""Reading windows of every format, against decoding the whole file."""

import numpy as np
import pytest
import soundfile
from audio_files import (
    AV_FORMATS,
    BARE,
    SECONDS,
    SF_FORMATS,
    random_reads,
    read,
    sound,
    write_any,
    write_av,
    write_sf,
)

from tfpipe.audio import containers, ffmpeg, libsndfile
from tfpipe.audio.reader import TrackReader, is_audio, probe
from tfpipe.errors import AudioError

pytestmark = pytest.mark.usefixtures("few_kept_blocks")


def whole_of(path):
    with TrackReader(path) as reader:
        return np.concatenate(list(reader.blocks(block_s=1e4)))


def places(total, count):
    return [0, 1, 577, total // 3, total // 2 + 11, total - count, *np.random.default_rng(1).integers(0, total, 6)]


@pytest.mark.parametrize(("container", "codec", "rate", "tolerance"), SF_FORMATS)
def test_windows_equal_the_whole_file(container, codec, rate, tolerance, recorded):
    path = recorded(name := f"{container}/{codec}")
    info = probe(path)
    bits = "float64" if codec in ("PCM_32", "DOUBLE") else "float32"
    whole = soundfile.read(path, always_2d=True, dtype=bits)[0].mean(axis=1)
    assert (info.sample_rate, info.frames) == (rate, len(whole))
    assert abs(info.seconds - SECONDS.get(name, 6)) < 0.1
    for start in places(info.frames, 4000):
        window = read(path, start, 4000, rate, info)
        expected = np.pad(whole[start : start + 4000], (0, max(0, start + 4000 - len(whole))))
        assert np.abs(window - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", AV_FORMATS)
def test_ffmpeg_formats(suffix, tmp_path):
    container, codec, rate = AV_FORMATS[suffix]
    audio = sound(6, rate, 2)
    path = write_av(tmp_path / "named-otherwise", audio, rate, container, codec)
    info = probe(path)
    assert is_audio(path)
    assert (info.decoder, info.sample_rate, info.channels) == ("ffmpeg", rate, 2)
    assert info.seconds == pytest.approx(6, abs=0.1)
    whole = whole_of(path)
    assert len(whole) == info.frames
    # It is the sound that was written, up to what the codec changes.
    lag = int(np.argmax(np.correlate(whole[5000:17_000], audio[5000 + 4096 : 17_000 - 4096].mean(axis=1), "valid")))
    lag -= 4096
    ours, theirs = whole[20_000 + lag : 120_000 + lag], audio[20_000:120_000].mean(axis=1)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98
    assert abs(lag) <= 4096
    for start in places(info.frames, 4000):
        window = read(path, start, 4000, rate, info)
        expected = np.pad(whole[start : start + 4000], (0, max(0, start + 4000 - len(whole))))
        assert np.array_equal(window, expected), start


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("webm", {"live": "1"}), ("mp4", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"})],
)
def test_streamed_files_have_neither_length_nor_index(suffix, options, tmp_path):
    container, codec, rate = AV_FORMATS[suffix]
    path = write_av(tmp_path / "x", sound(6, rate, 2), rate, container, codec, **options)
    info = probe(path)
    assert info.seconds == pytest.approx(6, abs=0.1)
    whole = whole_of(path)
    for start in places(info.frames - 4000, 4000):
        window = read(path, start, 4000, rate, info)
        assert np.array_equal(window, whole[start : start + 4000])


def test_aac_draws_its_noise_anew_in_each_segment(tmp_path, monkeypatch):
    """AAC may store the level of noise alone. Where a segment begins, the same sound goes on with other noise."""
    audio = sound(6, 44_100, 2)
    path = write_av(tmp_path / "x.m4a", audio, 44_100, "ipod", "aac", noise_by_level=True)
    whole = whole_of(path)
    monkeypatch.setattr(ffmpeg, "SEGMENT_S", 30)
    undivided = whole_of(path)
    monkeypatch.setattr(ffmpeg, "SEGMENT_S", 2)
    for start in places(len(whole) - 4000, 4000):
        assert np.array_equal(read(path, start, 4000, 44_100), whole[start : start + 4000])
    assert np.array_equal(whole[: 2 * 44_100], undivided[: 2 * 44_100])
    off = float(np.sqrt(np.square(whole - undivided).mean()))
    assert 1e-5 < off < 0.02  # no more than the recording's own noise


@pytest.mark.parametrize("name", ["OGG/OPUS", *(suffix for suffix in AV_FORMATS if suffix != "alac.m4a")])
def test_segments_join_to_the_sound_decoded_in_one_go(name, tmp_path, monkeypatch):
    path = write_any(tmp_path / "x", name, seconds=6)
    for module in (ffmpeg, libsndfile):
        monkeypatch.setattr(module, "SEGMENT_S", 30)
    undivided = whole_of(path)
    for module in (ffmpeg, libsndfile):
        monkeypatch.setattr(module, "SEGMENT_S", 1)
    whole, info = whole_of(path), probe(path)
    assert whole.shape == undivided.shape
    assert np.abs(whole - undivided).max() <= 1e-5
    for start in [44_099, 44_100, *places(info.frames - 60_000, 60_000)]:
        window = read(path, start, 60_000, info.sample_rate, info)  # longer than a segment
        assert np.array_equal(window, whole[start : start + 60_000])


def require_that_reads_do_not_depend_on_earlier_ones(path, *, count=12):
    with TrackReader(path) as reader:
        for index, (start, length, rate) in enumerate(random_reads(reader.info, count, seed=3)):
            ours = reader.read(start, length, rate=rate)
            alone = read(path, start, length, rate, reader.info if index % 2 else None)
            assert np.array_equal(ours, alone), (start, length, rate)


@pytest.mark.parametrize("name", [*(f"{container}/{codec}" for container, codec, *_ in SF_FORMATS), *BARE])
def test_reads_do_not_depend_on_earlier_ones(name, recorded):
    require_that_reads_do_not_depend_on_earlier_ones(recorded(name))


@pytest.mark.parametrize("suffix", AV_FORMATS)
def test_reads_through_ffmpeg_do_not_depend_on_earlier_ones(suffix, tmp_path):
    container, codec, rate = AV_FORMATS[suffix]
    noisy = {"noise_by_level": True} if codec == "aac" else {}  # drawn by a generator that each read starts anew
    path = write_av(tmp_path / "x", sound(6, rate, 2), rate, container, codec, **noisy)
    require_that_reads_do_not_depend_on_earlier_ones(path)


@pytest.mark.parametrize("options", [{"live": "1"}, {"movflags": "dash+global_sidx", "frag_duration": "1000000"}])
def test_reads_of_streamed_files_do_not_depend_on_earlier_ones(options, tmp_path):
    container, codec, rate = AV_FORMATS["webm" if "live" in options else "mp4"]
    path = write_av(tmp_path / "x", sound(6, rate, 2), rate, container, codec, **options)
    require_that_reads_do_not_depend_on_earlier_ones(path)


@pytest.mark.parametrize(("suffix", "place"), [("mp3", 0.3), ("mp3", 0.7), ("aac", 0.3), ("aac", 0.7), ("m4a", 0.5)])
def test_nor_do_those_of_damaged_files(suffix, place, tmp_path):
    path, audio = tmp_path / "x", sound(8, 44_100, 1)
    if suffix == "mp3":
        write_sf(path, audio, 44_100, "MP3", "MPEG_LAYER_III")
    else:
        write_av(path, audio, 44_100, *AV_FORMATS[suffix][:2])
    data = bytearray(path.read_bytes())
    at = int(len(data) * place)
    data[at : at + 300] = np.random.default_rng(1).bytes(300)
    path.write_bytes(data)

    def outcome(read, *arguments):
        try:
            return read(*arguments)
        except AudioError as error:
            return error.code

    with TrackReader(path) as reader:
        for start, length, _ in random_reads(reader.info, 20, seed=4):
            ours = outcome(lambda start, length: reader.read(start, length, rate=44_100), start, length)
            assert np.array_equal(ours, outcome(read, path, start, length, 44_100)), (start, length)


@pytest.mark.parametrize(("rate", "level", "mode"), [(48_000, 0.5, "VARIABLE"), (16_000, 0.5, "VARIABLE")])
def test_mp3_of_few_bits_is_whole_at_the_start_of_a_window(rate, level, mode, tmp_path):
    """Its frames borrow bits of earlier ones, more of them than libmpg123 goes back by after a seek."""
    audio = sound(12, rate)
    audio[np.sin(np.arange(len(audio)) * 5 / rate) < 0.6] *= 0.01
    with soundfile.SoundFile(
        tmp_path / "x", "w", rate, 1, format="MP3", subtype="MPEG_LAYER_III", compression_level=level, bitrate_mode=mode
    ) as file:
        for start in range(0, len(audio), 4096):
            file.write(audio[start : start + 4096])
    with soundfile.SoundFile(tmp_path / "x") as file:  # not soundfile.read, which seeks to the start first
        whole, info = file.read(), probe(tmp_path / "x")
    for start in np.random.default_rng(2).integers(0, len(whole) - 3000, 24):
        assert np.array_equal(read(tmp_path / "x", start, 3000, rate, info), whole[start : start + 3000])


@pytest.mark.parametrize(("rate", "fine"), [(1, False), (999, False), (1_000, True), (1_000_000, True)])
def test_a_rate_that_no_sound_is_recorded_at(rate, fine, tmp_path):
    soundfile.write(tmp_path / "x.wav", sound(1, 1000), rate)
    if fine:
        assert probe(tmp_path / "x.wav").sample_rate == rate
    else:
        with pytest.raises(AudioError, match="1000 to 1000000 Hz") as caught:
            probe(tmp_path / "x.wav")
        assert caught.value.code == "bad_header"


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS", "libopus"])
def test_an_ogg_stream_says_where_it_ends(codec, tmp_path):
    """Writers mark the last page; without it a file cut between two pages would seem whole."""
    audio = sound(5, 48_000, 2)
    if codec.startswith("lib"):
        path = write_av(tmp_path / "x.ogg", audio, 48_000, "ogg", codec)
    else:
        path = write_sf(tmp_path / "x.ogg", audio, 48_000, "OGG", codec)
    data = path.read_bytes()
    assert probe(path).seconds == pytest.approx(5, abs=0.1)
    for pages in (1, 2):
        cut = data
        for _ in range(pages):
            cut = cut[: cut.rfind(b"OggS")]
        (tmp_path / "cut.ogg").write_bytes(cut)
        with pytest.raises(AudioError) as caught:
            probe(tmp_path / "cut.ogg")
        assert caught.value.code == "truncated"
    (tmp_path / "chained.ogg").write_bytes(data + write_sf(tmp_path / "y", audio, 48_000, "OGG", "VORBIS").read_bytes())
    with pytest.raises(AudioError, match="one after the other") as caught:
        probe(tmp_path / "chained.ogg")
    assert caught.value.code == "undecodable"


def test_flac_that_does_not_say_its_length(tmp_path):
    audio = sound(3, 16_000)
    soundfile.write(tmp_path / "x.flac", audio, 16_000)
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "y.flac").write_bytes(data)
    info = probe(tmp_path / "y.flac")
    assert (info.frames, info.decoder) == (48_000, "ffmpeg")
    known, unknown = (read(tmp_path / n, 20_000, 9000, 16_000) for n in ("x.flac", "y.flac"))
    assert np.array_equal(known, unknown)


@pytest.mark.parametrize("channels", [2, 6])
def test_opposite_phase_does_not_vanish(channels, tmp_path):
    tone = sound(3, 48_000)[:, 0]
    audio = np.stack([tone * (-1) ** k for k in range(channels)], axis=1)
    soundfile.write(tmp_path / "x.wav", audio, 48_000, subtype="DOUBLE")
    assert np.array_equal(read(tmp_path / "x.wav", 0, len(tone), 48_000), tone)


def test_many_channels_at_a_high_rate_are_read_in_blocks(tmp_path):
    """The same mix whether it fits one block or not."""
    audio = sound(0.7, 192_000, 32)
    soundfile.write(tmp_path / "x.wav", audio, 192_000, subtype="DOUBLE")
    assert audio.size > 2**22
    mono = read(tmp_path / "x.wav", 0, len(audio), 192_000)
    assert np.array_equal(mono, audio.mean(axis=1))


def test_a_playlist_or_text_is_no_audio(tmp_path):
    """FFmpeg alone would open what a playlist names."""
    soundfile.write(tmp_path / "real.wav", sound(1, 8000), 8000)
    for text in ("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nreal.wav\n", "ffconcat version 1.0\nfile real.wav\n"):
        (tmp_path / "list.m4a").write_text(text)
        assert containers.container_of(tmp_path / "list.m4a") is None
        assert not is_audio(tmp_path / "list.m4a")
        with pytest.raises(AudioError) as caught:
            probe(tmp_path / "list.m4a")
        assert caught.value.code == "undecodable"
