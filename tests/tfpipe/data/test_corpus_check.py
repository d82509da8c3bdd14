"""What is said of a corpus before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfpipe.data.corpus_check import advice, corpus_advice, describe_corpus
from tfpipe.data.manifest import TRACKS, Manifest, Track, lines
from tfpipe.spec import FeatureSpec


def track(name: str, split: str = "train", *, minutes: float = 20.0, **values: Any) -> Track:
    label = name.partition("/")[0]
    windows = int(minutes * 12)
    defaults = {"windows": windows, "silent": 0, "variants": 6}
    return Track(path=name, hash=name, label=label, split=split, seconds=60 * minutes, **{**defaults, **values})


def described(folder: Path, tracks: list[Track]) -> list[str]:
    (folder / TRACKS).write_bytes(lines(tracks))
    labels = tuple(sorted({each.label for each in tracks}))
    return describe_corpus(folder, Manifest(spec=FeatureSpec(), labels=labels, shards=()))


def test_each_label_has_a_line_and_held_out_tracks_are_named(tmp_path: Path) -> None:
    tracks = [track("A/1"), track("A/2", "validation"), track("B/1"), track("B/2"), track("B/3", "test", minutes=10)]
    said = described(tmp_path, tracks)
    assert said[:2] == [
        "A: 40.0 min, 480 windows: train 240 of 1 track, validation 240 of 1 track, test none",
        "B: 50.0 min, 600 windows: train 480 of 2 tracks, validation none, test 120 of 1 track",
    ]
    assert said[2].startswith("held out: validation A/2; test B/3 (to choose, preprocess with")
    assert "--splits-from" in said[2]
    assert len(said) == 3
    assert corpus_advice(tmp_path) == said[2:]


def test_many_labels_and_held_out_tracks_are_summed_up(tmp_path: Path) -> None:
    tracks = [track(f"L{index:02}/{split}", split) for index in range(14) for split in ("train", "validation", "test")]
    said = described(tmp_path, tracks)
    assert said[12] == "and 2 more labels: 120.0 min, 1440 windows"
    assert "validation L00/validation, L01/validation, L02/validation, L03/validation and 10 more" in said[13]


@pytest.mark.parametrize(
    ("tracks", "words"),
    [
        ([track("A/1", minutes=5)], "one track to train on, 5.0 min: the model can only learn to repeat it"),
        ([track("A/1", minutes=5), track("B/1", minutes=5)], "10.0 min to train on is little: expect blurred draws"),
        ([track("A/1"), track("A/2")], "one label, A: draws cannot be asked for by label"),
        ([track("A/1", minutes=60), track("B/1", minutes=10)], "A has 6 times as much to train on as B"),
        ([track("A/1"), track("B/1", "test")], "times as much to train on as B"),
        ([track("A/1", silent=720, windows=240), track("B/1")], "60% of the windows are silent and left out"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(tracks: list[Track], words: str) -> None:
    assert any(words in sentence for sentence in advice(tracks)), advice(tracks)


def test_silence_does_not_count_as_audio_to_train_on() -> None:
    tracks = [track("A/1", minutes=300, windows=12, silent=3588), track("B/1", minutes=1)]
    assert any(sentence.startswith("2.0 min to train on is little") for sentence in advice(tracks))


def test_a_corpus_without_held_out_tracks_says_so(tmp_path: Path) -> None:
    assert any("no track is held out for validation" in line for line in described(tmp_path, [track("A/1")]))
    few = [track("A/1"), track("A/2"), track("A/3", "validation")]
    assert any("judge the model with `tfpipe evaluate --split validation`" in line for line in described(tmp_path, few))


def test_a_good_corpus_needs_no_advice_and_a_dataset_without_tracks_has_none(tmp_path: Path) -> None:
    assert advice([track("A/1"), track("A/2"), track("B/1"), track("B/2")]) == []
    assert describe_corpus(tmp_path, Manifest(spec=FeatureSpec(), labels=("A",), shards=())) == []
