"""Odd, broken and lying files, made from code: each with what a job must make of it.

`CASES` maps a name to (maker, outcomes): the maker gets the path to make, the
outcomes are reason codes of `skipped.jsonl`, or `track`. More than one stands
where the damage leaves it to the decoder's version whether it can be told.
"""

import io
import math
import os
import socket
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from audio_files import sound, write_av

RATE = 16_000
SECONDS = 1.5
BAD = ("undecodable", "damaged", "truncated", "bad_header", "empty")
CASES: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {}


def case(name, *outcomes):
    def add(maker):
        CASES[name] = (maker, outcomes)
        return maker

    return add


def from_bytes(name, make, *outcomes):
    CASES[name] = (lambda path: Path(path).write_bytes(make()), outcomes)


def seed_of(*parts):
    return zlib.crc32(repr(parts).encode())


def encoded(container, codec, rate=RATE, *, seconds=SECONDS, channels=1, audio=None, seed=0):
    """Bytes of a good file; another seed gives other bytes, for identical files count once."""
    audio = sound(seconds, rate, channels, seed=seed_of(container, codec, rate, seed)) if audio is None else audio
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, audio.shape[1], format=container, subtype=codec) as file:
        for start in range(0, len(audio), 4096):
            file.write(audio[start : start + 4096])
    return buffer.getvalue()


def wav(seed, codec="PCM_16", **options):
    return encoded("WAV", codec, seed=seed, **options)


def mp4(seed):
    with tempfile.TemporaryDirectory() as folder:
        path = write_av(Path(folder) / "x.m4a", sound(3, 44_100, seed=seed), 44_100, "ipod", "aac")
        return path.read_bytes()


def av_bytes(container, codec, rate, seed, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = write_av(Path(folder) / "x", sound(3, rate, 2, seed=seed), rate, container, codec, **options)
        return path.read_bytes()


def bare_mp3(seed):
    """An MP3 that no header gives the length of."""
    return av_bytes("mp3", "libmp3lame", RATE, seed, write_xing="0", id3v2_version="0")


def patched(data, place, value):
    """Bytes with `value` written at `place`."""
    return data[:place] + value + data[place + len(value) :]


def fmt(seed, *, tag=1, channels=1, rate=RATE, bits=16):
    """A wav whose `fmt ` chunk says what is asked, whatever its data are."""
    body = sound(SECONDS, RATE, seed=seed)[:, 0]
    data = (body * 32_000).astype("<i2").tobytes()
    align = channels * bits // 8
    chunk = struct.pack("<HHIIHH", tag, channels, rate, (rate * align) % 2**32, align % 2**16, bits)
    return riff(b"fmt " + struct.pack("<I", 16) + chunk + b"data" + struct.pack("<I", len(data)) + data)


def riff(content):
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WAVE" + content


def noisy(data, share, seed):
    """Overwrites 64 bytes at a share of the length with noise."""
    place = int(len(data) * share)
    return patched(data, place, np.random.default_rng(seed).bytes(64))


def with_streaminfo(data, *, frames=None, rate=None):
    """A FLAC whose STREAMINFO says another length or rate."""
    value = int.from_bytes(data[18:26], "big")
    if frames is not None:
        value = (value >> 36 << 36) | frames
    if rate is not None:
        value = (value & ((1 << 44) - 1)) | (rate << 44)
    return patched(data, 18, value.to_bytes(8, "big"))


def png():
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.wav", wav(900))
    return buffer.getvalue()


# What is no audio at all.
from_bytes("empty.wav", bytes, "empty")
from_bytes("empty.mp3", bytes, "empty")
from_bytes("one-byte.flac", lambda: b"f", "undecodable")
from_bytes("text.wav", lambda: b"these are words, not sound\n" * 99, "undecodable")
from_bytes("page.mp3", lambda: b"<!DOCTYPE html><html><body>404 not found</body></html>" * 50, "undecodable")
from_bytes("picture.wav", png, "undecodable")
from_bytes("archive.ogg", zipped, *BAD)
from_bytes("zeros.wav", lambda: bytes(100_000), "undecodable")
from_bytes("zeros.mp3", lambda: bytes(100_000), "undecodable")
from_bytes("noise.mp3", lambda: np.random.default_rng(5).bytes(100_000), *BAD, "track")
from_bytes("noise.m4a", lambda: b"\0\0\0\x20ftypM4A " + np.random.default_rng(6).bytes(100_000), *BAD)
from_bytes("noise.webm", lambda: b"\x1aE\xdf\xa3" + np.random.default_rng(7).bytes(100_000), *BAD)
from_bytes("noise.wma", lambda: b"\x30\x26\xb2\x75" + np.random.default_rng(8).bytes(100_000), *BAD)
from_bytes("noise.aac", lambda: b"\xff\xf1" + np.random.default_rng(9).bytes(100_000), *BAD)
from_bytes("playlist.m4a", lambda: b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:1/a.aac\n", "undecodable")

# Broken off.
for _name, _container, _codec, _share, _outcomes in (
    ("cut-header.wav", "WAV", "PCM_16", 0.0004, BAD),
    ("cut-data.wav", "WAV", "PCM_16", 0.6, ("truncated",)),
    ("cut-data.aiff", "AIFF", "PCM_16", 0.6, ("truncated",)),
    ("cut-data.au", "AU", "PCM_16", 0.6, ("truncated",)),
    ("cut-data.w64", "W64", "PCM_16", 0.6, ("truncated",)),
    ("cut-data.rf64", "RF64", "PCM_16", 0.6, ("truncated",)),
    ("cut-header.flac", "FLAC", "PCM_16", 0.001, BAD),
    ("cut-data.flac", "FLAC", "PCM_16", 0.6, BAD),
    ("cut-header.ogg", "OGG", "VORBIS", 0.05, BAD),
    ("cut-data.ogg", "OGG", "VORBIS", 0.7, BAD),
    ("cut-data.mp3", "MP3", "MPEG_LAYER_III", 0.6, ("truncated",)),
):
    from_bytes(
        _name,
        lambda c=_container, k=_codec, s=_share: (lambda data: data[: math.ceil(len(data) * s)])(encoded(c, k, seed=1)),
        *_outcomes,
    )
for _name, _codec in (("cut-between-pages.ogg", "VORBIS"), ("cut-between-pages.opus", "OPUS")):
    from_bytes(
        _name, lambda k=_codec: (lambda data: data[: data.rfind(b"OggS")])(encoded("OGG", k, seed=4)), "truncated"
    )
from_bytes("chained.ogg", lambda: encoded("OGG", "VORBIS", seed=5) + encoded("OGG", "VORBIS", seed=6), "undecodable")
from_bytes("cut-frame.mp3", lambda: bare_mp3(7)[:-1], "truncated")
from_bytes("cut-frame-tagged.mp3", lambda: bare_mp3(8)[:-9] + b"TAG" + bytes(125), "truncated")
from_bytes("cut-header.mp3", lambda: encoded("MP3", "MPEG_LAYER_III", seed=2)[:20], *BAD)
from_bytes("cut.m4a", lambda: mp4(1)[:-2000], *BAD)
from_bytes("cut-start.m4a", lambda: mp4(2)[:40], *BAD)
from_bytes("cut.webm", lambda: av_bytes("webm", "libopus", 48_000, 3)[:9000], *BAD)

# Sizes that lie.
from_bytes("riff-size-0.wav", lambda: patched(wav(10), 4, bytes(4)), "track")
from_bytes("riff-size-max.wav", lambda: patched(wav(11), 4, b"\xff" * 4), "track")
from_bytes("data-size-0.wav", lambda: patched(wav(12), 40, bytes(4)), "track", "empty")
from_bytes("data-size-max.wav", lambda: patched(wav(13), 40, b"\xff" * 4), "track")
from_bytes("data-size-double.wav", lambda: patched(wav(14), 40, struct.pack("<I", RATE * 6)), "truncated")
from_bytes("fmt-size-max.wav", lambda: patched(wav(15), 16, b"\xff\xff\xff\x7f"), *BAD)
from_bytes("chunk-size-max.wav", lambda: riff(b"LIST\xff\xff\xff\x7f" + wav(16)[12:]), *BAD)
from_bytes("frames-huge.flac", lambda: with_streaminfo(encoded("FLAC", "PCM_16", seed=17), frames=2**36 - 1), *BAD)
from_bytes("frames-double.flac", lambda: with_streaminfo(encoded("FLAC", "PCM_16", seed=18), frames=RATE * 3), *BAD)
from_bytes("frames-0.flac", lambda: with_streaminfo(encoded("FLAC", "PCM_16", seed=19), frames=0), "track")
from_bytes("rate-1.flac", lambda: with_streaminfo(encoded("FLAC", "PCM_16", seed=20), frames=2**36 - 1, rate=1), *BAD)
from_bytes("rate-0.flac", lambda: with_streaminfo(encoded("FLAC", "PCM_16", seed=21), rate=0), *BAD)
from_bytes(
    "frames-max.aiff", lambda: patched(encoded("AIFF", "PCM_16", seed=22), 22, b"\x7f\xff\xff\xff"), *BAD, "track"
)
from_bytes("size-max.au", lambda: patched(encoded("AU", "PCM_16", seed=23), 8, b"\xff" * 4), "track")
from_bytes("size-huge.caf", lambda: b"caff\0\x01\0\0desc" + b"\x7f" * 400, *BAD)


def mp4_with(seed, box, value):
    """An m4a with `value` over the count in every `box`."""
    data = mp4(seed)
    place = data.find(box)
    while place >= 0:
        data = patched(data, place + len(box) + 4, value)
        place = data.find(box, place + 4)
    return data


from_bytes("stsz-count-huge.m4a", lambda: mp4_with(24, b"stsz", struct.pack(">II", 0, 2**31 - 1)), *BAD)
from_bytes("stsz-constant-huge.m4a", lambda: mp4_with(25, b"stsz", struct.pack(">II", 1, 2**28)), *BAD)
from_bytes("stts-count-huge.m4a", lambda: mp4_with(26, b"stts", struct.pack(">III", 1, 2**31 - 1, 1024)), *BAD, "track")
from_bytes("stsc-huge.m4a", lambda: mp4_with(27, b"stsc", struct.pack(">I", 2**31 - 1)), *BAD)

# Headers that cannot be.
from_bytes("unknown-codec.wav", lambda: fmt(30, tag=0x7A21), *BAD)
from_bytes("no-channels.wav", lambda: fmt(31, channels=0), *BAD)
from_bytes("no-rate.wav", lambda: fmt(32, rate=0), *BAD)
from_bytes("no-bits.wav", lambda: fmt(33, bits=0), *BAD)
from_bytes("13-bits.wav", lambda: fmt(34, bits=13), *BAD, "track")
from_bytes("65535-channels.wav", lambda: fmt(35, channels=65_535), *BAD)
from_bytes("rate-max.wav", lambda: fmt(36, rate=2**32 - 1), *BAD)
from_bytes("300-channels.wav", lambda: wav(37, audio=sound(0.6, RATE, 1, seed=37).repeat(300, axis=1)), "bad_header")
from_bytes("no-data.wav", lambda: wav(38)[:36], *BAD)


# Samples that no one expects.
def samples(name, make, *outcomes, rate=RATE, codec="FLOAT"):
    from_bytes(name, lambda: encoded("WAV", codec, rate, audio=np.atleast_2d(make().T).T), *outcomes)


def holding(seed, value):
    audio = sound(SECONDS, RATE, seed=seed)
    audio[9000] = value
    return audio


samples("nan.wav", lambda: holding(40, np.nan), "not_finite")
samples("inf.wav", lambda: holding(41, -np.inf), "not_finite")
samples("nan-double.wav", lambda: holding(42, np.nan), "not_finite", codec="DOUBLE")
samples("huge-values.wav", lambda: holding(43, 3e38), "track")
samples("silence.wav", lambda: np.zeros(24_000), "silent")
samples("constant.wav", lambda: np.full(24_000, 0.5), "track")
samples("clipped.wav", lambda: np.sign(sound(SECONDS, RATE, seed=44)), "track", codec="PCM_16")
samples("tiny-values.wav", lambda: np.full(24_000, 1e-310), "silent", codec="DOUBLE")
samples("one-sample.wav", lambda: np.full(1, 0.5), "too_short")
samples("just-too-short.wav", lambda: sound(0.25, RATE, seed=45)[:-1], "too_short")
samples("just-long-enough.wav", lambda: sound(0.25, RATE, seed=46), "track")
samples("1-khz.wav", lambda: sound(4, 1_000, seed=51), "track", rate=1_000)
samples("999-hz.wav", lambda: sound(4, 999, seed=52), "bad_header", rate=999)
samples("1-hz.wav", lambda: 0.5 * np.sin(np.arange(9.0)), "bad_header", rate=1)
samples("192-khz.wav", lambda: sound(1, 192_000, seed=47), "track", rate=192_000)
samples("384-khz-8-channels.wav", lambda: sound(1, 384_000, 8, seed=48), "track", rate=384_000)
samples("32-channels.wav", lambda: sound(1, RATE, 32, seed=49), "track")
samples("opposite.wav", lambda: sound(1, RATE, seed=50) * [1.0, -1.0], "track")

# Every kind that should simply work.
for _codec in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610"):
    from_bytes(f"good-{_codec.lower()}.wav", lambda k=_codec: wav(60, k, rate=8000 if k == "GSM610" else RATE), "track")
for _suffix, _container, _codec in (
    ("extensible.wav", "WAVEX", "PCM_24"),
    ("rf64.wav", "RF64", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("caf", "CAF", "ALAC_16"),
    ("aiff", "AIFF", "PCM_24"),
    ("au", "AU", "FLOAT"),
    ("flac", "FLAC", "PCM_24"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
):
    from_bytes(f"good.{_suffix}", lambda c=_container, k=_codec: encoded(c, k, seed=61), "track")
from_bytes("no-header.mp3", lambda: bare_mp3(160), "track")
from_bytes("no-header.mp2", lambda: av_bytes("mp2", "mp2", RATE, 161), "track")
from_bytes("good.m4a", lambda: mp4(62), "track")
from_bytes("good.webm", lambda: av_bytes("webm", "libopus", 48_000, 63), "track")
from_bytes("good.wma", lambda: av_bytes("asf", "wmav2", 44_100, 64), "track")
from_bytes("good.aac", lambda: av_bytes("adts", "aac", 44_100, 65), "track")
from_bytes("flac-named.mp3", lambda: encoded("FLAC", "PCM_16", seed=66), "track")
from_bytes(
    "id3.mp3", lambda: b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000) + encoded("MP3", "MPEG_LAYER_III", seed=67), "track"
)
from_bytes(
    "id3-huge.mp3", lambda: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + encoded("MP3", "MPEG_LAYER_III", seed=68), *BAD, "track"
)
from_bytes("garbage-first.mp3", lambda: b"\0garbage" * 50 + encoded("MP3", "MPEG_LAYER_III", seed=69), *BAD, "track")
from_bytes("garbage-last.wav", lambda: wav(70) + b"garbage" * 99, "track")

# Damage in the middle. FLAC and Ogg have checksums; MP3 and AAC may lose a frame unseen.
for _place in (0.2, 0.5, 0.9):
    for _suffix, _container, _codec, _more in (
        ("flac", "FLAC", "PCM_16", ()),
        ("ogg", "OGG", "VORBIS", ()),
        ("opus", "OGG", "OPUS", ()),
        ("mp3", "MP3", "MPEG_LAYER_III", ("track",)),
    ):
        from_bytes(
            f"damaged-{_place}.{_suffix}",
            lambda c=_container, k=_codec, p=_place: noisy(encoded(c, k, seed=(71, p)), p, 71),
            *BAD,
            *_more,
        )
    from_bytes(f"damaged-{_place}.m4a", lambda p=_place: noisy(mp4(int(72 + 10 * p)), p, 72), *BAD, "track")

# Names.
for _index, _name in enumerate(
    (
        "two  spaces .wav",
        "new\nline.wav",
        "tab\there.wav",
        "\U0001f3b9 e\u0301.wav",
        "quotes'\"`$(x).wav",
        "-rf.wav",
        "star*[1]?.wav",
        "back\\slash.wav",
        "%s{0}.wav",
        "n" * 251 + ".wav",
        os.fsdecode(b"bytes-\xff\xfe.wav"),
    )
):
    from_bytes(_name, lambda i=_index: wav(100 + i), "track")

# Things that are no regular files.
CASES["folder.wav"] = (lambda path: os.mkdir(path), ("not_a_file",))
CASES["dangling.wav"] = (lambda path: os.symlink("nowhere", path), ("unreadable",))
CASES["loop.wav"] = (lambda path: os.symlink("loop.wav", path), ("unreadable",))
CASES["pipe.wav"] = (lambda path: os.mkfifo(path), ("not_a_file",))


@case("socket.wav", "not_a_file")
def _socket(path):
    here = os.getcwd()
    os.chdir(os.path.dirname(path))  # a socket's path may only have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(os.path.basename(path))
    finally:
        os.chdir(here)


if os.geteuid() != 0:  # root reads everything

    @case("unreadable.wav", "unreadable")
    def _unreadable(path):
        Path(path).write_bytes(wav(120))
        os.chmod(path, 0)


def make_all(folder):
    """Makes every case in a folder."""
    os.makedirs(folder, exist_ok=True)
    for name, (maker, _) in CASES.items():
        maker(os.path.join(folder, name))
