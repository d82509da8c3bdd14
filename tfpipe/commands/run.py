"""`tfpipe run`: the whole chain, from folders of audio to a model that answers, resumable."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfpipe.commands.preprocess import add_corpus_arguments, config_from_args
from tfpipe.commands.train import add_training_arguments, training_settings
from tfpipe.errors import DatasetError, TfpipeError, UsageError

HELP = "do it all: preprocess, verify, train, evaluate, export, and check the served model"
Outputs = Mapping[str, Mapping[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options: those of preprocess and train, and the place to work in."""
    add_corpus_arguments(parser)
    add_training_arguments(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder for everything that is made")
    parser.add_argument("--model_name", default="vae", metavar="NAME", help="name to serve the model under (vae)")
    parser.add_argument("--verbose", action="store_true", help="show Beam's own log")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.epilog = "Options after -- go to Apache Beam."


def run(args: argparse.Namespace) -> int:
    """Runs the unfinished stages and prints what came of it."""
    from tfpipe.files.storage import folder_lock, write_json
    from tfpipe.workflow.stages import STATE, run_stages

    workdir = _workdir(args)
    chain = _Chain(args, workdir)
    with folder_lock(workdir, what="tfpipe run"):
        if not (workdir / STATE).exists():
            write_json(workdir / STATE, {})  # from here on the folder is ours
        result = run_stages(workdir, chain.stages(), say=lambda text: print(text, file=sys.stderr, flush=True))
        report = _report(result.outputs, workdir, model_name=args.model_name)
        report["changed"] = list(result.worked)
        write_json(workdir / "report.json", report)
    if args.json:
        print(json.dumps(report))
    else:
        print(_table(report))
    return 0


def _workdir(args: argparse.Namespace) -> Path:
    """Returns the work folder, refusing one where somebody else's files would be replaced."""
    from tfpipe.files.remote import require_local
    from tfpipe.workflow.stages import STATE

    if not args.workdir.strip():
        raise UsageError("--workdir is empty; name a folder")
    require_local(args.workdir, what="the work folder")
    workdir = Path(args.workdir).expanduser()
    if any(Path(name).expanduser().resolve() == workdir.resolve() for name in args.inputs):
        raise UsageError(f"--workdir {workdir} is an input folder itself; use one beside it or inside it")
    if not (workdir / STATE).exists():
        for name in ("data", "run", "models", "figures", "check", "previous", "report.json"):
            if (workdir / name).exists():
                raise TfpipeError(
                    f"{workdir / name}: is not of a tfpipe run and would be replaced; use another --workdir"
                )
    return workdir


class _Chain:
    """The stages and what they hand on; each imports what it needs when it runs."""

    def __init__(self, args: argparse.Namespace, workdir: Path) -> None:
        from tfpipe.training.run_folder import TrainConfig

        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", args.model_name):
            raise UsageError(f"--model_name {args.model_name!r}: use letters, digits, dots, dashes and underscores")
        self.args = args
        self.data, self.run, self.models = workdir / "data", workdir / "run", workdir / "models" / args.model_name
        self.previous, self.figures, self.check_folder = workdir / "previous", workdir / "figures", workdir / "check"
        # Both refuse bad values before any work is done.
        self.preprocess_config = config_from_args(args, output=str(self.data))
        self.train_config = TrainConfig(data=str(self.data), run=str(self.run), **training_settings(args))

    def stages(self) -> list[Any]:
        from tfpipe.workflow.stages import Stage

        return [
            Stage(name="preprocess", inputs=None, run=self.preprocess),
            Stage(
                name="verify", inputs=lambda done: [done["preprocess"]["fingerprint"], self._stamps()], run=self.verify
            ),
            Stage(
                name="train",
                inputs=lambda done: [done["preprocess"]["fingerprint"], self.train_config.settings()],
                run=self.train,
                stands=lambda made: (self.run / "DONE").exists(),
            ),
            Stage(
                name="evaluate",
                inputs=lambda done: [done["preprocess"]["fingerprint"], done["train"]],
                run=self.evaluate,
                stands=lambda made: (self.figures / "reconstructions.png").exists(),
            ),
            Stage(
                name="export",
                inputs=lambda done: [done["train"], self.args.model_name],
                run=self.export,
                stands=lambda made: (self.models / str(made["version"]) / "saved_model.pb").exists(),
            ),
            Stage(
                name="serve check",
                inputs=lambda done: [done["export"], done["preprocess"]["fingerprint"]],
                run=self.serve_check,
                stands=lambda made: all((self.check_folder / name).exists() for name in made["sounds"]),
            ),
        ]

    def preprocess(self, done: Outputs) -> dict[str, Any]:
        import dataclasses

        from beam_jobs.job import preprocess
        from tfpipe.data.statistics import inspect

        # In a work folder that is ours, data of other settings is made anew without a question.
        config = dataclasses.replace(self.preprocess_config, overwrite=True)
        preprocess(config, pipeline_args=self.args.beam_options, verbose=self.args.verbose)
        summary = inspect(self.data)
        if not summary["splits"]["train"]["examples"]:
            raise DatasetError(f"{self.data}: no examples to train on; give more audio")
        return summary

    def verify(self, done: Outputs) -> dict[str, Any]:
        from tfpipe.data.manifest import load_manifest
        from tfpipe.data.verify import verify
        from tfpipe.process.progress import Progress

        with Progress("verify", total=len(load_manifest(self.data).shards), unit="shard") as bar:
            problems = verify(self.data, on_shard=lambda shard: bar.update())
        if problems:
            raise DatasetError(f"{problems[0]} ({len(problems)} problem(s)); delete {self.data} and run again")
        return {"problems": 0}

    def train(self, done: Outputs) -> dict[str, Any]:
        from tfpipe.training import checkpoint
        from tfpipe.training.loop import train
        from tfpipe.training.run_folder import CHECKPOINTS

        self._set_aside_other_run(done["preprocess"]["fingerprint"])
        result = train(self.train_config)
        best = checkpoint.load(self.run / CHECKPOINTS, checkpoint.BEST)
        first, last = result.history[0], result.history[-1]
        return {
            "epochs": len(result.history),
            "first_mse": first["mse"],
            "last_mse": last["mse"],
            "loss": last["loss"],
            "best": dict(result.best),
            "weights": checkpoint.digest(best) if best else None,
        }

    def evaluate(self, done: Outputs) -> dict[str, Any]:
        from tfpipe.evaluation.evaluate import evaluate

        return evaluate(self.data, self.run, split=self._held_out(done), plots=self.figures)

    def export(self, done: Outputs) -> dict[str, Any]:
        from serving.export.saved_model import export

        made = export(run=self.run, output=self.models)
        return {"version": made.version, "difference": made.difference}

    def serve_check(self, done: Outputs) -> dict[str, Any]:
        from beam_jobs.corpus import discover
        from serving.checks.smoke import serve_check
        from tfpipe.audio.reader import read_window
        from tfpipe.data.manifest import load_manifest, load_tracks
        from tfpipe.data.records import decode_example, read_records
        from tfpipe.files.remote import join

        manifest = load_manifest(self.data)
        split = self._held_out(done)
        # The split's first example: a window that is known not to be silent.
        shard = manifest.split_shards(split)[0]
        example = decode_example(next(read_records(self.data / shard.name)), manifest.spec.mel_shape)
        track = next(track for track in load_tracks(self.data) if track.hash == example.track)
        source = join(discover(self.preprocess_config.inputs).base, track.path)
        shutil.rmtree(self.check_folder, ignore_errors=True)
        checked = serve_check(
            model_base_path=self.models,
            model_name=self.args.model_name,
            version=done["export"]["version"],
            audio=read_window(source, start_s=example.start_s, spec=manifest.spec),
            sample_rate=manifest.spec.sample_rate,
            out=self.check_folder,
        )
        return {"source": source, "split": split, **checked}

    def _stamps(self) -> list[tuple[str, int, int]]:
        """Name, size and modification time of every shard: a file that was written to is verified again."""
        shards = sorted(self.data.glob("*.tfrecord"))
        return [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]

    def _held_out(self, done: Outputs) -> str:
        """The split to judge by: test, or the next best that has tracks."""
        splits = done["preprocess"]["splits"]
        return next(split for split in ("test", "validation", "train") if splits[split]["examples"])

    def _set_aside_other_run(self, dataset: str) -> None:
        """Keeps one generation of a run whose settings or data are no longer asked for."""
        from tfpipe.files.storage import replace_folder
        from tfpipe.training.run_folder import read_config

        if not (self.run / "config.json").exists():
            return
        stored = read_config(self.run)
        wanted = {**self.train_config.settings(), "dataset": dataset}
        if any(stored.get(name) != value for name, value in wanted.items()):
            self.previous.mkdir(parents=True, exist_ok=True)
            replace_folder(self.run, self.previous / "run")


def _report(done: Outputs, workdir: Path, *, model_name: str) -> dict[str, Any]:
    """Gathers what the stages made; places are told from here, wherever an earlier run was called from."""
    models = workdir / "models" / model_name
    report = {name.replace(" ", "_"): dict(made) for name, made in done.items()}
    report["export"]["path"] = str(models / str(report["export"]["version"]))
    report["serve_check"]["folder"] = str(workdir / "check")
    command = f"{_tfpipe()} serve --model_base_path {shlex.quote(str(models))} --model_name {shlex.quote(model_name)}"
    return {"workdir": str(workdir), **report, "serve": command}


def _tfpipe() -> str:
    """Returns how this very `tfpipe` is called from the shell: by name where the PATH finds it."""
    script = Path(sys.argv[0])
    if script.name != "tfpipe":
        return f"{shlex.quote(sys.executable)} -m tfpipe"
    found = shutil.which("tfpipe")
    return "tfpipe" if found and Path(found).resolve() == script.resolve() else shlex.quote(str(script.resolve()))


def _table(report: Mapping[str, Any]) -> str:
    """Returns the end of a run as a short table."""
    data, training, judged = report["preprocess"], report["train"], report["evaluate"]
    reasons = ", ".join(f"{count} {code}" for code, count in data["skipped"]["by_reason"].items())
    mean, pca = judged["baselines"]["mean"], judged["baselines"]["pca"]
    skipped = f"{data['skipped']['total']}" + (
        f"  ({reasons}); each with its reason in data/skipped.jsonl" if reasons else ""
    )
    held_out = f"{judged['windows']} {judged['split']} windows"
    if judged["split"] == "train":
        held_out += ", not held out: too few tracks to hold any out"
    rows = [
        ("tracks", f"{data['tracks']}  ({', '.join(data['labels'])})"),
        ("windows", f"{data['windows']}, {data['silent_windows']} more silent"),
        ("examples", f"{data['examples']}  ({len(data['variants'])} variants)"),
        ("skipped files", skipped),
        ("epochs", f"{training['epochs']}, best {training['best']['epoch']}"),
        ("training mse", f"{training['first_mse']:.5f} -> {training['last_mse']:.5f}  (loss {training['loss']:.4f})"),
        ("reconstruction mse", f"{judged['mse']:.5f}  ({held_out})"),
        ("  mean spectrogram", f"{mean['mse']:.5f}"),
        (f"  PCA, {pca['components']} components", f"{pca['mse']:.5f}"),
        ("latent", f"{judged['active_units']} of {judged['latent']} dimensions active, KL {judged['kl']:.1f} nats"),
        ("figures", str(Path(report["workdir"]) / "figures")),
        ("served sounds", report["serve_check"]["folder"]),
        ("model", report["export"]["path"]),
    ]
    width = max(len(name) for name, _ in rows)
    state = "" if report["changed"] else "Everything was up to date; nothing was changed.\n\n"
    lines = "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
    return f"\n{state}{lines}\n\nServe it:\n  {report['serve']}"
