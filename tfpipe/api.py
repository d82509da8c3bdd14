"""The functions of `import tfpipe as tp`: the commands of `tfpipe`, to be called from Python.

Each takes the options of its command as keywords. A path may be a `str` or a `Path`, and a single input may stand
where a list is expected. Libraries such as TensorFlow are imported by the function that needs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.protocol.names import MODEL_NAME
from tfpipe.evaluation.verdict import DRAWS
from tfpipe.workflow import configs
from tfpipe.workflow.configs import PathLike

if TYPE_CHECKING:
    import tensorflow as tf

    from serving.client.local_model import LocalModel
    from serving.export.saved_model import Exported
    from serving.server.server import Server
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.data.manifest import Manifest
    from tfpipe.evaluation.score import Scores
    from tfpipe.spec import FeatureSpec
    from tfpipe.training.run_folder import Run


def preprocess(
    inputs: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    spec: FeatureSpec | None = None,
    beam_options: Sequence[str] = (),
    quiet: bool = False,
    **settings: Any,
) -> Manifest:
    """Turns recordings into a dataset folder: log-mel examples of each window and its variants.

    Example:
        `tp.preprocess("recordings", "data", semitones=(0, 4, 7), workers=2)`

    Args:
        inputs: folders (their subfolders are the labels), files, globs or lists, local or URLs.
        output: dataset folder to make.
        spec: the features; the default ones when None.
        beam_options: options of Apache Beam, such as `["--runner=FlinkRunner"]`.
        quiet: show no progress.
        **settings: fields of `PreprocessConfig` and of `FeatureSpec`.

    Raises:
        UsageError: a setting is unknown or out of range.
        TfpipeError: the work failed, for example because no file can be read or the disk is full.
    """
    from beam_jobs.job import preprocess as run_job

    if spec is not None:
        settings["spec"] = spec
    return run_job(configs.preprocess_config(inputs, output, settings), pipeline_args=beam_options, quiet=quiet)


def verify(data: PathLike) -> list[str]:
    """Returns what is wrong with a dataset, a sentence for each problem; an empty list means that it is whole.

    Raises:
        DatasetError: the folder holds no complete dataset.
    """
    from tfpipe.data.verify import verify as verify_dataset

    return verify_dataset(os.fspath(data))


def inspect(data: PathLike) -> dict[str, Any]:
    """Returns what a dataset holds: the object of `tfpipe inspect --json`.

    Raises:
        DatasetError: the folder holds no complete dataset.
    """
    from tfpipe.data.statistics import inspect as inspect_dataset

    return inspect_dataset(os.fspath(data))


def make_dataset(
    data: PathLike,
    *,
    split: str = "train",
    batch_size: int = 16,
    seed: int | None = None,
    augment: AugmentConfig | None = None,
    expected_spec: FeatureSpec | None = None,
) -> tf.data.Dataset:
    """Streams one epoch of one split of a dataset as batches.

    Args:
        data: dataset folder.
        split: `train`, `validation` or `test`.
        batch_size: examples in a batch.
        seed: shuffles, always in the same order for the same seed; None keeps the order of the shards.
        augment: augmentation of the windows; needs a seed.
        expected_spec: refuse a dataset that was made with another spec.

    Returns:
        Batches with `mel` `[batch, n_mels, frames, 1]` uint8 (0 to 255 stands for 0 to 1), `ref_db` `[batch]` float32,
        `label` `[batch]` int64 and `key` `[batch]` string.

    Raises:
        DatasetError: no complete dataset, or no examples in the split.
        SpecMismatch: the dataset has another spec than `expected_spec`.
        UsageError: a setting is out of range.
    """
    from tfpipe.data.pipeline import make_dataset as stream

    return stream(
        os.fspath(data), split=split, batch_size=batch_size, seed=seed, augment=augment, expected_spec=expected_spec
    )


def train(data: PathLike, run: PathLike, *, quiet: bool = False, **settings: Any) -> Run:
    """Trains a model on a dataset, or continues a run that was stopped.

    Example:
        `run = tp.train("data", "run", latent=16, epochs=20)`

    Args:
        data: dataset folder, local or a URL.
        run: run folder; a folder that holds a run with other settings is refused.
        quiet: show no progress.
        **settings: fields of `TrainConfig` and of `AugmentConfig`.

    Returns:
        The finished run, with its history and checkpoints.

    Raises:
        UsageError: a setting is unknown or out of range.
        DatasetError: no usable dataset.
        RunError: the folder holds a run with other settings, or the loss is not finite any more.
        Interrupted: stopped by a signal after saving.
    """
    from tfpipe.training.stages import finished

    config = configs.train_config(data, run, settings)
    if (done := finished(config)) is not None:
        return done
    from tfpipe.training.loop import train as train_model

    return train_model(config, quiet=quiet)


def evaluate(
    data: PathLike,
    run: PathLike | Run,
    *,
    split: str = "test",
    which: str = "best",
    against: PathLike | Run | None = None,
    plots: PathLike | None = None,
    cache: PathLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures a run on one split of a dataset, beside baselines, and judges what is heard and drawn.

    Args:
        data: dataset folder, local or a URL.
        run: run folder, or what `train` returned.
        split: `test`, `validation` or `train`.
        which: checkpoint: `best`, `latest`, or a name such as `step-00000120`.
        against: another run, measured on the same windows.
        plots: folder for pictures of reconstructions and samples.
        cache: local folder that shards are copied to before they are read.
        draws: windows to draw from the prior and to judge; 0 leaves this out.
        seed: of the draws.
        quiet: show no progress.

    Returns:
        The object of `tfpipe evaluate --json`.

    Raises:
        DatasetError: the split is empty.
        SpecMismatch: run and dataset do not have the same spec.
        RunError: no run, or no such checkpoint.
    """
    from tfpipe.evaluation.evaluate import evaluate as measure

    return measure(
        os.fspath(data),
        _run_path(run),
        split=split,
        which=which,
        against=None if against is None else _run_path(against),
        plots=None if plots is None else Path(plots),
        cache=None if cache is None else Path(cache),
        draws=draws,
        seed=seed,
        quiet=quiet,
    )


def report(
    data: PathLike,
    run: PathLike | Run,
    *,
    out: PathLike | None = None,
    split: str | None = None,
    which: str = "best",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures a run and writes one HTML page with its sounds, pictures and figures, which opens without a network.

    Args:
        data: dataset folder, local or a URL.
        run: run folder, or what `train` returned.
        out: the page to write; `report.html` in the run folder when None. `NAME-windows.parquet` is written beside it.
        split: split that the figures are of; when None, `test`, or the next one that has windows.
        which: checkpoint, as for `evaluate`.
        title: of the page; the name of the run folder if it is empty.
        quiet: show no progress.

    Returns:
        `report` and `windows` (paths), `bytes` of the page, and `mapped`, the number of windows on the map.

    Raises:
        TfpipeError: as `evaluate`; or `out` is not the name of an HTML file.
    """
    from tfpipe.run_report.report import report as write

    page = None if out is None else Path(out)
    return write(os.fspath(data), _run_path(run), out=page, split=split, which=which, title=title, quiet=quiet)


def score(
    recordings: PathLike | Iterable[PathLike], run: PathLike | Run, *, quiet: bool = False, **settings: Any
) -> Scores:
    """Measures a run on recordings, window by window, without a dataset folder.

    Args:
        recordings: folders, files, globs or lists, as for `preprocess`.
        run: run folder, or what `train` returned.
        quiet: show no progress.
        **settings: `which`, `batch_size`, `hop_s`, `min_fill` and `decoder`, as for `tfpipe score`.

    Raises:
        UsageError: a setting is unknown or out of range.
        TfpipeError: none of the recordings can be used.
        RunError: no run, or no such checkpoint.
    """
    from beam_jobs.corpus import discover
    from tfpipe.evaluation.score_config import ScoreConfig

    configs.require_known(settings, configs.names(ScoreConfig))
    config = ScoreConfig(**settings)
    corpus = discover(configs.paths(recordings))
    from tfpipe.evaluation.score import score as measure  # last, because it imports TensorFlow, which takes seconds

    return measure(corpus.files, run=_run_path(run), skipped=corpus.skipped, config=config, quiet=quiet)


def export(
    run: PathLike | Run,
    output: PathLike,
    *,
    which: str = "best",
    model_name: str = MODEL_NAME,
    latent_keep: int | None = None,
    data: PathLike | None = None,
    tflite: bool = False,
) -> Exported:
    """Writes a run as the next version of a model that TensorFlow Serving loads unchanged.

    Args:
        run: run folder, or what `train` returned.
        output: model folder; the version becomes a subfolder named with its number.
        which: checkpoint: `best`, `latest`, or a name such as `step-00000120`.
        model_name: name in the warm-up requests and the model card.
        latent_keep: keep only this many latent dimensions, those that carry most; all when None.
        data: the run's dataset; needed with `latent_keep`.
        tflite: write encoder and decoder for TensorFlow Lite too.

    Raises:
        RunError: no run, or no such checkpoint.
        ServingError: the written model does not agree with the run.
        UsageError: `latent_keep` without `data`, or out of range.
    """
    from serving.export.saved_model import export as export_run

    return export_run(
        run=_run_path(run),
        output=Path(output),
        which=which,
        model_name=model_name,
        keep=latent_keep,
        data=None if data is None else os.fspath(data),
        tflite=tflite,
    )


def load(model: PathLike) -> LocalModel:
    """Loads an exported model into this process; its methods are those of `Client`, without a server.

    Example:
        `audio = tp.load("models/vae").decode_audio(z, ref_db)`

    Args:
        model: model folder, of which the newest version is taken, or the folder of one version.

    Raises:
        ServingError: there is no model in the folder, or it cannot be loaded.
    """
    from serving.client.local_model import LocalModel

    return LocalModel(model).load()


def serve(model_base_path: PathLike | None = None, **settings: Any) -> Server:
    """Starts a server of a model in this process and returns while it answers.

    Example:
        `with tp.serve("models/vae", port=0) as server, tp.Client(server.address) as vae: ...`

    Args:
        model_base_path: model folder, the `output` of `export`; None with `model_config_file`.
        **settings: fields of `ServerConfig`; `port=0` takes a free port.

    Returns:
        The running server. It stops at the end of a `with` block, or by its `stop()`.

    Raises:
        UsageError: a setting is unknown or out of range.
        ServingError: the folder is missing, a configuration file is wrong, or a port is taken.
    """
    from serving.server.config import ServerConfig
    from serving.server.server import Server

    if model_base_path is not None:
        settings["model_base_path"] = Path(model_base_path)
    configs.require_known(settings, configs.names(ServerConfig))
    server = Server(ServerConfig(**settings))
    server.start()
    return server


def _run_path(run: PathLike | Run) -> Path:
    """Returns the folder of a run, which is given as a `Run` or as its folder."""
    return Path(run) if isinstance(run, str | os.PathLike) else run.path
