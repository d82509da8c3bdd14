"""The verdict, and the table that ends with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tfpipe.evaluation.table import table
from tfpipe.evaluation.verdict import verdict

_ROW = {"frechet_distance": 100.0, "density": 0.5, "coverage": 0.5}
_RESULT: dict[str, Any] = {
    "split": "test",
    "windows": 40,
    "tracks": 4,
    "mse": 0.0008,
    "kl": 3645.6,
    "active_units": 1728,
    "dead": [],
    "latent": 1728,
    "baselines": {"mean": {"mse": 0.018}, "pca": {"components": 64, "steps": 27, "examples": 2000, "mse": 0.0011}},
    "better_than_pca": {"windows": 40, "of": 40},
    "training": {"windows": 128, "mse": 0.0007, "pca_mse": 0.001},
    "audio": {
        "bands": [{"low_hz": low, "high_hz": 2 * low, "mse": 0.0008} for low in (125, 250, 500, 1000, 2000, 4000)],
        "log_spectral_distance_db": 4.4,
        "rate_kbit_s": 1.05,
        "level_db": {"mean": -0.3, "windows": 16, "by_label": {"Piano": -0.3}, "mean_size": 0.4, "largest": 1.2},
        "notes_kept": {"mean": 0.7, "windows": 16, "by_label": {"Piano": 0.72, "Voice": 0.63}},
        "intelligibility": {"missing": "not measured: pip install 'tfpipe[evaluate]'"},
    },
    "draws": {
        "count": 200,
        "prior": "learned",
        "held_out_windows": 40,
        "against": {
            name: {"kernel_distance": value, **_ROW}
            for name, value in (
                ("draws", 10.0),
                ("training", 4.0),
                ("reconstructions", 18.0),
                ("out of order", 30.0),
                ("noise", 160.0),
            )
        },
        "way_to_noise": 0.04,
        "nearest_training": {"draws": 9.0, "held_out": 8.0, "copies": 0.01, "copies_held_out": 0.0},
        "label": {"right": 0.95, "accuracy_held_out": 0.98},
    },
}


def _with(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The good result with values changed, each at a path such as `draws/way_to_noise`."""
    result = copy.deepcopy(_RESULT)
    for path, value in changes:
        *parents, last = path.split("/")
        place = result
        for name in parents:
            place = place[name]
        place[last] = value
    return result


def test_nothing_stands_out_in_a_good_run() -> None:
    found = verdict(_RESULT, has_prior=True)
    assert (found["reconstruction"], found["overfit"], found["copies"]) == ("better", False, False)
    assert found["draws"] == "good"
    assert "0.73 of its error" in found["text"]
    assert found["text"].endswith("listen to it (tfpipe generate).")


@pytest.mark.parametrize(
    ("changes", "key", "value", "words"),
    [
        ([("mse", 0.002), ("better_than_pca/windows", 3)], "reconstruction", "worse", "more --epochs"),
        ([("mse", 0.00112)], "reconstruction", "equal", "about as good as"),
        ([("mse", 0.0010), ("training/mse", 0.0002)], "overfit", True, "overlapping windows"),
        ([("training", {"missing": "none"})], "overfit", None, "PCA of equal size (0.73 of its error)."),
        ([("draws/against/draws/kernel_distance", 80.0)], "draws", "poor", "train the prior for longer"),
        ([("draws/nearest_training/copies", 0.5)], "copies", True, "50 % of them nearly copy"),
        ([("draws", {"missing": "left out"})], "draws", None, "not overfit. Nothing stands out"),
        ([("active_units", 0)], "draws", "good", "--preset sequence"),
        ([("audio/notes_kept/mean", 0.1)], "draws", "good", "--latent 54x64"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    changes: list[tuple[str, Any]], key: str, value: object, words: str
) -> None:
    found = verdict(_with(*changes), has_prior=True)
    assert found[key] == value
    assert words in found["text"]
    assert "nan" not in found["text"]


def test_poor_draws_without_a_prior_ask_for_one() -> None:
    found = verdict(_with(("draws/against/draws/kernel_distance", 80.0)), has_prior=False)
    assert "--prior flow" in found["text"]


def test_few_windows_are_too_few_to_tell() -> None:
    found = verdict(_with(("windows", 6), ("mse", 0.0009)), has_prior=True)
    assert (found["overfit"], found["draws"], found["copies"]) == (None, None, None)
    assert "6 windows are too few to tell" in found["text"]
    assert "hold out more recordings" in found["text"]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [("draws", {"missing": "left out by --draws 0"})],
        [("draws/nearest_training", {"missing": "these windows were trained on"})],
        [("draws/label", {"missing": "the training windows have one label"})],
        [("training", {"missing": "the windows above are those of training"})],
        [("dead", list(range(1728))), ("active_units", 0), ("kl", 0.0)],
        [("audio/level_db", {"missing": "all windows are silent"})],
        [("baselines/pca/mse", 0.0), ("baselines/mean/mse", 0.0), ("mse", 0.0)],
    ],
)
def test_the_table_fits_80_columns(changes: list[tuple[str, Any]]) -> None:
    result = _with(*changes)
    text = table({**result, "verdict": verdict(result, has_prior=True)})
    assert max(map(len, text.splitlines())) <= 80
    assert "nan" not in text
