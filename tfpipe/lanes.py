"""The lanes: the two sets of package versions that are tested. Loads no TensorFlow."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

# The packages that define a lane. `constraints/*.txt` give the versions of all packages.
LANES: Mapping[str, Mapping[str, str]] = {
    "default": {
        "tensorflow": "2.17.1",
        "tensorflow-io": "0.37.1",
        "tensorflow-serving-api": "2.17.1",
        "keras": "3.15.1",
        "apache-beam": "2.77.0",
        "librosa": "0.11.0",
        "numpy": "1.26.4",
        "protobuf": "4.25.9",
    },
    "latest": {
        "tensorflow": "2.21.0",
        "tensorflow-io": "0.37.1",
        "tensorflow-serving-api": "2.21.0",
        "keras": "3.15.1",
        "apache-beam": "2.77.0",
        "librosa": "0.11.0",
        "numpy": "2.4.6",
        "protobuf": "6.33.6",
    },
}


@dataclass(frozen=True, kw_only=True)
class Match:
    """The lane that is nearest to the installed versions.

    Attributes:
        lane: its name.
        differences: package -> (installed version or None, the lane's version).
    """

    lane: str
    differences: Mapping[str, tuple[str | None, str]]

    @property
    def exact(self) -> bool:
        """Whether all packages that define the lane have its versions."""
        return not self.differences


def match(installed: Mapping[str, str | None]) -> Match:
    """Returns the lane with the fewest differences.

    Args:
        installed: package -> version, None for a missing package.
    """
    matches = []
    for lane, pins in LANES.items():
        differences = {name: (installed.get(name), pin) for name, pin in pins.items() if installed.get(name) != pin}
        matches.append(Match(lane=lane, differences=differences))
    return min(matches, key=lambda candidate: len(candidate.differences))


def tensorflow_io_loads(tensorflow: str | None) -> bool:
    """Tells whether all of tensorflow-io 0.37.1 works with a TensorFlow version.

    Its compiled parts (audio decoding, resampling, s3:// and http://) need
    TensorFlow 2.16 or 2.17. With later versions only its parts in pure TensorFlow
    work, such as the masks.
    """
    return tensorflow is not None and tensorflow.startswith(("2.16.", "2.17."))


def installed_version(package: str) -> str | None:
    """Returns the installed version of a distribution, None if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
