"""Audio files of every format, made from samples."""

from fractions import Fraction

import av
import numpy as np
import soundfile

AV_FORMATS = {  # suffix: (FFmpeg's container, codec, rate)
    "m4a": ("ipod", "aac", 44_100),
    "mp4": ("mp4", "aac", 22_050),
    "alac.m4a": ("ipod", "alac", 44_100),
    "aac": ("adts", "aac", 44_100),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "aac", 44_100),
    "wma": ("asf", "wmav2", 44_100),
}


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
