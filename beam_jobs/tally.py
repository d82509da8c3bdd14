"""Counts what the scans gave, in parts that can be joined, and says when too few files can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from beam_jobs.config import PreprocessConfig
from beam_jobs.scan import Scan
from tfpipe.data.manifest import Skipped
from tfpipe.errors import TfpipeError


@dataclass(kw_only=True)
class Tally:
    """What is known of the files of a range, or of all files, once duplicates are found.

    Attributes:
        found: number of files.
        tracks: number of tracks that are used.
        duplicates: number of files that are left out because another has the same content.
        silent: number of silent windows in the tracks.
        labels: labels of the tracks.
        units: number of tracks without a group, and of groups.
        reasons: number of unusable files by reason code; duplicates are not counted here.
        first: the first unusable file, and its place in the order of the corpus.
    """

    found: int = 0
    tracks: int = 0
    duplicates: int = 0
    silent: int = 0
    labels: set[str] = field(default_factory=set)
    units: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: tuple[int, Skipped] | None = None

    def add_track(self, scan: Scan) -> None:
        """Counts a track that is used; its group, if it has one, is counted elsewhere."""
        self.found += 1
        self.tracks += 1
        self.silent += scan.silent
        self.labels.add(scan.file.label)
        self.units += not scan.file.group

    def add_duplicate(self) -> None:
        """Counts a file that is left out because another has the same content."""
        self.found += 1
        self.duplicates += 1

    def add_unusable(self, number: int, row: Skipped) -> None:
        """Counts a file that cannot be used; `number` is its place in the order of the corpus."""
        self.found += 1
        self.reasons[row.code] += 1
        if self.first is None or number < self.first[0]:
            self.first = (number, row)

    def join(self, other: Tally) -> None:
        """Adds the counts of other files."""
        self.found += other.found
        self.tracks += other.tracks
        self.duplicates += other.duplicates
        self.silent += other.silent
        self.labels |= other.labels
        self.units += other.units
        self.reasons += other.reasons
        firsts = [first for first in (self.first, other.first) if first is not None]
        self.first = min(firsts, key=lambda first: first[0], default=None)

    def require_enough(self, config: PreprocessConfig) -> None:
        """Checks that enough files can be used; duplicates do not count as unusable.

        Raises:
            TfpipeError: no file is usable, or more than `max_skipped` of the files cannot be used.
        """
        bad = self.reasons.total()
        if self.tracks and bad <= config.max_skipped * self.found:
            return
        first = self.first[1] if self.first else Skipped(path="", code="", message="")
        if set(self.reasons) == {"too_short"} and not self.tracks:
            needed = config.min_fill * config.spec.window_s
            raise TfpipeError(
                f"all {self.found} files are shorter than {needed:g} s, which one window needs; "
                "give longer recordings, or lower --window-s or --min-fill"
            )
        if set(self.reasons) == {"silent"} and not self.tracks:
            raise TfpipeError(
                f"all {self.found} files are silent: every window is under {config.spec.silence_dbfs:g} dBFS, as in "
                f"{first.path}; check the recordings, or lower --silence-dbfs if they are only quiet"
            )
        summary = ", ".join(f"{count} {code}" for code, count in sorted(self.reasons.items()))
        more = f" (more than the allowed {config.max_skipped:.0%}; raise --max-skipped to continue)"
        raise TfpipeError(
            f"{bad} of {self.found} audio files cannot be used{more if self.tracks else ''}: {summary}; "
            f"the first is {first.message}"
        )


def tally_of(skipped: Iterable[Skipped]) -> Tally:
    """Returns the tally of the files that were left out before any file was opened; they come before all others."""
    tally = Tally()
    for row in skipped:
        tally.add_unusable(-1, row)
    return tally
