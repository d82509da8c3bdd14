"""Runs a list of stages and skips each one that is up to date: nothing that it depends on has changed.

A stage is recorded as done only after it has returned, so a run that was killed starts again at the first
unfinished stage. Loads no TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe.errors import TfpipeError
from tfpipe.files.storage import WORK_STATE, digest, read_json, write_json

Outputs = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a workflow.

    Attributes:
        name: its name in the state file and on the screen.
        inputs: given the outputs of the stages before, returns the JSON values that decide this stage's
            result. None if the stage must run every time, because it finds out by itself what to do.
        run: does the work, given the outputs of the stages before; returns JSON values for the stages after.
        intact: given the recorded outputs, tells whether the files that the stage made are still there.
    """

    name: str
    inputs: Callable[[Mapping[str, Outputs]], Any] | None
    run: Callable[[Mapping[str, Outputs]], Outputs]
    intact: Callable[[Outputs], bool] = lambda outputs: True


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a workflow.

    Attributes:
        outputs: by stage name.
        worked: names of the stages that were not up to date.
        seconds: how long each of them took, in s.
    """

    outputs: Mapping[str, Outputs]
    worked: tuple[str, ...]
    seconds: Mapping[str, float]


def run_stages(folder: Path, stages: Sequence[Stage], *, say: Callable[[str], None]) -> Result:
    """Runs the stages in order, each only if it has to.

    Args:
        folder: holds the state file.
        stages: in order.
        say: gets one line when a stage begins and one when it ends.

    Returns:
        The outputs of all stages, those that were up to date included.

    Raises:
        TfpipeError: from a stage; the stages before it stay done.
    """
    state = _read(folder / WORK_STATE)
    outputs: dict[str, Outputs] = {}
    seconds: dict[str, float] = {}
    for number, stage in enumerate(stages, start=1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        known = state.get(stage.name)
        wanted = digest(stage.inputs(outputs)) if stage.inputs else None
        if known and wanted is not None and known["inputs"] == wanted and stage.intact(known["outputs"]):
            say(f"{title}: up to date")
            outputs[stage.name] = known["outputs"]
            continue
        say(f"{title} ...")
        started = time.monotonic()
        made = dict(stage.run(outputs))
        outputs[stage.name] = made
        took = time.monotonic() - started
        if wanted is not None or known is None or known["outputs"] != made:
            seconds[stage.name] = took
            state[stage.name] = {"inputs": wanted, "outputs": made}
            write_json(folder / WORK_STATE, state)
        say(f"{title}: done in {took:.1f} s")
    return Result(outputs=outputs, worked=tuple(seconds), seconds=seconds)


def _read(path: Path) -> dict[str, Any]:
    """Reads the state file. A stage whose entry is missing or damaged counts as not done."""
    try:
        state = read_json(path)
    except TfpipeError:
        return {}
    entries = state.items() if isinstance(state, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and {"inputs", "outputs"} <= set(entry)}
