"""Stages that run once: each is skipped while what it depends on has not changed.

A stage is written down as done only after it has returned, so a killed run
starts again at the first unfinished stage. Loads no TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe.errors import TfpipeError
from tfpipe.files.storage import digest, read_json, write_json

STATE = "stages.json"
Outputs = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a workflow.

    Attributes:
        name: what it is called in the state file and on the screen.
        inputs: from the outputs of the stages before, JSON values that decide this stage's result;
            None when the stage finds out by itself and may run every time.
        run: does the work, given the outputs of the stages before; returns JSON values for later ones.
        stands: tells, given its recorded outputs, whether what the stage made is still there.
    """

    name: str
    inputs: Callable[[Mapping[str, Outputs]], Any] | None
    run: Callable[[Mapping[str, Outputs]], Outputs]
    stands: Callable[[Outputs], bool] = lambda outputs: True


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a workflow came to.

    Attributes:
        outputs: by stage name.
        worked: names of the stages that had to work.
    """

    outputs: Mapping[str, Outputs]
    worked: tuple[str, ...]


def run_stages(folder: Path, stages: Sequence[Stage], *, say: Callable[[str], None]) -> Result:
    """Runs the stages in order, each only if it has to.

    Args:
        folder: holds the state file.
        stages: in order.
        say: gets one line per stage.

    Raises:
        TfpipeError: from a stage; the stages before it stay done.
    """
    state = _read(folder / STATE)
    outputs: dict[str, Outputs] = {}
    worked = []
    for number, stage in enumerate(stages, start=1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        known = state.get(stage.name)
        wanted = digest(stage.inputs(outputs)) if stage.inputs else None
        if known and wanted is not None and known["inputs"] == wanted and stage.stands(known["outputs"]):
            say(f"{title}: up to date")
            outputs[stage.name] = known["outputs"]
            continue
        say(f"{title} ...")
        started = time.monotonic()
        made = dict(stage.run(outputs))
        outputs[stage.name] = made
        if wanted is not None or known is None or known["outputs"] != made:
            worked.append(stage.name)
            state[stage.name] = {"inputs": wanted, "outputs": made}
            write_json(folder / STATE, state)
        say(f"{title}: done in {time.monotonic() - started:.1f} s")
    return Result(outputs=outputs, worked=tuple(worked))


def _read(path: Path) -> dict[str, Any]:
    """Reads the state; what is missing or damaged counts as not done, and is done again."""
    try:
        state = read_json(path)
    except TfpipeError:
        return {}
    entries = state.items() if isinstance(state, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and {"inputs", "outputs"} <= set(entry)}
