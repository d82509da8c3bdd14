"""The table that ends `tfpipe run`."""

from __future__ import annotations

from typing import Any

from tfpipe.workflow.report import table

STAGES = ["preprocess", "verify", "train", "evaluate", "export", "serve check", "report"]
_REPORT: dict[str, Any] = {
    "workdir": "my work",
    "changed": ["train"],
    "seconds": {"train": 12.34},
    "serve": "tfpipe serve",
    "preprocess": {
        "tracks": 2,
        "labels": {"Grand Piano": 1, "Voice": 1},
        "windows": 9,
        "silent_windows": 0,
        "examples": 54,
        "variants": {},
        "skipped": {"total": 0, "by_reason": {}},
    },
    "train": {
        "epochs": 2,
        "best": {"epoch": 2},
        "first_mse": 0.2,
        "last_mse": 0.1,
        "loss": -2.0,
        "prior": {"step": 9, "loss": 1.0},
    },
    "evaluate": {
        "split": "test",
        "windows": 5,
        "mse": 0.1,
        "baselines": {"mean": {"mse": 0.2}, "pca": {"components": 4, "mse": 0.1}},
        "active_units": 4,
        "latent": 4,
        "kl": 10.0,
        "verdict": {"text": "Reconstructions are worse than PCA. Next: train for more --epochs."},
    },
    "serve_check": {"folder": "my work/check"},
    "export": {"path": "my work/models/vae/1"},
    "report": {"path": "my work/report.html"},
}


def test_it_ends_with_the_verdict_and_the_commands_to_hear_and_to_serve_the_model() -> None:
    said = table(_REPORT)
    assert "\n\nReconstructions are worse than PCA. Next: train for more --epochs.\n\n" in said
    heard = said.partition("Hear what it makes:\n")[2].splitlines()[0]
    assert heard.endswith(
        "generate --label 'Grand Piano' --seconds 30 --model 'my work/models/vae' --out 'my work/sounds'"
    )
    assert "tfpipe studio --model 'my work/models/vae'\n" in said.partition("Play with it, on a page:\n")[2]
    assert said.endswith("Serve it:\n  tfpipe serve")


def test_without_a_prior_nothing_is_asked_for_and_a_figure_of_an_earlier_version_is_not_missed() -> None:
    judged = {name: value for name, value in _REPORT["evaluate"].items() if name != "verdict"}
    said = table({**_REPORT, "evaluate": judged, "train": {**_REPORT["train"], "prior": None}})
    assert "generate --model 'my work/models/vae' --out" in said
    assert "Reconstructions" not in said


def test_each_stage_has_a_row_with_its_time_and_what_it_made() -> None:
    said = table(_REPORT)
    rows = said.partition("stage ")[2].partition("\n\n")[0].splitlines()[1:]
    assert [row[:11].strip() for row in rows] == STAGES
    assert rows[2].split(None, 3) == ["train", "12.3", "s", "my work/run  (2 epochs)"]
    assert rows[4].split(None, 3) == ["export", "as", "before", "my work/models/vae/1"]
    assert "listen to them, in a browser:\n  my work/report.html\n" in said
