"""Scores and encodes recordings with a trained model, without a dataset folder (needs TensorFlow)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.manifest import Skipped
from tfpipe.data.recordings import RecordingWindows
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.evaluation.latents import Latents
from tfpipe.evaluation.score_config import ScoreConfig
from tfpipe.features.log_mel_tf import log_mel
from tfpipe.model.measure import losses
from tfpipe.process.progress import Progress
from tfpipe.training import checkpoint
from tfpipe.training.checkpoint import named
from tfpipe.training.trained_model import TrainedModel, load_models


class Recording(Protocol):
    """An audio file to score, such as `beam_jobs.corpus.AudioFile`."""

    @property
    def name(self) -> str:
        """The name that people know it by."""

    @property
    def path(self) -> str:
        """Local path or URL."""

    @property
    def label(self) -> str:
        """Its label, such as the name of its folder."""


@dataclass(frozen=True, kw_only=True)
class _AudioPath:
    """A recording of which only the path is known."""

    path: str

    @property
    def name(self) -> str:
        return self.path

    @property
    def label(self) -> str:
        return Path(self.path).parent.name


class Scores(NamedTuple):
    """What `score` returns.

    Attributes:
        summary: the object of `tfpipe score --json`.
        windows: arrays with a row per window, ordered by track, then time: `track` `[n]` (index into
            `summary["tracks"]`), `start_s` `[n]` in s, `ref_db` `[n]` in dB, `mse` `[n]`, `kl` `[n]` in
            nats, `z_mean` and `z_log_var` `[n, latent]`.
    """

    summary: dict[str, Any]
    windows: dict[str, NDArray[Any]]

    def latents(self) -> Latents:
        """Returns what `tfpipe.evaluation.latents.write_latents` writes."""
        path, label = (np.array([track[name] for track in self.summary["tracks"]]) for name in ("path", "label"))
        return Latents(
            **self.windows,
            path=path,
            label=label,
            fingerprint=self.summary["fingerprint"],
            checkpoint={"run": self.summary["run"], **self.summary["checkpoint"]},
        )


def score(
    recordings: str | Path | Recording | Iterable[str | Path | Recording],
    *,
    run: str | Path,
    skipped: Iterable[Skipped] = (),
    config: ScoreConfig | None = None,
    quiet: bool = False,
) -> Scores:
    """Measures a run on recordings, window by window.

    Audio streams through tf.data, and one graph computes log-mel, encoder and
    decoder. Memory holds a few numbers for each window. For example::

        scores = score(["Piano/a.wav", "Piano/b.flac"], run="run")
        scores.summary["mse"]

    Args:
        recordings: audio files, or one; `tfpipe.api.score` also takes folders and lists.
        run: run folder.
        skipped: files that were found and cannot be read; they are listed with those that cannot be used.
        config: checkpoint, windows and decoder; None is the default.
        quiet: show no progress.

    Raises:
        TfpipeError: none of the recordings can be used.
        RunError: there is no run or no such checkpoint.
        UsageError: the decoder does not work here.
    """
    recordings, config = _recordings(recordings), config or ScoreConfig()
    model = load_models(Path(run), which=config.which)
    paths = [recording.path for recording in recordings]
    source = RecordingWindows(paths, model.spec, cut=config, decoder=config.decoder)
    measure = _measure(model)
    parts: list[dict[str, NDArray[Any]]] = []
    with Progress("score", unit="window", quiet=quiet) as bar:
        for batch in source.batches(config.batch_size):
            audio = batch.pop("audio")
            parts.append({name: value.numpy() for name, value in {**batch, **measure(audio)}.items()})
            bar.update(len(audio))
        left_out = _left_out(source, recordings, parts)
        unusable = [*skipped, *left_out.values()]
        for row in unusable:
            bar.message(f"skipped: {row.message} ({row.code})")
    if len(left_out) == len(recordings):
        raise TfpipeError(f"none of {len(unusable)} files can be used; the lines above say why")
    windows = _sorted(parts, without=left_out)
    tracks = _by_track(source, recordings, windows)
    summary = {
        "windows": len(windows["mse"]),
        "silent": sum(track["silent"] for track in tracks),
        **{name: float(windows[name].mean(dtype=np.float64)) for name in ("mse", "kl")},
        "latent": model.latent,
        "fingerprint": model.spec.fingerprint,
        "run": str(run),
        "checkpoint": _identity(model),
        "decoder": source.decoder,
        "tracks": tracks,
        "skipped": [{"path": row.path, "code": row.code, "message": row.message} for row in unusable],
    }
    return Scores(summary, windows)


def _recordings(given: str | Path | Recording | Iterable[str | Path | Recording]) -> list[Recording]:
    several = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    return [_AudioPath(path=os.fspath(one)) if isinstance(one, str | os.PathLike) else one for one in several]


def _measure(model: TrainedModel) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the graph that turns `audio` `[batch, samples]` into the figures of each window."""

    def measure(audio: tf.Tensor) -> dict[str, tf.Tensor]:
        mel, ref_db = log_mel(audio, model.spec)
        mel = mel[..., None]
        z_mean, z_log_var = model.encoder(mel, training=False)
        mse, kl = losses(mel, model.decoder(z_mean, training=False), z_mean, z_log_var)
        return {"ref_db": ref_db, "mse": mse, "kl": tf.reduce_sum(kl, 1), "z_mean": z_mean, "z_log_var": z_log_var}

    graph = tf.function(
        measure, input_signature=[tf.TensorSpec([None, model.spec.samples], tf.float32)], autograph=False
    )
    return cast(Callable[[tf.Tensor], dict[str, tf.Tensor]], graph)


def _left_out(
    source: RecordingWindows, recordings: Sequence[Recording], parts: list[dict[str, NDArray[Any]]]
) -> dict[int, Skipped]:
    """Returns why a track gives no windows, by its index: its decoder failed, or all of it is silent."""
    errors = dict(source.failed)
    heard = {int(track) for part in parts for track in np.unique(part["track"])}
    for index in source.windows.keys() - heard - errors.keys():
        message = f"{source.paths[index]}: every window is under {source.spec.silence_dbfs:g} dBFS"
        errors[index] = AudioError("silent", message)
    return {
        index: Skipped(path=recordings[index].name, code=error.code, message=" ".join(str(error).split()))
        for index, error in sorted(errors.items())
    }


def _sorted(parts: list[dict[str, NDArray[Any]]], *, without: Iterable[int]) -> dict[str, NDArray[Any]]:
    """Joins the batches' columns, orders their rows by track and time, and drops the tracks `without`."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["start_s"], columns["track"]))
    order = order[~np.isin(columns["track"][order], list(without))]
    return {name: column[order] for name, column in columns.items()}


def _by_track(
    source: RecordingWindows, recordings: Sequence[Recording], windows: dict[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    """Summarises each track that is left, and turns `windows["track"]` into indices of the summaries."""
    tracks, first, rows, counts = np.unique(
        windows["track"], return_index=True, return_inverse=True, return_counts=True
    )
    windows["track"] = rows.astype(np.int32)
    means = {name: np.add.reduceat(windows[name].astype(np.float64), first) / counts for name in ("mse", "kl")}
    return [
        {
            "path": recordings[index].name,
            "label": recordings[index].label,
            "seconds": round(source.seconds[index], 6),
            "windows": int(counts[row]),
            "silent": source.windows[index] - int(counts[row]),
            **{name: float(values[row]) for name, values in means.items()},
        }
        for row, index in enumerate(tracks.tolist())
    ]


def _identity(model: TrainedModel) -> dict[str, Any]:
    """Identifies the weights: the checkpoint's place in its run, and a SHA-256 over encoder and decoder."""
    arrays = {
        name: np.asarray(variable)
        for part in (model.encoder, model.decoder)
        for name, variable in named(part.weights, part.name).items()
    }
    place = {name: model.metadata[name] for name in ("preset", "dataset", "epoch", "step")}
    return {
        "which": model.metadata["checkpoint"],
        **place,
        "weights": checkpoint.digest(checkpoint.Checkpoint(arrays, {})),
    }
