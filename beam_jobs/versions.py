"""Versions of the tools that make a dataset."""

from __future__ import annotations

import functools
import importlib.metadata
import platform

import soundfile

from tfpipe import __version__

# The manifest notes all of them.
_TOOLS = ("tfpipe", "librosa", "numpy", "scipy", "soundfile", "soxr", "libsndfile", "av", "apache-beam", "python")
# A new version of one of these does not change the bytes of a shard.
_HARMLESS = ("apache-beam", "python")


def versions() -> dict[str, str]:
    """Returns the version of each tool by its name."""
    found = {"libsndfile": soundfile.__libsndfile_version__, "python": platform.python_version(), "tfpipe": __version__}
    return {name: found.get(name) or _installed(name) for name in _TOOLS}


def content_versions() -> list[str]:
    """Returns the versions that can change the bytes of a shard; jobs reuse work only if these are equal."""
    return [version for name, version in versions().items() if name not in _HARMLESS]


@functools.cache
def _installed(name: str) -> str:
    """Returns the version of an installed package; a job asks many times, and each search takes milliseconds."""
    return importlib.metadata.version(name)
