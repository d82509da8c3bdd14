"""The `Job`: everything that the job's process and its workers need, sent to them as one pickle."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import Corpus
from beam_jobs.scan import Scan
from beam_jobs.versions import content_versions
from tfpipe.files import remote
from tfpipe.files.storage import digest

# A range of content hashes holds half of this to this many tracks, as far as there are not more ranges than the limit.
_TRACKS_IN_RANGE = 2000
_MOST_RANGES = 4096


class Block(NamedTuple):
    """Consecutive lines of a file in the plan folder.

    Attributes:
        first: number of the first line, from 0.
        offset: where that line begins, in bytes.
        lines: number of lines.
    """

    first: int
    offset: int
    lines: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of finished examples, in key order.

    Attributes:
        path: the file. Examples after a damaged record are not used.
        first: key of its first example.
        last: key of its last example, or a larger text if that key is not known.
    """

    path: str
    first: str
    last: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the pipeline.

    Attributes:
        config: the settings.
        corpus: the files. `beam_jobs.parts.stage` writes them into the plan folder and returns a job without them.
        pipeline_args: Beam options, as on a command line.
        known: scans of an earlier job, by path; the file may have changed since.
        sources: files that may hold examples made with the same settings and tools.
        least_free: bytes of the output's disk that stay free while scans keep examples; None if they keep none.
        counts: folder on the command's machine where workers write their counts.
        files: number of files in the plan folder.
        blocks: where they are in the list of files.
        split_blocks: where the splits to keep are in their list.
        has_groups: whether any file has a group.
        run: name of this run, different for each.
    """

    config: PreprocessConfig
    corpus: Corpus
    pipeline_args: tuple[str, ...] = ()
    known: Mapping[str, Scan] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    least_free: int | None = None
    counts: str = ""
    files: int = 0
    blocks: tuple[Block, ...] = ()
    split_blocks: tuple[Block, ...] = ()
    has_groups: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def scratch(self) -> str:
        """Folder for everything that is not part of the dataset yet."""
        return remote.join(self.config.output, ".work")

    @property
    def work(self) -> str:
        """Subfolder of `scratch` for the shards of these settings and tools."""
        return remote.join(self.scratch, self.example_digest)

    @property
    def early_folder(self) -> str:
        """Subfolder of `work` for the examples that scans make."""
        return remote.join(self.work, "early")

    @property
    def plan_folder(self) -> str:
        """Subfolder of `scratch` for the plan of this run."""
        return remote.join(self.scratch, f"plan-{self.run}")

    @property
    def ranges(self) -> int:
        """Number of ranges of content hashes, a power of 2."""
        return min(_MOST_RANGES, 1 << (self.files // _TRACKS_IN_RANGE).bit_length())

    @functools.cached_property
    def example_digest(self) -> str:
        """16 hex digits over all that the bytes of an example depend on, except the recording."""
        return digest([self.config.example_digest, content_versions()])

    @functools.cached_property
    def scan_digest(self) -> str:
        """16 hex digits over all that a scan depends on, except the file."""
        return digest([self.config.scan_digest, content_versions()])
