"""The length of MP3 files with and without headers, from several encoders, whole and cut."""

import io
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from audio_files import sound, write_av, write_sf
from helpers import slow

from tfpipe.audio import mp3
from tfpipe.audio.reader import TrackReader, probe
from tfpipe.errors import AudioError

SECONDS = 3
ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000)


def libsndfile(path, *, rate=44_100, channels=2, mode="CONSTANT"):
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": mode, "compression_level": 0.5}
    with soundfile.SoundFile(path, "w", rate, channels, **options) as file:
        file.write(sound(SECONDS, rate, channels))
    return path.read_bytes()


def ffmpeg(path, *, rate=44_100, channels=2, codec="libmp3lame", **options):
    write_av(path, sound(SECONDS, rate, channels), rate, "mp2" if codec == "mp2" else "mp3", codec, **options)
    return path.read_bytes()


def variable(path):
    """MP3 of variable bit rate without a header: quiet and loud parts, and the header that libsndfile wrote cut off."""
    audio = sound(SECONDS, 44_100, 2)
    audio[: len(audio) // 2] *= 1e-4
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.2}
    with soundfile.SoundFile(path, "w", 44_100, 2, **options) as file:
        file.write(audio)
    data = path.read_bytes()
    return data[borders(data)[1] :]


def tool(*command):
    """Encodes with a program where it is installed."""

    def make(path):
        if shutil.which(command[0]) is None:
            pytest.skip(f"no {command[0]} here")
        soundfile.write(path.with_suffix(".wav"), sound(SECONDS, 44_100, 2), 44_100)
        places = {"IN": path.with_suffix(".wav"), "OUT": path.with_suffix(".mp3")}
        done = subprocess.run([str(places.get(part, part)) for part in command], check=False, capture_output=True)
        if b"no handler for file extension" in done.stderr:  # sox's formats are packages of their own
            pytest.skip(f"{command[0]} writes no MP3 here")
        assert done.returncode == 0, done.stderr
        return path.with_suffix(".mp3").read_bytes()

    return make


def vbri(path):
    """A file as Fraunhofer's encoder heads it: a silent frame that holds VBRI."""
    data = ffmpeg(path, write_xing="0", id3v2_version="0")
    count = len(borders(data)) - 1
    head = bytearray(data[: borders(data)[1]])
    head[4:] = bytes(len(head) - 4)
    head[36:54] = b"VBRI" + bytes(10) + count.to_bytes(4)
    return bytes(head) + data


HEADED = {
    "libsndfile": libsndfile,
    "libsndfile-vbr": lambda path: libsndfile(path, mode="VARIABLE"),
    "ffmpeg": ffmpeg,
    "ffmpeg-16k": lambda path: ffmpeg(path, rate=16_000, channels=1),
    "ffmpeg-id3": lambda path: ffmpeg(path, id3v2_version="4") + ID3V1,
    "lame-vbr": tool("lame", "--quiet", "-V", "4", "--tt", "title", "--add-id3v2", "IN", "OUT"),
    "vbri": vbri,
}
BARE = {
    # A gliding tone, by another encoder than LAME, which the others use: sox -n -r 44100 -c 1 glide.wav synth 0.8
    # sine 300:500 vol 0.3; ffmpeg -i glide.wav -c:a libshine -b:a 32k -write_xing 0 -id3v2_version 0 shine.mp3
    "shine": lambda path: (Path(__file__).parents[2] / "resources" / "shine.mp3").read_bytes(),
    "ffmpeg": lambda path: ffmpeg(path, write_xing="0"),
    "ffmpeg-no-id3": lambda path: ffmpeg(path, write_xing="0", id3v2_version="0"),
    "ffmpeg-mono-48k": lambda path: ffmpeg(path, rate=48_000, channels=1, write_xing="0"),
    "ffmpeg-16k": lambda path: ffmpeg(path, rate=16_000, write_xing="0"),
    "ffmpeg-8k": lambda path: ffmpeg(path, rate=8_000, channels=1, write_xing="0"),
    "layer-2": lambda path: ffmpeg(path, codec="mp2"),
    "layer-2-16k": lambda path: ffmpeg(path, codec="mp2", rate=16_000, channels=1),
    "variable": variable,
    "lame": tool("lame", "--quiet", "-b", "128", "-t", "IN", "OUT"),
    "lame-vbr": tool("lame", "--quiet", "-V", "4", "-t", "IN", "OUT"),
    "lame-checksums": tool("lame", "--quiet", "-p", "-b", "128", "-t", "IN", "OUT"),
    "sox": tool("sox", "IN", "OUT"),
    "twolame-vbr": tool("twolame", "--vbr", "IN", "OUT"),
}
ENDS = {
    "plain": (b"", b""),
    "id3v2": (ID3V2, b""),
    "id3v2-twice": (ID3V2 * 2, b""),
    "id3-at-both-ends": (ID3V2, ID3V1),
    "id3v2-last": (b"", ID3V2),
}


def ape(*, header):
    """An APEv2 tag with one item."""
    item = (5).to_bytes(4, "little") + bytes(4) + b"title\0hello"

    def mark(flags):
        size = len(item) + 32
        return b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in (2000, size, 1, flags)) + bytes(8)

    return (mark(0xA000_0000) if header else b"") + item + mark(0x8000_0000 if header else 0)


ENDS["ape"] = (b"", ape(header=True))
ENDS["ape-without-header"] = (ID3V2, ape(header=False) + ID3V1)


def borders(data):
    """The places between a file's frames, found without the code that is tested: each frame starts with one's bytes."""
    start = 0
    while data[start : start + 3] == b"ID3":
        size = data[start + 6 : start + 10]
        start += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    with av.open(io.BytesIO(data[start:]), "r", format="mp3", options={"usetoc": "0"}) as file:
        places = [(packet.pos or 0, packet.size) for packet in file.demux() if packet.size]
    first = [start] if places[0][0] else []  # FFmpeg leaves a header's frame out
    return [*first, *(start + place for place, _ in places), start + sum(places[-1])]


def outcome(path, data):
    """The samples of all of a file, or why it is refused; by its probe and by what can be read."""
    path.write_bytes(data)
    try:
        info = probe(path)
        with TrackReader(path) as reader:
            samples = np.concatenate(list(reader.blocks(block_s=0.7)))
    except AudioError as error:
        return error.code
    assert len(samples) == info.frames
    return samples


def decoded(data):
    """What FFmpeg decodes of all frames, mono, without the cuts that a header asks for."""
    with av.open(io.BytesIO(data), "r") as file:
        file.streams.audio[0].codec_context.flags2 |= 1 << 29  # AV_CODEC_FLAG2_SKIP_MANUAL
        to_float = av.AudioResampler(format="fltp")
        frames = [part for frame in file.decode(audio=0) for part in to_float.resample(frame)]
        return np.concatenate([frame.to_ndarray().mean(axis=0) for frame in frames])


@pytest.mark.parametrize("name", BARE)
def test_all_frames_of_a_file_without_a_header_are_read(name, tmp_path):
    data = BARE[name](tmp_path / "made")
    expected = decoded(data)
    assert len(expected) >= 16_000
    ours = outcome(tmp_path / "x", data)
    assert len(ours) == len(expected)
    assert np.abs(ours - expected).max() < 1e-4  # the decoders differ in rounding, in layer II most
    info, rate = probe(tmp_path / "x"), probe(tmp_path / "x").sample_rate
    for start in (0, 1000, len(ours) - 3000, len(ours) - 10):
        with TrackReader(tmp_path / "x", info=info if start else None) as reader:
            window = reader.read(start, 3000, rate=rate)
        assert np.array_equal(window[: len(ours) - start], ours[start : start + 3000])
        assert not window[len(ours) - start :].any()


def test_libsndfile_alone_estimates_too_much_or_too_little(tmp_path):
    """If it counts the frames one day, less is to be done here."""
    for name, sign in (("ffmpeg", 1), ("variable", -1)):
        ours = outcome(tmp_path / "x", BARE[name](tmp_path / "made"))
        assert np.sign(soundfile.info(tmp_path / "x").frames - len(ours)) == sign


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", ["ffmpeg-no-id3", *map(slow, ("shine", "variable", "layer-2"))])
def test_tags_at_the_ends_are_no_sound(name, ends, tmp_path):
    data, (front, back) = BARE[name](tmp_path / "made"), ENDS[ends]
    bare, tagged = outcome(tmp_path / "x", data), outcome(tmp_path / "y", front + data + back)
    assert np.array_equal(bare, tagged)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", [next(iter(HEADED)), *map(slow, [*HEADED][1:])])
def test_a_header_gives_the_length(name, ends, tmp_path):
    data, (front, back) = HEADED[name](tmp_path / "made"), ENDS[ends]
    plain, tagged = outcome(tmp_path / "x", data), outcome(tmp_path / "y", front + data + back)
    assert np.array_equal(plain, tagged)
    rate = probe(tmp_path / "x").sample_rate
    # The header of LAME says what the encoder added at both ends; VBRI does not.
    extra = 1152 * 3 if name == "vbri" else 0
    assert SECONDS * rate <= len(plain) <= SECONDS * rate + extra


def test_a_frame_that_holds_vbri_is_no_sound(tmp_path):
    data = vbri(tmp_path / "made")
    assert np.array_equal(outcome(tmp_path / "x", data), outcome(tmp_path / "y", data[borders(data)[1] :]))


@pytest.mark.parametrize("tag", [b"", slow(ID3V1), slow(ape(header=True))], ids=["plain", "id3v1", "ape"])
@pytest.mark.parametrize(
    "make", [*HEADED.values(), *BARE.values()], ids=[*(f"{name}-headed" for name in HEADED), *BARE]
)
def test_a_cut_frame_is_found(make, tag, tmp_path):
    data = make(tmp_path / "made")
    places = borders(data)
    for index in (len(places) // 2, -2):
        for into in (1, 3, 4, 40, places[-1] - places[-2] - 1):
            assert outcome(tmp_path / "x", data[: places[index] + into] + tag) == "truncated", (index, into)


@pytest.mark.parametrize("name", HEADED)
def test_frames_that_a_header_promises_are_missed(name, tmp_path):
    data = HEADED[name](tmp_path / "made")
    places = borders(data)
    for index in (len(places) // 2, -3, -2):
        if name == "vbri" and index == -2:
            continue  # some encoders count the header's own frame, so that one frame is not missed
        for tag in (b"", ID3V1):
            (tmp_path / "x").write_bytes(data[: places[index]] + tag)
            with pytest.raises(AudioError, match="promised") as caught:
                probe(tmp_path / "x")
            assert caught.value.code == "truncated"


@pytest.mark.parametrize("name", BARE)
def test_without_a_header_a_file_cut_between_frames_is_a_shorter_one(name, tmp_path):
    data = BARE[name](tmp_path / "made")
    places = borders(data)
    whole, part = (outcome(tmp_path / "x", data[: places[index]]) for index in (-1, len(places) // 2))
    assert len(part) * (len(places) - 1) == len(whole) * (len(places) // 2)
    assert np.array_equal(part, whole[: len(part)])


def test_a_header_without_a_count_is_no_sound(tmp_path):
    data = bytearray(ffmpeg(tmp_path / "made", id3v2_version="0"))
    place = data.index(b"Info" if b"Info" in data else b"Xing")
    data[place + 4 : place + 8] = bytes(4)
    ours = outcome(tmp_path / "x", data)
    assert len(ours) == 1152 * (len(borders(data)) - 2)
    assert np.array_equal(ours, outcome(tmp_path / "y", data[borders(data)[1] :]))


@pytest.mark.parametrize("name", ["ffmpeg", "variable"])
def test_other_things_in_a_file_are_left_to_libsndfile(name, tmp_path):
    data = BARE[name](tmp_path / "made")
    middle = borders(data)[30]
    for odd in (data + bytes(5000), data[:middle] + b"garbage" * 9 + data[middle:]):
        assert mp3.count_samples("x", io.BytesIO(odd)) is None


def test_a_file_that_is_no_mp3_is_left_to_libsndfile():
    for data in (b"", b"ID3", b"\xff", b"\xff\xfb\0\0", ID3V2, b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(99), ID3V1):
        assert mp3.count_samples("x", io.BytesIO(data)) is None


def test_a_file_that_was_exchanged_is_an_error(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(ffmpeg(tmp_path / "made", write_xing="0"))
    info = probe(path)
    data = bytearray(path.read_bytes())
    for place in borders(data)[:-1]:
        data[place + 2] &= 0x0F  # a bit rate of its own, whose frames are not counted
    path.write_bytes(data)
    with pytest.raises(AudioError, match="no longer") as caught:
        TrackReader(path, info=info)
    assert caught.value.code == "undecodable"


class Counted(io.BytesIO):
    fetched = 0

    def read(self, count=-1):
        data = super().read(count)
        self.fetched += len(data)
        assert 0 <= count <= 2**18
        return data


def test_frames_are_counted_in_blocks_and_only_where_the_header_leaves_a_doubt(tmp_path):
    bare = Counted(ffmpeg(tmp_path / "x", write_xing="0", id3v2_version="0") * 40)
    count = len(bare.getvalue())
    assert count > 3 * 2**18
    samples = mp3.count_samples("x", bare)
    assert samples is not None
    assert samples % (40 * 1152) == 0
    assert bare.fetched < count + 1000
    headed = Counted(write_sf(tmp_path / "y", sound(30, 44_100, 2), 44_100, "MP3", "MPEG_LAYER_III").read_bytes())
    assert mp3.count_samples("y", headed) is None
    assert headed.fetched < 1000
