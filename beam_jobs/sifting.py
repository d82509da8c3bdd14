"""Sifts the scans of one range of content hashes: which files are tracks, which are left out, and which split is kept.

All files of one content are in the same range, so each range is sifted on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from beam_jobs.scan import Scan
from beam_jobs.tally import Tally
from tfpipe.data.manifest import Skipped

DUPLICATE = "duplicate"
# Hex digits that decide the range of a content hash. Ranges are a power of 2, at most 16 to this power.
_DIGITS = 4
# Files by their place in the order of the corpus.
Numbered = tuple[int, Scan]


@dataclass(frozen=True, kw_only=True)
class Sifted:
    """What the files of a range are.

    Attributes:
        tracks: the files that are used, in the order of their hashes.
        skipped: the files that are left out, duplicates included, each with its place in the order of the corpus.
        tally: counts of the files.
        kept: splits that must not change, by content hash, for the tracks of this range.
        input_splits: content hash and kept split of every file that has both, sorted, for the digest of the input.
    """

    tracks: tuple[Scan, ...]
    skipped: tuple[tuple[int, Skipped], ...]
    tally: Tally
    kept: Mapping[str, str]
    input_splits: tuple[tuple[str, str], ...]


def range_of(content: str, ranges: int) -> int:
    """Returns the range of a content hash; ranges are in the order of the hashes.

    Args:
        content: the hash, hex.
        ranges: number of ranges, a power of 2.
    """
    return int(content[:_DIGITS].ljust(_DIGITS, "0"), 16) * ranges >> 4 * _DIGITS


def sift(rows: Iterable[Numbered], *, kept: Mapping[str, str]) -> Sifted:
    """Sifts the scans of a range. Of files with the same content the first in the order of the corpus is used.

    Args:
        rows: all scans of the range, in any order.
        kept: splits to keep, by content hash; a split that a person chose for a file wins.
    """
    ordered = sorted(rows, key=lambda row: row[0])
    first: dict[str, Scan] = {}
    tally, skipped = Tally(), list[tuple[int, Skipped]]()
    for number, scan in ordered:
        if scan.skipped is not None:
            tally.add_unusable(number, scan.skipped)
            skipped.append((number, scan.skipped))
        elif (original := first.setdefault(scan.hash, scan)) is scan:
            tally.add_track(scan)
        else:
            tally.add_duplicate()
            skipped.append((number, _duplicate(scan, original)))
    tracks = tuple(first[content] for content in sorted(first))
    chosen = {scan.hash: scan.file.split for scan in tracks if scan.file.split}
    return Sifted(
        tracks=tracks,
        skipped=tuple(skipped),
        tally=tally,
        kept={scan.hash: split for scan in tracks if (split := chosen.get(scan.hash) or kept.get(scan.hash))},
        input_splits=input_splits([(scan.hash, scan.file.split) for _, scan in ordered], kept),
    )


def input_splits(files: Sequence[tuple[str, str]], kept: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns content hash and split of every file whose content keeps a split, sorted.

    Args:
        files: content hash and chosen split of each file, in the order of the corpus. The hash is empty if the file
            could not be read, and the split if none was chosen.
        kept: splits to keep, by content hash.
    """
    chosen = {**kept, **{content: split for content, split in files if split}}
    return tuple(sorted((content, chosen[content]) for content, _ in files if content and content in chosen))


def _duplicate(scan: Scan, original: Scan) -> Skipped:
    message = f"{scan.file.path}: same content as {original.file.path}, which is kept"
    if scan.file.label != original.file.label:
        message += f" with label {original.file.label!r} instead of {scan.file.label!r}"
    if scan.file.group != original.file.group:
        message += f" in group {original.file.group!r} instead of {scan.file.group!r}"
    return Skipped(path=scan.file.name, code=DUPLICATE, message=message)
