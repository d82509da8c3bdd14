"""Compares an exported model's audio signatures with their Fourier transforms alone, for several sizes of a batch.

A sound cannot be made or analysed in less time than its Fourier transforms take, so they are the limit. The signatures
also run the networks. A batch should never take longer for a row than a single row does, so that is the baseline.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.bench.compare import Result, Step, compared, rates
from tfpipe.bench.serving_baseline import run_signature
from tfpipe.spec import FeatureSpec

_BATCHES = (1, 8, 32)
# In one timing, this many rows are computed, in one batch or in several.
_TIMED_ROWS = 32


def bench_audio_signatures(model: Any, *, rounds: int) -> list[Result]:
    """Measures `encode_audio` and `decode_audio` in this process.

    Args:
        model: what `tf.saved_model.load` returned for an exported version.
        rounds: how often everything is timed.
    """
    answer = run_signature(model, "spec", {"index": np.zeros(1, np.int32)})["json"][0]
    described = json.loads(answer)
    spec = FeatureSpec.from_dict(described["spec"])
    rng = np.random.default_rng(0)
    audio = 0.1 * rng.standard_normal((max(_BATCHES), spec.samples)).astype(np.float32)
    # Encoded sound, because its rows differ; the levels are those of music.
    encoded = run_signature(model, "encode_audio", {"audio": audio})
    inputs = {"encode_audio": {"audio": audio}, "decode_audio": {"z": encoded["z_mean"], "ref_db": encoded["ref_db"]}}
    transforms = {"encode_audio": _forward(spec), "decode_audio": _inverse(spec)}
    steps: dict[str, Step] = {}
    for name, given in inputs.items():
        for size in _BATCHES:
            part = {alias: array[:size] for alias, array in given.items()}
            steps[f"{name} {size}"] = _repeated(functools.partial(run_signature, model, name, part), size)
            steps[f"{name} {size} FFTs"] = _repeated(functools.partial(transforms[name], size), size)
    found = rates(steps, rounds=rounds, what="audio signatures")
    return [result for name in inputs for size in _BATCHES for result in _results(found, name, size)]


def _results(found: dict[str, list[float]], name: str, size: int) -> list[Result]:
    """Returns the results for one signature and size: its transforms, itself, and itself beside a single row."""
    ours, limit, alone = found[f"{name} {size}"], found[f"{name} {size} FFTs"], found[f"{name} {_BATCHES[0]}"]
    title = f"{name}, batch of {size}"
    results = [
        compared(f"{title}: its FFTs alone", limit, against="limit", of=limit),
        compared(f"{title}, against its FFTs", ours, against="limit", of=limit),
    ]
    if size > 1:
        results.append(compared(f"{title}, against a row alone", ours, against="baseline", of=alone))
    return results


def _forward(spec: FeatureSpec) -> Callable[[int], Any]:
    """Returns a function that transforms the frames of a number of windows, in the precision of the features."""
    frames = tf.random.stateless_normal([max(_BATCHES), spec.frames, spec.n_fft], [0, 0], dtype=tf.float64)
    graph = tf.function(lambda part: tf.signal.rfft(part, [spec.n_fft]), autograph=False, reduce_retracing=True)
    return lambda size: graph(frames[:size])


def _inverse(spec: FeatureSpec) -> Callable[[int], Any]:
    """Returns a function that transforms the spectra of a number of windows back."""
    parts = tf.random.stateless_normal([2, max(_BATCHES), spec.frames, spec.bins], [0, 0])
    spectra = tf.complex(parts[0], parts[1])
    graph = tf.function(lambda part: tf.signal.irfft(part, [spec.n_fft]), autograph=False, reduce_retracing=True)
    return lambda size: graph(spectra[:size])


def _repeated(step: Callable[[], object], size: int) -> Step:
    """Returns a step that computes `_TIMED_ROWS` rows in batches of `size`."""

    def run() -> int:
        for _ in range(_TIMED_ROWS // size):
            step()
        return _TIMED_ROWS

    return run
