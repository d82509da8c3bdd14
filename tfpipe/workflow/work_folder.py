"""The work folder of `tfpipe run`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.files.storage import LOCK, WORK_STATE, read_json
from tfpipe.workflow.configs import PathLike


def work_folder(workdir: PathLike, inputs: Sequence[str]) -> Path:
    """Returns the work folder; refuses one in which other files than ours would be replaced."""
    from tfpipe.files.remote import require_local

    if not str(workdir).strip():
        raise UsageError("the work folder's name is empty; name a folder")
    require_local(str(workdir), what="the work folder")
    folder = Path(workdir).expanduser()
    if any(Path(name).expanduser().resolve() == folder.resolve() for name in inputs):
        raise UsageError(f"work folder {folder}: is an input folder itself; use a folder beside it or inside it")
    if not (folder / WORK_STATE).exists():
        for name in ("data", "run", "models", "figures", "check", "previous", "report.json", "report.html"):
            if (folder / name).exists():
                raise TfpipeError(
                    f"{folder / name}: was not made by `tfpipe run` and would be replaced; use another work folder"
                )
    return folder


def existing_folders(folder: Path) -> set[Path]:
    """Returns which of a work folder, the folders in it and those that it is in exist."""
    return {path for path in (folder, *folder.parents) if path.exists()} | set(map(Path, _within(folder)))


@contextlib.contextmanager
def no_empty_folders(folder: Path, *, before: Collection[Path]) -> Iterator[None]:
    """If the block fails, removes the folders that are new and hold nothing: a run that failed at once leaves none.

    Args:
        folder: the work folder, locked.
        before: the folders that existed before the run.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, TfpipeError):  # the error of the run is the one to show
            for path in [*map(Path, _within(folder)), folder, *folder.parents]:
                if path not in before:
                    _remove_empty(path)
        raise


def _within(folder: Path) -> list[str]:
    """Returns the folders in a folder, the innermost first."""
    return [path for path, _, _ in os.walk(folder, topdown=False) if path != str(folder)]


def _remove_empty(folder: Path) -> None:
    """Removes a folder in which there is at most a lock and the state of a run without a finished stage."""
    names = {path.name for path in folder.iterdir()}
    if names <= {LOCK, WORK_STATE} and not (WORK_STATE in names and read_json(folder / WORK_STATE)):
        for name in names:
            (folder / name).unlink()
        folder.rmdir()
