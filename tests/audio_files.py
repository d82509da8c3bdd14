"""Audio files of every format, made from samples."""

from fractions import Fraction

import av
import numpy as np
import soundfile

from tfpipe.audio.reader import TrackReader

AV_FORMATS = {  # suffix: (FFmpeg's container, codec, rate)
    "m4a": ("ipod", "aac", 44_100),
    "mp4": ("mp4", "aac", 22_050),
    "alac.m4a": ("ipod", "alac", 44_100),
    "aac": ("adts", "aac", 44_100),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "aac", 44_100),
    "wma": ("asf", "wmav2", 44_100),
}

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
BARE = ["MP3 without a header"]

# Lengths in s of formats that need more than 6 s. An MP3 must be longer than the blocks that the decoder keeps (12 s
# with the fixture `few_kept_blocks`). Vorbis must be longer than the part at its end that is decoded from an earlier
# place (24 s).
SECONDS = {"MP3/MPEG_LAYER_III": 16, "MP3 without a header": 16, "OGG/VORBIS": 26}


def sound(seconds, rate, channels=1, *, seed=0):
    """A gliding tone with noise, different in every channel: `[samples, channels]`, below full scale."""
    time = np.arange(round(seconds * rate)) / rate
    hz = min(220.0, rate / 8)
    noise = np.random.default_rng(seed).standard_normal(len(time))
    tones = [np.sin(2 * np.pi * hz * (1 + 0.1 * k) * time + np.sin(time)) for k in range(channels)]
    return np.stack([0.3 * tone + 0.02 * noise for tone in tones], axis=1)


def write_sf(path, audio, rate, container, codec):
    """Writes with libsndfile, in pieces: its Vorbis encoder keeps whole calls on the stack."""
    with soundfile.SoundFile(path, "w", rate, audio.shape[1], format=container, subtype=codec) as file:
        for start in range(0, len(audio), 4096):
            file.write(audio[start : start + 4096])
    return path


def write_av(path, audio, rate, container, codec, *, noise_by_level=False, **options):
    """Writes with FFmpeg; AAC stores noise as samples, unless by its level alone. `options` go to the container."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[audio.shape[1]]
    with av.open(str(path), "w", format=container, container_options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        if codec == "aac":
            stream.options = {"aac_pns": str(int(noise_by_level))}
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for start in range(0, len(audio), 8192):
            block = np.ascontiguousarray(audio[start : start + 8192].T.astype(np.float32))
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for part in resampler.resample(frame):
                file.mux(stream.encode(part))
        for part in resampler.resample(None):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


def write_any(path, suffix, *, seconds):
    if suffix in BARE:
        return write_av(path, sound(seconds, 44_100, 2), 44_100, "mp3", "libmp3lame", write_xing="0")
    if suffix in AV_FORMATS:
        container, codec, rate = AV_FORMATS[suffix]
        return write_av(path, sound(seconds, rate, 2), rate, container, codec)
    container, codec, rate, _ = next(item for item in SF_FORMATS if item[:2] == tuple(suffix.split("/")))
    return write_sf(path, sound(seconds, rate, 1 if codec == "GSM610" else 2), rate, container, codec)


def random_reads(info, count, *, seed):
    """Places and lengths such as a job asks for, mostly forward and overlapping, and some from anywhere."""
    random, start = np.random.default_rng(seed), 0
    for number in range(count):
        start = max(0, start + int(random.integers(-info.sample_rate, 2 * info.sample_rate)))
        if number % 5 == 4 or start >= info.frames:
            start = int(random.integers(0, info.frames))
        yield start, int(random.integers(1, info.sample_rate)), int(random.choice([info.sample_rate, 16_000]))


def read(path, start, count, rate, info=None):
    with TrackReader(path, info=info) as reader:
        return reader.read(int(start), count, rate=rate)
