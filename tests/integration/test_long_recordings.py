"""A long recording needs no more memory than a short one."""

import numpy as np
import pytest
import soundfile
from audio_files import sound
from job_memory import run_watched
from job_tools import spec_options

from tfpipe.data.manifest import load_manifest

_MINUTES, _CHANNELS = (1, 8), 6


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "codec"), [("wav", "FLOAT"), ("flac", "PCM_16")])
def test_memory_does_not_grow_with_the_length_of_a_recording(suffix, codec, tmp_path):
    peaks, examples = [], []
    for minutes in _MINUTES:
        path = tmp_path / f"in{minutes}" / "Piano" / f"x.{suffix}"
        path.parent.mkdir(parents=True)
        with soundfile.SoundFile(path, "w", 8_000, _CHANNELS, subtype=codec) as file:
            for minute in range(minutes):
                file.write(sound(60, 8_000, _CHANNELS, seed=minute))
        arguments = ["preprocess", path.parents[1], "--output", tmp_path / f"out{minutes}", "--shard-mib", "2"]
        shaped = ["--semitones", "0,4", "--chords", "", *spec_options(sample_rate=8_000, window_s=2.0, fmax=4_000.0)]
        code, _, errors, used = run_watched([*arguments, *shaped], seconds=200)
        assert code == 0, errors
        peaks.append(used[-1])
        examples.append(sum(shard.examples for shard in load_manifest(tmp_path / f"out{minutes}").shards))
    assert examples == [minutes * 60 for minutes in _MINUTES]
    assert max(peaks) < 2**30
    # The long file would take 180 MB as float64 if it were decoded as a whole.
    assert np.diff(peaks)[0] < 64 * 2**20, peaks
