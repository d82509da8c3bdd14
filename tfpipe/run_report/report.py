"""Makes the report of a run: one HTML page, and the map's windows as Parquet (needs TensorFlow)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.data.manifest import Folder, load_manifest
from tfpipe.errors import DatasetError, UsageError
from tfpipe.evaluation.evaluate import evaluate
from tfpipe.files.storage import write_bytes
from tfpipe.lanes import installed_version
from tfpipe.process.progress import Progress
from tfpipe.run_report.contents import Contents, MappedWindow
from tfpipe.run_report.gather import Gatherer, worst_tracks
from tfpipe.run_report.page import page as html_page
from tfpipe.run_report.window_map import write_parquet
from tfpipe.spec import require_same_spec
from tfpipe.training.prior_folder import PRIOR
from tfpipe.training.run_folder import load_run, read_history
from tfpipe.training.trained_model import load_models

_PACKAGES = ("tfpipe", "tensorflow", "keras", "numpy", "librosa", "apache-beam", "soundfile")
_STEPS = 7


def report(
    data: Folder,
    run: Path,
    *,
    out: Path | None = None,
    split: str | None = None,
    which: str = "best",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures a run and writes its report; `tfpipe.report` explains the arguments.

    Raises:
        UsageError: `out` is not the name of an HTML file.
        TfpipeError: as `tfpipe.evaluation.evaluate.evaluate` and `write_report`.
    """
    page = run / "report.html" if out is None else out
    if page.suffix != ".html" or page.is_dir():
        raise UsageError(f"{page}: cannot be the report; use a name that ends in .html")
    if split is None:
        split = next(iter(load_manifest(data).judged_by), "test")
    measured = evaluate(data, run, split=split, which=which, quiet=quiet)
    return write_report(data, run, page, evaluation=measured, title=title, quiet=quiet)


def write_report(
    data: Folder,
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    evaluation: Mapping[str, Any],
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Writes the report of a run and, beside it, `NAME-windows.parquet` with the windows of its map.

    Args:
        data: dataset folder, local or a URL.
        run: run folder.
        out: the HTML file to write.
        evaluation: what `tfpipe.evaluation.evaluate.evaluate` measured.
        title: of the page; the name of the run's folder if it is empty.
        quiet: show no progress.

    Returns:
        `report` and `windows` (paths), `bytes` of the page, and `mapped`, the number of windows on the map.

    Raises:
        SpecMismatch: the run and the dataset have different specs.
        RunError: there is no run or no checkpoint yet.
        TfpipeError: a file cannot be read or written.
    """
    manifest, loaded, out = load_manifest(data), load_run(run), Path(out)
    model = load_models(run, which=evaluation["checkpoint"]["which"])
    require_same_spec(model.spec, manifest.spec, expected_from=str(run), actual_from=str(data))
    maker = Gatherer(data, manifest, model)
    with Progress("report", total=_STEPS, unit="section", quiet=quiet) as bar:

        def done(part: Any) -> Any:
            bar.update()
            return part

        windows = done(maker.windows())
        if not windows:
            raise DatasetError(f"{data}: no window is as it was recorded; preprocess it with the original variant")
        split = next(iter(windows))
        held_out, training = windows[split], windows.get("train", windows[split])
        mapped = done(maker.mapped(windows))
        contents = Contents(
            spec=manifest.spec,
            labels=model.labels,
            evaluation=evaluation,
            history=loaded.history,
            prior_history=read_history(loaded.path / PRIOR),
            settings=loaded.config,
            versions={name: installed_version(name) or "not installed" for name in _PACKAGES},
            pairs=done(maker.pairs(held_out, split)),
            variants=done(maker.variants()),
            draws=done(maker.draws(training)),
            between=done(maker.between(held_out)),
            channels=done(maker.channels(held_out)),
            mapped=mapped,
            worst=worst_tracks(mapped, model.labels),
            skipped=maker.skipped(),
            from_recordings=maker.found_recordings,
        )
    text = html_page(contents, title=title or loaded.path.resolve().name).encode()
    write_bytes(out, text)
    parquet = out.with_name(f"{out.stem}-windows.parquet")
    write_parquet(parquet, _columns(mapped, model.labels))
    return {"report": str(out), "windows": str(parquet), "bytes": len(text), "mapped": len(mapped)}


def _columns(mapped: list[MappedWindow], labels: tuple[str, ...]) -> dict[str, Any]:
    """Returns the map's windows by column; `z` is the latent."""
    return {
        "recording": [window.path for window in mapped],
        "start_s": [window.start_s for window in mapped],
        "label": [labels[window.label] for window in mapped],
        "split": [window.split for window in mapped],
        "mse": [window.mse for window in mapped],
        "x": [window.x for window in mapped],
        "y": [window.y for window in mapped],
        "z": np.stack([window.z for window in mapped]).astype(np.float32),
    }
