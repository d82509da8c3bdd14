"""Precision and XLA: what the settings mean on this machine."""

from __future__ import annotations

import pytest

from tfpipe.errors import UsageError
from tfpipe.model import precision


def test_precision_that_is_named_is_taken() -> None:
    assert precision.resolve("mixed_float16") == "mixed_float16"
    assert precision.resolve("auto") in ("float32", "mixed_bfloat16", "mixed_float16")


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="use one of auto, float32"):
        precision.resolve("float8")


def test_xla_on_several_devices_is_refused() -> None:
    assert not precision.compiled("auto", replicas=2)
    with pytest.raises(UsageError, match="--jit-compile on works on one device, and here are 2"):
        precision.compiled("on", replicas=2)
