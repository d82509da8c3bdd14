"""What a dataset is good for, in a few lines: figures of its manifest, and what to expect of training on it.

Reads no example. Does not load TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfpipe.data.manifest import SPLITS, TRACKS, Folder, Manifest, Track, load_tracks
from tfpipe.files.remote import exists, join

# With fewer minutes to train on, a model repeats its recordings instead of making new sounds that are like them.
LITTLE_MINUTES = 20.0
# Training warns if one label has this many times the windows of another, and if a larger share of the windows than this
# is silent.
_UNEQUAL, _MUCH_SILENCE = 5.0, 0.5
# No more tracks of a split, and no more labels, are named.
_TRACKS_NAMED, _LABELS_NAMED = 4, 12


@dataclass(frozen=True, kw_only=True)
class _Amount:
    """Tracks, windows that are not silent, and seconds of audio, silence included."""

    tracks: int
    windows: int
    seconds: float


def describe_corpus(folder: Folder, manifest: Manifest) -> list[str]:
    """Returns how much audio there is of each label and split, what is held out, and what to expect.

    Args:
        folder: dataset folder, local or a URL.
        manifest: its manifest.

    Returns:
        Sentences without a full stop at their end; none if the dataset has no list of tracks.

    Raises:
        DatasetError: the list of tracks is damaged.
    """
    tracks = _tracks(folder)
    return [*_labels(tracks, manifest), *_held_out(tracks), *advice(tracks)] if tracks else []


def corpus_advice(folder: Folder) -> list[str]:
    """Returns the sentences of `describe_corpus` that say what is held out and what to expect."""
    tracks = _tracks(folder)
    return [*_held_out(tracks), *advice(tracks)] if tracks else []


def advice(tracks: Sequence[Track]) -> list[str]:
    """Returns what to expect of training on these tracks, and what to do about it."""
    return [*_about_amount(tracks), *_about_labels(tracks), *_about_silence(tracks)]


def _tracks(folder: Folder) -> list[Track]:
    return load_tracks(folder) if exists(join(folder, TRACKS)) else []


def _amount(tracks: Sequence[Track]) -> _Amount:
    return _Amount(
        tracks=len(tracks),
        windows=sum(track.windows for track in tracks),
        seconds=sum(track.seconds for track in tracks),
    )


def _heard_minutes(tracks: Sequence[Track]) -> float:
    """Returns the minutes of audio that are not in silent windows."""
    return sum(track.seconds * track.windows / max(1, track.windows + track.silent) for track in tracks) / 60.0


def _labels(tracks: Sequence[Track], manifest: Manifest) -> Iterator[str]:
    """Yields a line for each label: minutes, tracks and windows of each split."""
    named, rest = manifest.labels[:_LABELS_NAMED], manifest.labels[_LABELS_NAMED:]
    of_label: dict[str, list[Track]] = {label: [] for label in named}
    others: list[Track] = []
    for track in tracks:
        of_label.get(track.label, others).append(track)
    for label, ours in of_label.items():
        whole = _amount(ours)
        parts = ", ".join(_in_split(split, [track for track in ours if track.split == split]) for split in SPLITS)
        yield f"{label}: {whole.seconds / 60:.1f} min, {whole.windows} windows: {parts}"
    if rest:
        amount = _amount(others)
        yield f"and {len(rest)} more labels: {amount.seconds / 60:.1f} min, {amount.windows} windows"


def _in_split(split: str, tracks: Sequence[Track]) -> str:
    if not tracks:
        return f"{split} none"
    amount = _amount(tracks)
    return f"{split} {amount.windows} of {amount.tracks} {_plural('track', amount.tracks)}"


def _held_out(tracks: Sequence[Track]) -> Iterator[str]:
    """Yields the names of the tracks that are not trained on, and how to choose others."""
    names = {split: sorted(track.path for track in tracks if track.split == split) for split in SPLITS[1:]}
    said = "; ".join(f"{split} {_some(paths)}" for split, paths in names.items() if paths)
    choose = "to choose, preprocess with --splits-from LIST.csv, a list with the columns path,split"
    if said:
        yield f"held out: {said} ({choose})"
    if not names["validation"]:
        yield "no track is held out for validation, so it does not show when the model overfits; add tracks"
    elif not names["test"]:
        yield "no track is held out for test; judge the model with `tfpipe evaluate --split validation`"


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _TRACKS_NAMED} more (in {TRACKS})" if len(paths) > _TRACKS_NAMED else ""
    return ", ".join(paths[:_TRACKS_NAMED]) + more


def _about_amount(tracks: Sequence[Track]) -> Iterator[str]:
    training = [track for track in tracks if track.split == "train"]
    minutes = _heard_minutes(training)
    if len(training) == 1:
        yield (
            f"one track to train on, {minutes:.1f} min: the model can only learn to repeat it; add tracks, or begin "
            "with a model of more recordings (--init RUN)"
        )
    elif minutes < LITTLE_MINUTES:
        yield (
            f"{minutes:.1f} min to train on is little: expect blurred draws, or draws that repeat the recordings; "
            f"use {LITTLE_MINUTES:.0f} min or more, or begin with a model of more recordings (--init RUN)"
        )


def _about_labels(tracks: Sequence[Track]) -> Iterator[str]:
    windows: dict[str, int] = {}
    for track in tracks:
        windows[track.label] = windows.get(track.label, 0) + track.windows * (track.split == "train")
    most, least = (pick(sorted(windows), key=lambda label: windows[label]) for pick in (max, min))
    if len(windows) == 1:
        yield f"one label, {most}: draws cannot be asked for by label; give each kind of sound a folder of its own"
    elif windows[most] >= _UNEQUAL * max(1, windows[least]):
        yield (
            f"{most} has {windows[most] / max(1, windows[least]):.0f} times as much to train on as {least}: draws of "
            f"{least} will be worse; add recordings of {least}"
        )


def _about_silence(tracks: Sequence[Track]) -> Iterator[str]:
    silent, heard = sum(track.silent for track in tracks), sum(track.windows for track in tracks)
    if silent >= _MUCH_SILENCE * (silent + heard):
        yield (
            f"{silent / (silent + heard):.0%} of the windows are silent and left out; check the recordings, or lower "
            "--silence-dbfs of `tfpipe preprocess` if they are quiet"
        )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
