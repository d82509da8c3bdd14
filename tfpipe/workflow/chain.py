"""The seven stages from recordings to a model that answers, and to a report of it.

They are preprocess, verify, train, evaluate, export, serve check and report.

`run` does all of them in a work folder and can be stopped and started again. A stage can also be called alone:

```
chain = Chain.of("recordings", "work", latent=8, epochs=20)
done = {"preprocess": chain.preprocess()}
done["train"] = chain.train(done)
```

Each stage imports the libraries that it needs when it runs.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.protocol.names import MODEL_NAME
from tfpipe.errors import DatasetError, UsageError
from tfpipe.files.storage import WORK_STATE
from tfpipe.workflow import configs
from tfpipe.workflow.configs import PathLike
from tfpipe.workflow.held_out import Outputs, first_window, held_out_split
from tfpipe.workflow.report import gathered
from tfpipe.workflow.stages import Stage, run_stages
from tfpipe.workflow.work_folder import existing_folders, no_empty_folders, work_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from beam_jobs.config import PreprocessConfig
    from tfpipe.training.config import TrainConfig


def run(
    inputs: PathLike | Iterable[PathLike],
    workdir: PathLike,
    *,
    model_name: str = MODEL_NAME,
    beam_options: Sequence[str] = (),
    verbose: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Runs the stages that are not up to date, from recordings to a served model.

    Example:
        `tp.run("recordings", "work", semitones=(0, 4, 7), latent=16, epochs=20)`

    Args:
        inputs: one input or several: folders (their subfolders are the labels), files, globs, or lists of files.
        workdir: folder for everything that is made: `data`, `run`, `models`, `figures`, `check`, `report.html`,
            `report.json`.
        model_name: name to serve the model under.
        beam_options: options of Apache Beam, such as `["--runner=FlinkRunner"]`.
        verbose: show Beam's own log.
        quiet: show no progress.
        say: gets one line when a stage begins and one when it ends; nothing is said when None.
        **settings: fields of `PreprocessConfig`, `FeatureSpec`, `TrainConfig` and `AugmentConfig`.

    Returns:
        The object of `tfpipe run --json`: one entry per stage, `changed` (the stages that had to work),
        `seconds` (how long each of those took), `workdir`, and `serve`, the shell command that serves the model.

    Raises:
        UsageError: a setting is unknown or not allowed.
        TfpipeError: a stage failed, or another run works in the folder. The stages before it stay done.
    """
    from tfpipe.files.storage import folder_lock, write_json

    chain = Chain.of(
        inputs, workdir, model_name=model_name, beam_options=beam_options, verbose=verbose, quiet=quiet, **settings
    )
    folder = chain.workdir
    before = existing_folders(folder)
    with folder_lock(folder, what="tfpipe run"), no_empty_folders(folder, before=before):
        if not (folder / WORK_STATE).exists():
            write_json(folder / WORK_STATE, {})  # marks the folder as one of ours
        result = run_stages(folder, chain.stages(), say=say or (lambda line: None))
        report = gathered(result.outputs, folder, model_name=model_name)
        report["changed"] = list(result.worked)
        report["seconds"] = {name: round(seconds, 1) for name, seconds in result.seconds.items()}
        write_json(folder / "report.json", report)
    return report


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The stages of one work folder.

    Attributes:
        workdir: the work folder.
        preprocess_config: the job, which writes `workdir/data`.
        train_config: the training, which writes `workdir/run`.
        model_name: name to serve the model under; it is written to `workdir/models/NAME`.
        beam_options: options of Apache Beam.
        verbose: show Beam's own log.
        quiet: show no progress.
    """

    workdir: Path
    preprocess_config: PreprocessConfig
    train_config: TrainConfig
    model_name: str = MODEL_NAME
    beam_options: tuple[str, ...] = ()
    verbose: bool = False
    quiet: bool = False

    @classmethod
    def of(
        cls,
        inputs: PathLike | Iterable[PathLike],
        workdir: PathLike,
        *,
        model_name: str = MODEL_NAME,
        beam_options: Sequence[str] = (),
        verbose: bool = False,
        quiet: bool = False,
        **settings: Any,
    ) -> Chain:
        """Makes a chain from settings; the arguments are those of `run`.

        Raises:
            UsageError: a setting is unknown or not allowed.
            TfpipeError: the work folder holds files that are not of a run.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", model_name):
            raise UsageError(f"model name {model_name!r}: use letters, digits, dots, dashes and underscores")
        sources = configs.paths(inputs)
        folder = work_folder(workdir, sources)
        job, training = configs.parted(settings)
        # A dataset of other settings in our own work folder is replaced without asking.
        job_config = configs.preprocess_config(sources, folder / "data", {**job, "overwrite": True})
        return cls(
            workdir=folder,
            preprocess_config=job_config,
            train_config=configs.train_config(folder / "data", folder / "run", training),
            model_name=model_name,
            beam_options=tuple(beam_options),
            verbose=verbose,
            quiet=quiet,
        )

    @property
    def data(self) -> Path:
        """The dataset folder."""
        return self.workdir / "data"

    @property
    def run_folder(self) -> Path:
        """The folder of the training run."""
        return self.workdir / "run"

    @property
    def model_folder(self) -> Path:
        """The folder of the exported versions."""
        return self.workdir / "models" / self.model_name

    def stages(self) -> list[Stage]:
        """Returns the seven stages with what each depends on and how to see that its result is still there."""
        return [
            # The job itself finds out what is there already, shard by shard.
            Stage(name="preprocess", inputs=None, run=self.preprocess),
            Stage(
                name="verify",
                inputs=lambda done: [done["preprocess"]["fingerprint"], _stamps(self.data)],
                run=self.verify,
            ),
            Stage(
                name="train",
                inputs=lambda done: [done["preprocess"]["fingerprint"], *self._training(), *self._init()],
                run=self.train,
                intact=lambda made: (self.run_folder / "DONE").exists() and self._has_prior(),
            ),
            Stage(
                name="evaluate",
                inputs=lambda done: [done["preprocess"]["fingerprint"], done["train"]],
                run=self.evaluate,
                intact=lambda made: (self.workdir / "figures" / "reconstructions.png").exists(),
            ),
            Stage(
                name="export",
                inputs=lambda done: [done["train"], self.model_name],
                run=self.export,
                intact=lambda made: (self.model_folder / str(made["version"]) / "saved_model.pb").exists(),
            ),
            Stage(
                name="serve check",
                inputs=lambda done: [done["export"], done["preprocess"]["fingerprint"]],
                run=self.serve_check,
                intact=lambda made: all((self.workdir / "check" / name).exists() for name in made["sounds"]),
            ),
            Stage(
                name="report",
                inputs=lambda done: [done["preprocess"]["fingerprint"], done["train"], done["evaluate"]],
                run=self.report,
                intact=lambda made: (self.workdir / made["page"]).exists(),
            ),
        ]

    def preprocess(self, done: Outputs | None = None) -> dict[str, Any]:
        """Makes the dataset and returns what it holds, as `tfpipe inspect --counts --json` does."""
        from beam_jobs.job import preprocess
        from tfpipe.data.statistics import inspect

        preprocess(self.preprocess_config, pipeline_args=self.beam_options, verbose=self.verbose, quiet=self.quiet)
        summary = inspect(self.data)
        if not summary["splits"]["train"]["examples"]:
            raise DatasetError(f"{self.data}: no examples to train on; give more audio")
        return summary

    def verify(self, done: Outputs | None = None) -> dict[str, Any]:
        """Reads every byte of the dataset and raises DatasetError if it is not what the manifest says."""
        from tfpipe.data.manifest import load_manifest
        from tfpipe.data.verify import verify
        from tfpipe.process.progress import Progress

        shards = len(load_manifest(self.data).shards)
        with Progress("verify", total=shards, unit="shard", quiet=self.quiet) as bar:
            problems = verify(self.data, on_shard=lambda shard: bar.update())
        if problems:
            raise DatasetError(f"{problems[0]} ({len(problems)} problem(s)); delete {self.data} and run again")
        return {"problems": 0}

    def _training(self) -> tuple[Any, ...]:
        """Returns the settings that decide the result of both stages of training."""
        config = self.train_config
        return config.settings(), config.prior, config.prior_steps

    def _has_prior(self) -> bool:
        """Tells whether the run has the prior that it is to have."""
        from tfpipe.training.config import FLOW
        from tfpipe.training.prior_folder import prior_is_trained

        return self.train_config.prior != FLOW or prior_is_trained(self.run_folder)

    def train(self, done: Outputs) -> dict[str, Any]:
        """Trains the model, or continues the run in the folder; returns its figures."""
        from tfpipe.process.progress import loading_tensorflow
        from tfpipe.training import checkpoint
        from tfpipe.training.prior_folder import PRIOR, best_of_prior
        from tfpipe.training.run_folder import CHECKPOINTS

        with loading_tensorflow("train", quiet=self.quiet):
            from tfpipe.training.loop import train

        _set_aside_other_run(self)
        result = train(self.train_config, quiet=self.quiet)
        best = checkpoint.load(self.run_folder / CHECKPOINTS, checkpoint.BEST)
        first, last = result.history[0], result.history[-1]
        prior = checkpoint.load(self.run_folder / PRIOR / CHECKPOINTS, checkpoint.BEST)
        return {
            "epochs": len(result.history),
            "first_mse": first["mse"],
            "last_mse": last["mse"],
            "loss": last["loss"],
            "best": dict(result.best),
            "weights": checkpoint.digest(best) if best else None,
            "prior": {**(best_of_prior(self.run_folder) or {}), "weights": checkpoint.digest(prior)} if prior else None,
        }

    def evaluate(self, done: Outputs) -> dict[str, Any]:
        """Measures the run on tracks that it was not trained on, and draws the figures."""
        from tfpipe.evaluation.evaluate import evaluate

        return evaluate(
            self.data, self.run_folder, split=held_out_split(done), plots=self.workdir / "figures", quiet=self.quiet
        )

    def export(self, done: Outputs | None = None) -> dict[str, Any]:
        """Writes the run as the next version of the model; returns the version."""
        from serving.export.saved_model import export
        from tfpipe.process.progress import Steps

        with Steps("export", quiet=self.quiet) as step:
            made = export(run=self.run_folder, output=self.model_folder, model_name=self.model_name, say=step)
        return {"version": made.version, "difference": made.difference}

    def serve_check(self, done: Outputs) -> dict[str, Any]:
        """Serves the exported version, sends it a held-out window and checks the sounds that come back."""
        from serving.checks.smoke import serve_check
        from tfpipe.process.progress import Steps

        split = held_out_split(done)
        window = first_window(self.data, split, inputs=self.preprocess_config.inputs)
        shutil.rmtree(self.workdir / "check", ignore_errors=True)
        with Steps("serve check", quiet=self.quiet) as step:
            checked = serve_check(
                model_base_path=self.model_folder,
                model_name=self.model_name,
                version=done["export"]["version"],
                audio=window.audio,
                sample_rate=window.sample_rate,
                out=self.workdir / "check",
                say=step,
            )
        return {"source": window.source, "split": split, **checked}

    def report(self, done: Outputs) -> dict[str, Any]:
        """Writes the page with what the run learned; returns its name in the work folder."""
        from tfpipe.run_report.report import write_report

        page = self.workdir / "report.html"
        made = write_report(
            self.data,
            self.run_folder,
            page,
            evaluation=done["evaluate"],
            title=self.workdir.resolve().name,
            quiet=self.quiet,
        )
        return {"page": page.name, "bytes": made["bytes"], "mapped": made["mapped"]}

    def _init(self) -> list[str]:
        """Returns the name of the run whose weights the training begins with, if there is one."""
        return [self.train_config.init_name] if self.train_config.init_name else []


def _stamps(data: Path) -> list[tuple[str, int, int]]:
    """Returns name, size and time of change of every shard: a shard that was written to is verified again."""
    shards = sorted(data.glob("*.tfrecord"))
    return [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]


def _set_aside_other_run(chain: Chain) -> None:
    """Moves a run of other settings or other data to `previous/run`, replacing the one there."""
    from tfpipe.data.manifest import load_manifest
    from tfpipe.files.storage import replace_folder
    from tfpipe.training.run_folder import CONFIG, differing, read_config, stored_latent, wanted_config

    if not (chain.run_folder / CONFIG).exists():
        return
    manifest = load_manifest(chain.data)
    config = dataclasses.replace(chain.train_config, latent=stored_latent(chain.train_config, manifest))
    if differing(read_config(chain.run_folder), wanted_config(config, manifest), config):
        (chain.workdir / "previous").mkdir(parents=True, exist_ok=True)
        replace_folder(chain.run_folder, chain.workdir / "previous" / "run")
