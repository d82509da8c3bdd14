"""The work folder of `tfpipe run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.files.storage import WORK_STATE
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
