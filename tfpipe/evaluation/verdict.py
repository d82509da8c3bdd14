"""Says in words what an evaluation's figures mean, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Windows that are drawn from the prior and judged unless another number is asked for.
DRAWS = 200
# With fewer held-out windows than this, a difference can be chance.
_FEW_WINDOWS = 20
# Errors within 5 % of each other count as equal.
_EQUAL = 0.05
# A model is called overfit if its error, as a share of PCA's, is this many times larger on held-out recordings than on
# training recordings. PCA is a linear model, which hardly overfits, so its error shows how hard the recordings are.
_OVERFIT = 1.25
# Draws are good up to this share of the way from training windows to reconstructions out of order.
_GOOD = 0.5
# Share of draws that may be near-copies of training windows beyond the share of held-out windows that are.
_COPIES = 0.1
_KEEPS_NOTES, _INTELLIGIBLE = 0.5, 0.6


def verdict(result: Mapping[str, Any], *, has_prior: bool) -> dict[str, Any]:
    """Judges the object of `tfpipe evaluate --json`.

    Args:
        result: the object without its `verdict`.
        has_prior: whether the run has a learned prior.

    Returns:
        `reconstruction` (`better`, `equal` or `worse` than PCA of equal size), `overfit` and `copies` (bool),
        `draws` (`good`, `fair` or `poor`), each None if it cannot be told, and `text`: what people read.
    """
    few = result["windows"] < _FEW_WINDOWS
    against_pca = _against_pca(result)
    overfit = None if few else _overfit(result)
    draws, copies = (None, None) if few else (_draws(result), _copies(result))
    judged = {"reconstruction": against_pca, "overfit": overfit, "draws": draws, "copies": copies}
    sentences = [_say_reconstruction(result, against_pca, overfit, few=few)]
    if "against" in result["draws"]:
        sentences.append(_say_draws(result, draws, copies, few=few))
    sentences.append(_next(result, judged, has_prior=has_prior, few=few))
    return {**judged, "text": " ".join(sentences)}


def _against_pca(result: Mapping[str, Any]) -> str:
    """Compares the errors; the model must also be better, or worse, on most windows."""
    pca, better = result["baselines"]["pca"]["mse"], result["better_than_pca"]
    share = better["windows"] / better["of"]
    if result["mse"] < (1.0 - _EQUAL) * pca and share >= 0.6:
        return "better"
    return "worse" if result["mse"] > (1.0 + _EQUAL) * pca and share <= 0.4 else "equal"


def _overfit(result: Mapping[str, Any]) -> bool | None:
    """Tells whether the model's share of PCA's error is much larger on held-out windows; None if not measured."""
    training, pca = result["training"], result["baselines"]["pca"]["mse"]
    if "missing" in training or not training["mse"] > 0.0 or not training["pca_mse"] > 0.0 or not pca > 0.0:
        return None
    return bool(result["mse"] / pca > _OVERFIT * training["mse"] / training["pca_mse"])


def _draws(result: Mapping[str, Any]) -> str | None:
    """Rates the draws: `poor` if further from recordings than sounds out of order; None if not measured."""
    if result["draws"].get("way_to_noise") is None:
        return None
    kad = {name: row["kernel_distance"] for name, row in result["draws"]["against"].items()}
    good = kad["training"] + _GOOD * (kad["out of order"] - kad["training"])
    return "good" if kad["draws"] <= good else "fair" if kad["draws"] <= kad["out of order"] else "poor"


def _copies(result: Mapping[str, Any]) -> bool | None:
    """Tells whether many draws are near-copies of training windows; None if not measured."""
    nearest = result["draws"].get("nearest_training", {"missing": ""})
    if "missing" in nearest:
        return None
    return bool(nearest["copies"] > nearest["copies_held_out"] + _COPIES)


def _say_reconstruction(result: Mapping[str, Any], against_pca: str, overfit: bool | None, *, few: bool) -> str:
    pca = result["baselines"]["pca"]["mse"]
    share = f" ({result['mse'] / pca:.2f} of its error)" if pca > 0.0 else ""
    words = {"better": "better than", "equal": "about as good as", "worse": "worse than"}[against_pca]
    sentence = f"Reconstructions are {words} PCA of equal size{share}"
    if few:
        return f"{sentence}, but {result['windows']} windows are too few to tell whether the model is overfit."
    if overfit is None:
        return f"{sentence}."
    return sentence + (
        ", but the model is overfit: it is much better on training recordings."
        if overfit
        else ", and the model is not overfit."
    )


def _say_draws(result: Mapping[str, Any], draws: str | None, copies: bool | None, *, few: bool) -> str:
    if few:
        return "They are also too few to judge the draws by."
    if draws is None:
        return "The draws cannot be told from noise, because the recordings cannot either."
    way = 100.0 * result["draws"]["way_to_noise"]
    order = "further from recordings" if draws == "poor" else "nearer to recordings"
    sentence = f"Draws are {draws}: {order} than sounds in random order are"
    sentence += f", {max(0.0, way):.0f} % of the way from training windows to noise"
    if copies:
        share = 100.0 * result["draws"]["nearest_training"]["copies"]
        return f"{sentence}, and {share:.0f} % of them nearly copy a training window."
    return f"{sentence}."


def _next(result: Mapping[str, Any], judged: Mapping[str, Any], *, has_prior: bool, few: bool) -> str:
    """Returns the first advice that applies; what is wrong earlier in the chain comes first."""
    notes, speech = (result["audio"].get(name, {}).get("mean") for name in ("notes_kept", "intelligibility"))
    unclear = (notes is not None and notes < _KEEPS_NOTES) and (speech is None or speech < _INTELLIGIBLE)
    advice = (
        (result["active_units"] == 0, "The latent carries nothing: train with --preset sequence."),
        (judged["reconstruction"] == "worse", "Next: train for more --epochs."),
        (judged["overfit"], "Next: add recordings, or preprocess with --hop-s 1 for overlapping windows."),
        (judged["copies"], "Next: add recordings, or train the prior for fewer steps."),
        (unclear, "Next: give the latent more numbers, such as --latent 54x64."),
        (judged["draws"] in ("fair", "poor") and not has_prior, "Next: train a prior (tfpipe train --prior flow)."),
        (judged["draws"] in ("fair", "poor"), "Next: train the prior for longer, or generate with --temperature 0.8."),
        (judged["reconstruction"] == "equal", "Next: train for more --epochs, or add recordings."),
        (few, "Next: hold out more recordings (tfpipe preprocess --test-share)."),
    )
    return next((text for applies, text in advice if applies), "Nothing stands out: listen to it (tfpipe generate).")
