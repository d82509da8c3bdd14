"""Checks the latent of a run by the figures of its epochs, and says in words what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A dimension with a mean KL below this is dead: it carries no information.
ACTIVE_NATS = 0.01
# Every model starts with an empty latent, so nothing is reported before this many epochs.
_EPOCHS = 3
# A smaller share of active dimensions than this is reported.
_FEW = 0.25


def active_units(kl: NDArray[np.float64]) -> int:
    """Counts the dimensions that carry information, by the mean KL per dimension `[latent]` (nats)."""
    return int((kl > ACTIVE_NATS).sum())


def warnings(history: Sequence[Mapping[str, Any]], *, preset: str, latent: int) -> dict[str, str]:
    """Returns the problems of the latent, each with the fix.

    Args:
        history: rows of `metrics.jsonl`; figures of validation are used if there are any.
        preset: the run's preset.
        latent: dimensions of z.

    Returns:
        A sentence by cause: `collapsed` or `few`. Empty if there is no problem, or too few epochs to tell.
    """
    if len(history) < _EPOCHS:
        return {}
    active, kl = zip(*(_figures(row) for row in history[-_EPOCHS:]), strict=True)
    after = f"after {history[-1]['epoch']} epochs"
    if max(active) == 0:
        fix = "a smaller --learning-rate, more varied recordings or a smaller --latent"
        if preset == "notebook":
            fix = "--preset sequence, whose objective weighs KL against the error as a likelihood does"
        return {
            "collapsed": f"the latent has collapsed: KL {kl[-1]:.3f} nats, 0 of {latent} dimensions active {after}, "
            f"so every reconstruction is the mean spectrogram; train into another run folder with {fix}"
        }
    if max(active) < _FEW * latent:
        fix = "--preset sequence" if preset == "notebook" else "more epochs, or more varied recordings"
        return {
            "few": f"only {active[-1]} of {latent} latent dimensions are active {after} (KL {kl[-1]:.2f} nats), "
            f"the others carry no information; a smaller --latent would do the same, and {fix} may use more of them"
        }
    return {}


def _figures(row: Mapping[str, Any]) -> tuple[int, float]:
    """Returns active dimensions and KL of an epoch."""
    prefix = "" if row.get("val_kl") is None else "val_"
    # Rounding can make a KL of zero negative.
    return int(row[f"{prefix}active_units"]), max(0.0, float(row[f"{prefix}kl"]))
