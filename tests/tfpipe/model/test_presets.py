"""Presets: their names, and that training takes their values."""

import pytest

from tfpipe.errors import UsageError
from tfpipe.model.presets import PRESETS, preset


def test_presets_are_found_by_name() -> None:
    assert list(PRESETS) == ["sequence", "compact", "notebook", "large", "tiny"]
    assert preset("notebook").objective == "notebook"


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'huge' is unknown; use one of sequence, compact"):
        preset("huge")
