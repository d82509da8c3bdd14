"""The digest of a job's input, by which a later job knows whether the files are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from tfpipe.data.manifest import Skipped


def input_digest(files: Iterable[bytes], *, skipped: Iterable[Skipped], splits: Iterable[bytes]) -> str:
    """Returns 16 hex digits over the files with their content hashes, the skipped files and the kept splits.

    It is what `tfpipe.files.storage.digest` gives for these three, without holding them.

    Args:
        files: the `beam_jobs.parts.input_row` of every file, in the order of the corpus.
        skipped: files that were skipped before any file was opened.
        splits: rows of content hash and kept split (`beam_jobs.parts.split_row`), sorted.
    """
    found = hashlib.sha256()
    left_out = sorted([row.path, row.code] for row in skipped)
    parts = {
        "files": files,
        "skipped": (json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape") for row in left_out),
        "splits": splits,
    }
    for number, (name, rows) in enumerate(parts.items()):
        found.update(f'{", " if number else "{"}"{name}": ['.encode())
        for place, row in enumerate(rows):
            found.update(b", " + row if place else row)
        found.update(b"]")
    found.update(b"}")
    return found.hexdigest()[:16]
