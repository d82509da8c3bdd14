"""The results of a whole run: gathered from its stages, and shown as a table."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfpipe.evaluation.table import pca_name

_WIDTH = 80


def gathered(done: Mapping[str, Mapping[str, Any]], workdir: Path, *, model_name: str) -> dict[str, Any]:
    """Gathers the outputs of the stages in one object.

    Paths are written from `workdir` as it was given this time, because an earlier run, whose outputs are
    reused, may have been called from another folder.

    Args:
        done: the outputs by stage name.
        workdir: the work folder.
        model_name: name to serve the model under.
    """
    models = workdir / "models" / model_name
    report = {name.replace(" ", "_"): dict(made) for name, made in done.items()}
    report["export"]["path"] = str(models / str(report["export"]["version"]))
    report["serve_check"]["folder"] = str(workdir / "check")
    report["report"]["path"] = str(workdir / report["report"]["page"])
    command = f"{_tfpipe()} serve --model_base_path {shlex.quote(str(models))} --model_name {shlex.quote(model_name)}"
    return {"workdir": str(workdir), **report, "serve": command}


def table(report: Mapping[str, Any]) -> str:
    """Returns the report of `tfpipe.workflow.chain.run` as a short table for people."""
    data, training, judged = report["preprocess"], report["train"], report["evaluate"]
    mean, pca = judged["baselines"]["mean"], judged["baselines"]["pca"]
    held_out = f"{judged['windows']} {judged['split']} windows"
    if judged["split"] == "train":
        held_out += ", not held out: too few tracks to hold any out"
    rows = [
        ("tracks", f"{data['tracks']}  ({', '.join(data['labels'])})"),
        ("windows", f"{data['windows']}, {data['silent_windows']} more silent"),
        ("examples", f"{data['examples']}  ({len(data['variants'])} variants)"),
        ("skipped files", _skipped(data["skipped"])),
        ("epochs", f"{training['epochs']}, best {training['best']['epoch']}"),
        ("training mse", f"{training['first_mse']:.5f} -> {training['last_mse']:.5f}  (loss {training['loss']:.4f})"),
        ("prior", _prior(training["prior"])),
        ("reconstruction mse", f"{judged['mse']:.5f}  ({held_out})"),
        ("  mean spectrogram", f"{mean['mse']:.5f}"),
        (f"  {pca_name(pca)}", f"{pca['mse']:.5f}"),
        ("latent", f"{judged['active_units']} of {judged['latent']} dimensions active, KL {judged['kl']:.1f} nats"),
    ]
    paragraphs = [
        *([] if report["changed"] else ["Everything was up to date; nothing was changed."]),
        _aligned([("stage", "time      made"), *_stages(report)]),
        _aligned(rows),
        *_verdict(judged),
        f"Look at the results and listen to them, in a browser:\n  {report['report']['path']}",
        f"Hear what it makes:\n  {_generate(report)}",
        f"Play with it, on a page:\n  {_tfpipe()} studio --model {_model(report)}",
        f"Serve it:\n  {report['serve']}",
    ]
    return "\n" + "\n\n".join(paragraphs)


def _stages(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns a row for each stage: its name, then how long it took and what it made."""
    workdir = Path(report["workdir"])
    made = {
        "preprocess": f"{workdir / 'data'}  ({report['preprocess']['examples']} examples)",
        "verify": "nothing; every shard is as the manifest says",
        "train": f"{workdir / 'run'}  ({report['train']['epochs']} epochs)",
        "evaluate": f"{workdir / 'figures'}",
        "export": report["export"]["path"],
        "serve check": report["serve_check"]["folder"],
        "report": report["report"]["path"],
    }
    seconds = report["seconds"]
    times = {name: f"{seconds[name]:.1f} s" if name in seconds else "as before" for name in made}
    return [(name, f"{times[name]:>9} {what}") for name, what in made.items()]


def _aligned(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _verdict(judged: Mapping[str, Any]) -> list[str]:
    """Returns the verdict of the evaluation; nothing if an earlier version evaluated."""
    text = judged.get("verdict", {}).get("text")
    return [textwrap.fill(text, _WIDTH)] if text else []


def _generate(report: Mapping[str, Any]) -> str:
    """Returns the command that makes a new sound: of a label and as long as a piece, if there is a learned prior."""
    workdir, label = Path(report["workdir"]), next(iter(report["preprocess"]["labels"]))
    asked = f" --label {shlex.quote(label)} --seconds 30" if report["train"]["prior"] else ""
    return f"{_tfpipe()} generate{asked} --model {_model(report)} --out {shlex.quote(str(workdir / 'sounds'))}"


def _model(report: Mapping[str, Any]) -> str:
    """Returns the model's folder as a word of a shell."""
    return shlex.quote(str(Path(report["export"]["path"]).parent))


def _prior(prior: Mapping[str, Any] | None) -> str:
    if prior is None:
        return "standard normal"
    held_out = f", {prior['val_loss']:.4f} on held-out windows" if "val_loss" in prior else ""
    return f"flow, best at step {prior['step']}: loss {prior['loss']:.4f}{held_out}"


def _skipped(skipped: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{count} {code}" for code, count in skipped["by_reason"].items())
    return f"{skipped['total']}" + (f"  ({reasons}); each with its reason in data/skipped.jsonl" if reasons else "")


def _tfpipe() -> str:
    """Returns how to call this `tfpipe` from a shell: by its name if the PATH finds this one, else by its path."""
    script = Path(sys.argv[0])
    if script.name != "tfpipe":
        return f"{shlex.quote(sys.executable)} -m tfpipe"
    found = shutil.which("tfpipe")
    return "tfpipe" if found and Path(found).resolve() == script.resolve() else shlex.quote(str(script.resolve()))
