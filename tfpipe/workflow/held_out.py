"""Which split a run is judged by, and a recording of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What the stages have returned so far, by stage name.
Outputs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class RecordedWindow:
    """One window of a recording.

    Attributes:
        source: the audio file.
        audio: float32 samples `[samples]`.
        sample_rate: Hz.
    """

    source: str
    audio: NDArray[Any]
    sample_rate: int


def held_out_split(done: Outputs) -> str:
    """Returns the split to judge by: test, or the next best that has examples."""
    from tfpipe.data.manifest import held_out_first

    return held_out_first({split: counts["examples"] for split, counts in done["preprocess"]["splits"].items()})[0]


def first_window(data: Path, split: str, *, inputs: Sequence[str]) -> RecordedWindow:
    """Reads the window of a split's first example from its recording; a window of a dataset is never silent.

    Args:
        data: dataset folder.
        split: a split that has examples.
        inputs: what the dataset was made of.
    """
    from beam_jobs.corpus import discover
    from tfpipe.audio.reader import read_window
    from tfpipe.data.manifest import load_manifest, load_tracks
    from tfpipe.data.records import decode_example, read_records
    from tfpipe.files.remote import join

    manifest = load_manifest(data)
    shard = manifest.split_shards(split)[0]
    example = decode_example(next(read_records(data / shard.name)), manifest.spec.mel_shape)
    track = next(track for track in load_tracks(data) if track.hash == example.track)
    source = join(discover(inputs).base, track.path)
    audio = read_window(source, start_s=example.start_s, spec=manifest.spec)
    return RecordedWindow(source=source, audio=audio, sample_rate=manifest.spec.sample_rate)
