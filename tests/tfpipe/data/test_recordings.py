"""The windows of recordings, without a dataset: they are the Beam job's, with either decoder."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from audio_files import sound, write_sf

from tfpipe.audio.cutting import CutConfig
from tfpipe.audio.reader import read_window, window_starts
from tfpipe.audio.wav import write_wav
from tfpipe.data.recordings import RecordingWindows
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import log_mel
from tfpipe.lanes import installed_version, tensorflow_io_loads
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec()
TFIO_LOADS = tensorflow_io_loads(installed_version("tensorflow"))
needs_tfio = pytest.mark.skipif(not TFIO_LOADS, reason="tensorflow-io decodes on the default lane alone")


def windows_of(raw: RecordingWindows) -> dict[int, dict[float, np.ndarray]]:
    """Returns the windows by track and start, in the order in which they came."""
    found: dict[int, dict[float, np.ndarray]] = defaultdict(dict)
    for batch in raw.batches(3).as_numpy_iterator():
        assert batch["audio"].dtype == np.float32
        for audio, track, start in zip(batch["audio"], batch["track"], batch["start_s"], strict=True):
            found[int(track)][float(start)] = audio
    return found


def test_windows_are_the_jobs(tmp_path: Path) -> None:
    paths = [
        write_sf(tmp_path / f"{seconds}-{rate}.wav", sound(seconds, rate, channels), rate, "WAV", "PCM_16")
        for seconds, rate, channels in [(13.0, 44_100, 2), (7.6, 22_050, 1), (3.1, 16_000, 1), (31.0, 8_000, 1)]
    ]
    raw = RecordingWindows([str(path) for path in paths], SPEC, cut=CutConfig(hop_s=4.0, min_fill=0.6))
    found = windows_of(raw)
    assert not raw.failed
    for index, path in enumerate(paths):
        starts = window_starts(raw.seconds[index], spec=SPEC, hop_s=4.0, min_fill=0.6)
        assert list(found[index]) == starts
        for start, audio in found[index].items():
            expected = read_window(path, start_s=start, spec=SPEC).astype(np.float32)
            np.testing.assert_array_equal(audio, expected)


def write_kinds(folder: Path, kinds: dict[str, tuple[str, str, int]]) -> list[str]:
    """Writes 8 s of stereo as `name: (container, codec, rate)`."""
    return [
        str(write_sf(folder / name, sound(8.0, rate, 2), rate, container, codec))
        for name, (container, codec, rate) in kinds.items()
    ]


@needs_tfio
def test_tensorflow_io_decodes_the_same_samples(tmp_path: Path) -> None:
    kinds = {
        **{f"{codec}.wav": ("WAV", codec, 22_050) for codec in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT")},
        **{f"{codec}.flac": ("FLAC", codec, 22_050) for codec in ("PCM_16", "PCM_24")},
        "extensible.wav": ("WAVEX", "PCM_16", 22_050),
        "vorbis.ogg": ("OGG", "VORBIS", 22_050),
        "layer 3.mp3": ("MP3", "MPEG_LAYER_III", 22_050),
    }
    paths = write_kinds(tmp_path, kinds)
    raw = RecordingWindows(paths, SPEC, decoder="tensorflow-io")
    found, expected = windows_of(raw), windows_of(RecordingWindows(paths, SPEC))
    assert not raw.failed
    for index, name in enumerate(kinds):
        assert list(found[index]) == list(expected[index])
        near = 1e-6 if name.endswith(("ogg", "mp3")) else 0.0
        for start, window in expected[index].items():
            np.testing.assert_allclose(found[index][start], window, rtol=0.0, atol=near, err_msg=name)


@pytest.mark.slow
@needs_tfio
def test_tensorflow_io_resamples_to_the_same_log_mels(tmp_path: Path) -> None:
    rates = (24_000, 32_000, 44_100, 44_101, 48_000, 96_000)
    paths = write_kinds(tmp_path, {f"{rate}.wav": ("WAV", "PCM_16", rate) for rate in rates})
    raw = RecordingWindows(paths, SPEC, decoder="tensorflow-io")
    found, expected = windows_of(raw), windows_of(RecordingWindows(paths, SPEC))
    assert not raw.failed
    for index, rate in enumerate(rates):
        assert list(found[index]) == list(expected[index])
        for start, window in expected[index].items():
            mel, wanted = (log_mel(samples, SPEC).mel for samples in (found[index][start], window))
            np.testing.assert_allclose(mel, wanted, rtol=0.0, atol=5e-3, err_msg=str(rate))


@needs_tfio
def test_what_tensorflow_io_would_read_otherwise_is_refused(tmp_path: Path, monkeypatch) -> None:
    audio = sound(6.0, 22_050)
    paths = [str(write_sf(tmp_path / f"{codec}.wav", audio, 22_050, "WAV", codec)) for codec in ("PCM_32", "DOUBLE")]
    paths += [str(write_sf(tmp_path / "low.wav", sound(6.0, 16_000), 16_000, "WAV", "PCM_16"))]
    paths += [str(write_sf(tmp_path / "long.wav", sound(400.0, 22_050, 2), 22_050, "WAV", "PCM_16"))]
    monkeypatch.setattr("tfpipe.audio.tensorflow_io._MOST_VALUES", 400 * 22_050 * 2 - 1)
    raw = RecordingWindows(paths, SPEC, decoder="tensorflow-io")
    assert not windows_of(raw)
    words = ("PCM_32", "DOUBLE", "16000 Hz", "7 min")
    for index, word in enumerate(words):
        assert raw.failed[index].code == "undecodable"
        assert word in str(raw.failed[index])
        assert "--decoder library" in str(raw.failed[index])


@needs_tfio
def test_tensorflow_io_reads_no_urls() -> None:
    with pytest.raises(UsageError, match=r"s3://bucket/a\.wav"):
        RecordingWindows(["s3://bucket/a.wav"], SPEC, decoder="tensorflow-io")


def test_the_default_decoder_is_the_library(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sound(6.0, 22_050)[:, 0], 22_050)
    assert RecordingWindows([str(tmp_path / "a.wav")], SPEC).decoder == "library"
    with pytest.raises(UsageError, match="library, tensorflow-io"):
        RecordingWindows([], SPEC, decoder="ffmpeg")
