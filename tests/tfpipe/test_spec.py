"""The feature spec: defaults, validation, fingerprints."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.errors import SpecError, SpecMismatch
from tfpipe.spec import FeatureSpec, require_same_spec


def test_defaults_are_the_notebooks() -> None:
    spec = FeatureSpec()
    assert (spec.sample_rate, spec.samples, spec.frames, spec.bins) == (22_050, 110_250, 216, 1025)
    assert spec.mel_shape == (128, 216)


def test_fingerprint_is_fixed() -> None:
    # A change here makes every dataset, run and model of earlier versions unreadable: raise the feature version.
    assert FeatureSpec().fingerprint == "2bff54f949b37cff"


@given(st.sampled_from([field.name for field in dataclasses.fields(FeatureSpec)]))
def test_every_field_changes_the_fingerprint(name: str) -> None:
    others: dict[str, Any] = {
        "sample_rate": 24_000,
        "window_s": 4.0,
        "n_fft": 4096,
        "hop": 256,
        "n_mels": 64,
        "fmin": 40.0,
        "fmax": 7000.0,
        "power": 2.0,
        "top_db": 60.0,
        "silence_dbfs": -50.0,
    }
    assert FeatureSpec(**{name: others[name]}).fingerprint != FeatureSpec().fingerprint


def test_round_trip_and_number_types() -> None:
    spec = FeatureSpec(window_s=4, n_mels=64.0, fmin=40)  # type: ignore[arg-type]
    assert FeatureSpec.from_dict(spec.to_dict()) == spec
    assert spec.fingerprint == FeatureSpec(window_s=4.0, n_mels=64, fmin=40.0).fingerprint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"fmax": 12_000.0}, "half the sample rate"),
        ({"fmin": 9000.0}, "fmin"),
        ({"window_s": float("nan")}, "finite"),
        ({"window_s": 0.05}, "shorter than n_fft"),
        ({"n_fft": 2047}, "even"),
        ({"n_mels": 1024}, "holds no FFT bin"),
        ({"hop": 0}, "hop"),
        ({"power": 3.0}, "power=3.0 is unknown; use one of 1.0, 2.0"),
        ({"hop": 1025}, r"hop=1025 .* at most half of n_fft \(1024 samples\)"),
        ({"fmax": -1.0}, "fmin"),
        ({"silence_dbfs": 1}, "silence_dbfs=1.0 is out of range; use a number, at least -200.0 and at most 0.0"),
        ({"n_mels": 12.5}, "whole number"),
        ({"hop": True}, "not a finite number"),
    ],
)
def test_bad_values_name_the_field_and_the_fix(values: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FeatureSpec(**values)


def test_unknown_field_is_refused() -> None:
    with pytest.raises(SpecError, match="colour"):
        FeatureSpec.from_dict({"colour": 1})


def test_mismatch_shows_the_fields_of_both() -> None:
    with pytest.raises(SpecMismatch, match=r"n_mels: 128 against 64.*") as caught:
        require_same_spec(FeatureSpec(), FeatureSpec(n_mels=64), expected_from="run", actual_from="data")
    assert "run" in str(caught.value)
    assert "data" in str(caught.value)
