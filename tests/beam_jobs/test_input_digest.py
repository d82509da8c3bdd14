"""The digest of a job's input is the same for the same files, whoever computes it."""

import dataclasses

from beam_jobs.corpus import AudioFile
from beam_jobs.input_digest import input_digest
from beam_jobs.parts import input_row, split_row
from beam_jobs.sifting import input_splits
from tfpipe.data.manifest import Skipped
from tfpipe.files.storage import digest

FILES = [
    AudioFile("A/\udcff.wav", "/in/A/\udcff.wav", "A"),
    AudioFile('A/"\t\n.wav', "/in/x", "A", "g", "test"),
    AudioFile("B/é.wav", "/in/B/é.wav", "B"),
]
HASHES = ["11", "00", ""]


def digest_of(files, hashes, kept, skipped=()):
    rows = [
        input_row(file, content).encode("utf-8", "surrogateescape") for file, content in zip(files, hashes, strict=True)
    ]
    splits = input_splits([(content, file.split) for file, content in zip(files, hashes, strict=True)], kept)
    return input_digest(rows, skipped=skipped, splits=[split_row(*row).encode() for row in splits])


def test_it_is_the_digest_of_all_parts_together():
    skipped = [Skipped(path="z", code="missing", message="m"), Skipped(path="\udcfe", code="empty", message="m")]
    whole = {
        "files": [[file.name, file.label, file.group, content] for file, content in zip(FILES, HASHES, strict=True)],
        "skipped": sorted([row.path, row.code] for row in skipped),
        "splits": [["00", "test"], ["11", "train"]],
    }
    assert digest_of(FILES, HASHES, {"11": "train", "22": "test"}, skipped) == digest(whole)
    assert digest_of([], [], {}) == digest({"files": [], "skipped": [], "splits": []})


def test_a_chosen_split_counts_like_a_kept_one():
    without = [FILES[0], dataclasses.replace(FILES[1], split=""), FILES[2]]
    assert digest_of(FILES, HASHES, {}) != digest_of(without, HASHES, {})
    assert digest_of(FILES, HASHES, {}) == digest_of(without, HASHES, {"00": "test"})
