"""Which lane the installed versions are nearest to."""

import pytest

from tfpipe import lanes


@pytest.mark.parametrize("lane", lanes.LANES)
def test_exact_versions_are_their_lane(lane):
    found = lanes.match(lanes.LANES[lane])
    assert (found.lane, found.exact) == (lane, True)


def test_differences_give_the_installed_version_and_the_lanes():
    found = lanes.match({**lanes.LANES["latest"], "numpy": "2.0.0", "keras": None})
    assert (found.lane, found.exact) == ("latest", False)
    assert found.differences == {"numpy": ("2.0.0", "2.4.6"), "keras": (None, "3.15.1")}


def test_tensorflow_io_needs_tensorflow_2_16_or_2_17():
    versions = {"2.15.1": False, "2.16.2": True, "2.17.1": True, "2.21.0": False, None: False}
    assert {version: lanes.tensorflow_io_loads(version) for version in versions} == versions


def test_a_missing_package_has_no_version():
    assert lanes.installed_version("no-such-package-here") is None
    assert lanes.installed_version("numpy")
