"""Recordings scored and encoded by a trained model, without a dataset folder (needs TensorFlow)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.manifest import Skipped
from tfpipe.data.recordings import RecordingWindows
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.features.log_mel_tf import log_mel
from tfpipe.files.storage import write_bytes
from tfpipe.model.networks import losses
from tfpipe.process.progress import Progress
from tfpipe.training import checkpoint
from tfpipe.training.run_folder import TrainedModel, load_models, named


class Recording(Protocol):
    """An audio file, such as `beam_jobs.corpus.AudioFile`."""

    @property
    def name(self) -> str:
        """What people know it by."""

    @property
    def path(self) -> str:
        """Local path or URL."""

    @property
    def label(self) -> str:
        """Such as its folder's name."""


class Scores(NamedTuple):
    """What `score` finds.

    Attributes:
        summary: the object of `tfpipe score --json`.
        windows: `track` `[n]` (row of `summary["tracks"]`), `start_s` `[n]` s, `ref_db` `[n]` dB, `mse` `[n]`,
            `kl` `[n]` nats, `z_mean` and `z_log_var` `[n, latent]`; by track, then time.
    """

    summary: dict[str, Any]
    windows: dict[str, NDArray[Any]]


def score(
    run: Path,
    recordings: Sequence[Recording],
    *,
    skipped: Iterable[Skipped] = (),
    which: str = checkpoint.BEST,
    batch_size: int = 16,
    hop_s: float | None = None,
    min_fill: float = 0.5,
    decoder: str = "auto",
    quiet: bool = False,
) -> Scores:
    """Measures a run on recordings, window by window.

    Audio streams through tf.data; log-mel, encoder and decoder are one graph.
    What stays in memory is a few numbers for each window.

    Args:
        run: run folder.
        recordings: audio files.
        skipped: what was found and is no file to read, to be listed with those that cannot be used.
        which: checkpoint: `best`, `latest` or one's own name such as `step-00000120`.
        batch_size: windows in a batch.
        hop_s: s between window starts; the window length when None.
        min_fill: share of a window that a left-over end or a short track must fill.
        decoder: `auto`, `library` or `tensorflow-io`, see `tfpipe.data.recordings`.
        quiet: show no progress.

    Raises:
        TfpipeError: none of the recordings can be used.
        RunError: no run, or no checkpoint.
        UsageError: a value is out of range, or the decoder does not work here.
    """
    model = load_models(run, which=which)
    paths = [recording.path for recording in recordings]
    raw = RecordingWindows(paths, model.spec, hop_s=hop_s, min_fill=min_fill, decoder=decoder)
    measure = _measure(model)
    parts: list[dict[str, NDArray[Any]]] = []
    with Progress("score", unit="window", quiet=quiet) as bar:
        for batch in raw.batches(batch_size):
            audio = batch.pop("audio")
            parts.append({name: value.numpy() for name, value in {**batch, **measure(audio)}.items()})
            bar.update(len(audio))
        left_out = _left_out(raw, recordings, parts)
        unusable = [*skipped, *left_out.values()]
        for row in unusable:
            bar.message(f"skipped: {row.message} ({row.code})")
    if len(left_out) == len(recordings):
        raise TfpipeError(f"none of {len(unusable)} files can be used; the lines above say why")
    windows = _sorted(parts, without=left_out)
    tracks = _by_track(raw, recordings, windows)
    summary = {
        "windows": len(windows["mse"]),
        "silent": sum(track["silent"] for track in tracks),
        **{name: float(windows[name].mean(dtype=np.float64)) for name in ("mse", "kl")},
        "latent": model.latent,
        "fingerprint": model.spec.fingerprint,
        "run": str(run),
        "checkpoint": _identity(model),
        "decoder": raw.decoder,
        "tracks": tracks,
        "skipped": [{"path": row.path, "code": row.code, "message": row.message} for row in unusable],
    }
    return Scores(summary, windows)


def save_latents(path: Path, scores: Scores) -> None:
    """Writes npz: `Scores.windows`, `path` and `label` `[tracks]`, `fingerprint`, and `checkpoint` as JSON.

    Raises:
        TfpipeError: it cannot be written.
    """
    summary = scores.summary
    columns = {name: np.array([track[name] for track in summary["tracks"]]) for name in ("path", "label")}
    identity = {"run": summary["run"], **summary["checkpoint"]}
    packed = io.BytesIO()
    np.savez(
        packed,
        **scores.windows,
        **columns,
        fingerprint=np.array(summary["fingerprint"]),
        checkpoint=np.array(json.dumps(identity)),
    )
    write_bytes(path, packed.getvalue())


def _measure(model: TrainedModel) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The graph from `audio` `[batch, samples]` to what is known of each window."""

    @tf.function(input_signature=[tf.TensorSpec([None, model.spec.samples], tf.float32)])
    def measure(audio: tf.Tensor) -> dict[str, tf.Tensor]:
        mel, ref_db = log_mel(audio, model.spec)
        mel = mel[..., None]
        z_mean, z_log_var = model.encoder(mel, training=False)
        mse, kl = losses(mel, model.decoder(z_mean, training=False), z_mean, z_log_var)
        return {"ref_db": ref_db, "mse": mse, "kl": tf.reduce_sum(kl, 1), "z_mean": z_mean, "z_log_var": z_log_var}

    return measure


def _left_out(
    raw: RecordingWindows, recordings: Sequence[Recording], parts: list[dict[str, NDArray[Any]]]
) -> dict[int, Skipped]:
    """By track, why it gives no windows: what its decoder said, or that all of it is silent."""
    errors = dict(raw.failed)
    heard = {int(track) for part in parts for track in np.unique(part["track"])}
    for index in raw.windows.keys() - heard - errors.keys():
        level = f"every window is under {raw.spec.silence_dbfs:g} dBFS"
        errors[index] = AudioError("silent", f"{raw.paths[index]}: {level}")
    return {
        index: Skipped(path=recordings[index].name, code=error.code, message=" ".join(str(error).split()))
        for index, error in sorted(errors.items())
    }


def _sorted(parts: list[dict[str, NDArray[Any]]], *, without: Iterable[int]) -> dict[str, NDArray[Any]]:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["start_s"], columns["track"]))
    order = order[~np.isin(columns["track"][order], list(without))]
    return {name: column[order] for name, column in columns.items()}


def _by_track(
    raw: RecordingWindows, recordings: Sequence[Recording], windows: dict[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    """Describes each track that is left, and makes `windows["track"]` point at these rows."""
    tracks, first, rows, counts = np.unique(
        windows["track"], return_index=True, return_inverse=True, return_counts=True
    )
    windows["track"] = rows.astype(np.int32)
    means = {name: np.add.reduceat(windows[name].astype(np.float64), first) / counts for name in ("mse", "kl")}
    return [
        {
            "path": recordings[index].name,
            "label": recordings[index].label,
            "seconds": round(raw.seconds[index], 6),
            "windows": int(counts[row]),
            "silent": raw.windows[index] - int(counts[row]),
            **{name: float(values[row]) for name, values in means.items()},
        }
        for row, index in enumerate(tracks.tolist())
    ]


def _identity(model: TrainedModel) -> dict[str, Any]:
    """Says which weights they were: the checkpoint's place in its run, and a SHA-256 over encoder and decoder."""
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
