"""What a run was trained on: its recordings with checksums, and their licences. Loads no TensorFlow.

A run stores this as `sources.json`, and an export copies it into the model. Licences are found beside the recordings
or in the dataset folder: a list `licences.csv` with the columns `path,licence`, and text files such as `LICENCES.md`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfpipe.data.manifest import TRACKS, Folder, Manifest, Track, load_tracks
from tfpipe.errors import DatasetError, TfpipeError, translate_os_errors
from tfpipe.files.remote import exists, is_remote, join
from tfpipe.files.storage import write_json

SOURCES, EVALUATION = "sources.json", "evaluation.json"
LICENCE_LIST = "licences.csv"
# A text file beside the recordings counts as their licence if its name begins with one of these words. A readme counts
# only if there is no such file.
_LICENCE_NAMES, _README = ("licence", "license", "copying"), "readme"
_TEXT_SUFFIXES = ("", ".md", ".txt", ".rst")
# Longer texts are cut, and no more folders of recordings than this are looked into.
_MAX_CHARACTERS, _MAX_FOLDERS = 20_000, 200


def keep_evaluation(run: Path, result: Mapping[str, Any]) -> None:
    """Writes whether draws are copies of training windows into the run folder, for the model card.

    Args:
        run: run folder. If it cannot be written, nothing is kept.
        result: what `tfpipe.evaluation.evaluate.evaluate` measured.
    """
    nearest = result["draws"].get("nearest_training", {})
    if "copies" in nearest:
        kept = {name: result[name] for name in ("checkpoint", "split", "windows", "mse")}
        with contextlib.suppress(TfpipeError):
            write_json(run / EVALUATION, {**kept, "draws": {"nearest_training": nearest}})


def find_sources(data: Folder, manifest: Manifest) -> dict[str, Any]:
    """Returns the content of `sources.json`.

    Args:
        data: dataset folder, local or a URL.
        manifest: its manifest. It says where the recordings were; they need not be there any more.

    Returns:
        `dataset` (fingerprint); `tracks`: for each `path`, `label`, `split`, `seconds`, `sha256`, and `licence` where
        one is listed; `licences`: for each text file `file`, `sha256` and `text`.

    Raises:
        DatasetError: a list of licences is wrong.
    """
    tracks: list[Track] = []
    with contextlib.suppress(DatasetError):  # training does not need this list
        tracks = load_tracks(data) if exists(join(data, TRACKS)) else []
    places = [Path(place) for place in (manifest.config.get("base") or "", data) if place and not is_remote(place)]
    licences = {name: text for place in places for name, text in _licence_list(place / LICENCE_LIST)}
    return {
        "dataset": manifest.fingerprint,
        "tracks": [_row(track, licences) for track in sorted(tracks, key=lambda track: (track.label, track.path))],
        "licences": list(_texts(_folders(places, tracks), tracks)),
    }


def _row(track: Track, licences: Mapping[str, str]) -> dict[str, Any]:
    row = {"path": track.path, "label": track.label, "split": track.split, "seconds": track.seconds}
    # The line of the track itself, or of the nearest folder around it.
    around = [track.path, *(parent.as_posix() for parent in Path(track.path).parents)]
    found = next((licences[name] for name in around if name in licences), None)
    return {**row, "sha256": track.hash, **({"licence": found} if found is not None else {})}


def _licence_list(path: Path) -> Iterator[tuple[str, str]]:
    """Yields path, relative to the list's folder, and licence of each line of a list.

    Raises:
        DatasetError: a column is missing.
    """
    if not path.is_file():
        return
    with translate_os_errors(path):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    rows = csv.DictReader(io.StringIO(text))
    for name in ("path", "licence"):
        if name not in (rows.fieldnames or ()):
            raise DatasetError(f"{path}: no column {name!r}; the first line must be path,licence")
    for row in rows:
        yield Path(str(row["path"]).strip() or ".").as_posix(), str(row["licence"] or "").strip()


def _folders(places: Sequence[Path], tracks: Sequence[Track]) -> list[Path]:
    """Returns the folders in which licences are looked for: the given ones, and those of the tracks below them."""
    below = sorted({parent for track in tracks for parent in Path(track.path).parents} - {Path()})
    return [*places, *(place / folder for place in places[:1] for folder in below[:_MAX_FOLDERS])]


def _texts(folders: Sequence[Path], tracks: Sequence[Track]) -> Iterator[dict[str, Any]]:
    """Yields the licence texts in the folders, each content once; readmes if there is no licence."""
    recordings = {Path(track.path).name for track in tracks}
    files = [path for folder in folders for path in _files(folder)]
    texts = [path for path in files if path.suffix.lower() in _TEXT_SUFFIXES and path.name not in recordings]
    licences = [path for path in texts if path.name.lower().startswith(_LICENCE_NAMES)]
    seen = set()
    for path in licences or [path for path in texts if path.stem.lower() == _README]:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if (sha256 := hashlib.sha256(content).hexdigest()) not in seen:
            seen.add(sha256)
            text = content.decode("utf-8", "replace")[:_MAX_CHARACTERS]
            yield {"file": path.name, "sha256": sha256, "text": text}


def _files(folder: Path) -> list[Path]:
    """Returns the files in a folder; none if it is not there any more, or cannot be read."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_file()]
    except OSError:
        return []
