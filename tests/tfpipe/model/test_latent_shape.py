"""The shape of the latent: how it is written, and what fits a window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.errors import SpecError, UsageError
from tfpipe.model.latent_shape import LatentShape, latent_shape, parse_latent
from tfpipe.model.presets import MAX_LATENT, PRESETS
from tfpipe.spec import FeatureSpec

SEQUENCE, COMPACT = PRESETS["sequence"], PRESETS["compact"]


def test_a_number_is_one_vector_and_a_product_is_a_sequence() -> None:
    assert parse_latent(16) == parse_latent("16") == LatentShape(1, 16)
    assert parse_latent("27x64") == parse_latent(" 27 X 64 ") == LatentShape(27, 64)
    assert [str(parse_latent(text)) for text in ("16", "1x16", "27x64")] == ["16", "16", "27x64"]


@pytest.mark.parametrize("text", ["", "many", "27x", "x64", "27x64x2", "-3", "1.5", "1e3"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="use a number such as 16, or STEPSxCHANNELS"):
        parse_latent(text)


@pytest.mark.parametrize("text", ["0", "0x4", "4x0", str(MAX_LATENT + 1), "999x999"])
def test_a_size_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"latent={text} is out of range; use 1 to {MAX_LATENT} numbers"):
        parse_latent(text)


def test_without_a_size_the_preset_decides() -> None:
    assert latent_shape(SEQUENCE, None, FeatureSpec()) == LatentShape(27, 96)
    assert latent_shape(SEQUENCE, None, FeatureSpec(window_s=10.0)).steps == 54
    assert latent_shape(SEQUENCE, None, FeatureSpec(n_mels=4)) == LatentShape(27, 32)
    assert latent_shape(COMPACT, None, FeatureSpec()) == LatentShape(1, 16)


@pytest.mark.parametrize(
    ("latent", "fix"),
    [("28x64", "use 27x64"), ("500x2", "use 216x2"), ("27x64", "covers only 32 .* use 27x32")],
)
def test_a_sequence_that_does_not_fit_is_refused_with_one_that_does(latent: str, fix: str) -> None:
    with pytest.raises(SpecError, match=fix):
        latent_shape(SEQUENCE, latent, FeatureSpec(n_mels=4))


def test_a_preset_with_one_vector_takes_no_sequence() -> None:
    with pytest.raises(UsageError, match="'compact' has one vector for a window; use --latent 1728"):
        latent_shape(COMPACT, "27x64", FeatureSpec())


@given(bands=st.integers(1, 256), seconds=st.floats(0.1, 20.0), steps=st.integers(1, 300), channels=st.integers(1, 90))
def test_any_window_takes_the_size_or_the_one_that_the_refusal_names(
    bands: int, seconds: float, steps: int, channels: int
) -> None:
    spec = FeatureSpec(n_mels=max(bands, 2), window_s=seconds)
    try:
        shape = latent_shape(SEQUENCE, f"{steps}x{channels}", spec)
    except SpecError as error:
        try:
            shape = latent_shape(SEQUENCE, str(error).rsplit(" ", 1)[1], spec)
        except SpecError as second:  # steps and channels can both be wrong
            shape = latent_shape(SEQUENCE, str(second).rsplit(" ", 1)[1], spec)
    except UsageError:
        return
    assert shape.steps * shape.patch(spec) - spec.frames < shape.patch(spec)
    assert shape.channels <= shape.patch(spec) * spec.n_mels
