"""A variant and its name stand for each other."""

import pytest
from hypothesis import HealthCheck, given, settings
from variant_strategies import VARIANTS

from beam_jobs.variants import Variant
from tfpipe.errors import UsageError


# The first example may wait for other processes on a busy machine.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(VARIANTS)
def test_every_variant_can_be_replayed_from_its_name(variant):
    assert Variant.parse(variant.name) == variant
    assert "," not in variant.name  # which parts names on the command line
    assert "/" not in variant.name  # which parts an example's key


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("original", "original"),
        ("shift-2.5", "shift-2.5"),
        ("shift+0", "original"),
        ("chord:0:4:7", "chord:major"),
        ("chord:0:4@-3:7@0", "chord:0:4@-3:7"),
        ("chord:5@-3", "shift+5"),
        ("gain-6dB+noise20dB+shift+4+stretch*1.1", "shift+4+stretch*1.1+noise20dB+gain-6dB"),
    ],
)
def test_one_variant_has_one_name(given, name):
    assert Variant.parse(given).name == name


@pytest.mark.parametrize(
    "name",
    [
        "shift+x",
        "shift+nan",
        "shift+99",
        "shift+1.2.3",
        "chord:blues",
        "chord:0:4:4",
        "chord:",
        "stretch*0",
        "gain+3dB",
        "noise20",
        "noiseinfdB",
        "shift+4+shift+5",
        "shift+4+chord:major",
        "shift+4+",
        "original+gain-6dB",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(UsageError):
        Variant.parse(name)
