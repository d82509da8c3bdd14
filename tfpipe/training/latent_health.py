"""What a run's figures say about its health, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A dimension that carries less than this many nats on average is dead.
ACTIVE_NATS = 0.01
# Any model starts with an empty latent: it has this many epochs before a word is said.
_EPOCHS = 3
# Fewer active dimensions than this share of the latent are worth a word.
_FEW = 0.25


def active_units(kl: np.ndarray) -> int:
    """Counts the dimensions of mean KL `[latent]` that carry information."""
    return int((kl > ACTIVE_NATS).sum())


def warnings(history: Sequence[Mapping[str, Any]], *, preset: str, latent: int) -> dict[str, str]:
    """Says what is wrong with the latent and what to change.

    Args:
        history: rows of `metrics.jsonl`; held-out figures count where there are any.
        preset: the run's preset.
        latent: dimensions of z.

    Returns:
        A sentence by cause: `collapsed` or `few`. Empty while all is well, or too early to say.
    """
    if len(history) < _EPOCHS:
        return {}
    active, kl = zip(*(_figures(row) for row in history[-_EPOCHS:]), strict=True)
    after = f"after {history[-1]['epoch']} epochs"
    if max(active) == 0:
        fix = "a smaller --learning-rate, more varied recordings or a smaller --latent"
        if preset == "notebook":
            fix = "--preset standard, whose objective weighs KL against the error as a likelihood does"
        return {
            "collapsed": f"the latent has collapsed: KL {kl[-1]:.3f} nats, 0 of {latent} dimensions active {after}, "
            f"so every reconstruction is the mean spectrogram; train into another run folder with {fix}"
        }
    if max(active) < _FEW * latent:
        fix = "--preset standard" if preset == "notebook" else "more epochs, or more varied recordings"
        return {
            "few": f"only {active[-1]} of {latent} latent dimensions are active {after} (KL {kl[-1]:.2f} nats), "
            f"the others carry nothing; a smaller --latent does the same, {fix} may use more"
        }
    return {}


def _figures(row: Mapping[str, Any]) -> tuple[int, float]:
    """Active dimensions and KL of an epoch."""
    prefix = "" if row.get("val_kl") is None else "val_"
    # Rounding can leave a KL of nothing below zero.
    return int(row[f"{prefix}active_units"]), max(0.0, float(row[f"{prefix}kl"]))
