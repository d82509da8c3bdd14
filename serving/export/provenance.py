"""Where a model comes from, for its model card: recordings, licences, checksums, and whether draws are copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe.files.storage import read_json
from tfpipe.training.sources import EVALUATION, LICENCE_LIST, SOURCES

# A model card lists at most this many recordings, and this many characters of each licence text.
_LISTED, _CHARACTERS = 30, 4_000


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a run folder says about where a model comes from.

    Attributes:
        sources: `sources.json` of the run; None if the run is of an earlier version.
        evaluation: what `tfpipe evaluate` found for this checkpoint; None if it was not run.
    """

    sources: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None


def read_provenance(run: Path, *, step: int) -> Provenance:
    """Reads what a run folder says about where a model comes from.

    Args:
        run: run folder.
        step: step of the checkpoint; an evaluation of another one is left out.
    """
    sources = read_json(run / SOURCES) if (run / SOURCES).is_file() else None
    evaluation = read_json(run / EVALUATION) if (run / EVALUATION).is_file() else None
    if evaluation is not None and evaluation.get("checkpoint", {}).get("step") != step:
        evaluation = None
    return Provenance(sources=sources, evaluation=evaluation)


def training_table(metadata: Mapping[str, Any]) -> str:
    """Returns what is known of a model's training as a table in Markdown, a row for each fact and figure.

    Args:
        metadata: of the model. A mapping in it has a row for each of its values: the figures of the epoch (`metrics`)
            under their own names, others with the name of the mapping before theirs.
    """
    rows: dict[str, Any] = {}
    for name, value in metadata.items():
        inside = value if isinstance(value, Mapping) else {"": value}
        prefix = "" if name == "metrics" else name
        rows |= {f"{prefix} {key}".strip(): figure for key, figure in inside.items()}
    lines = [f"| {_cell(name)} | {_shown(value)} |" for name, value in rows.items()]
    return "\n".join(["| training | value |", "| --- | --- |", *lines])


def _shown(value: Any) -> str:
    """Returns a value for people: numbers with five digits."""
    return f"{value:.5g}" if isinstance(value, float) else _cell(str(value))


def card_sections(found: Provenance) -> str:
    """Returns the sections of a model card, in Markdown."""
    return "\n".join(["", *_sources(found.sources), "", *_memorising(found.evaluation), ""])


def _sources(sources: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Recordings"
    yield ""
    if not sources or not sources["tracks"]:
        yield "The run does not say which recordings it was trained on."
        return
    tracks = sources["tracks"]
    minutes = sum(track["seconds"] for track in tracks) / 60.0
    yield f"{len(tracks)} recordings, {minutes:.1f} min, of the dataset `{sources['dataset']}`. Those with the split"
    yield "`train` were trained on, the others only measured. `sources.json` has whole checksums" + (
        f" and all recordings; here are {_LISTED}." if len(tracks) > _LISTED else "."
    )
    yield ""
    yield "| recording | label | split | length | licence | SHA-256 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for track in tracks[:_LISTED]:
        cells = (
            track["path"],
            track["label"],
            track["split"],
            f"{track['seconds']:.1f} s",
            track.get("licence") or "-",
        )
        yield f"| {' | '.join(map(_cell, cells))} | `{track['sha256'][:16]}` |"
    yield ""
    yield from _licences(sources["licences"], listed=any(track.get("licence") for track in tracks))


def _licences(texts: Sequence[Mapping[str, Any]], *, listed: bool) -> Iterator[str]:
    if not texts and not listed:
        yield f"No licences were given. A `{LICENCE_LIST}` or `LICENCES.md` beside the recordings would be shown here."
    for text in texts:
        cut = text["text"][:_CHARACTERS]
        yield f"### {_cell(text['file'])}"
        yield ""
        yield from (f"    {line}" for line in cut.splitlines())
        if len(cut) < len(text["text"]):
            yield "    ... (all of it is in sources.json)"
        yield ""


def _memorising(evaluation: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Does it repeat its recordings?"
    yield ""
    nearest = ((evaluation or {}).get("draws") or {}).get("nearest_training") or {}
    if "copies" not in nearest:
        yield "Not measured. `tfpipe run` and `tfpipe evaluate` measure it before the export."
        return
    yield f"{nearest['copies']:.1%} of the draws are near-copies of a training window; of held-out windows"
    yield f"{nearest['copies_held_out']:.1%} are. The median distance to the nearest training window is"
    yield f"{nearest['draws']:.2f} for draws and {nearest['held_out']:.2f} for held-out windows."


def _cell(text: str) -> str:
    """Returns text that can stand in a cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())
