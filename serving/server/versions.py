"""Versions of one model: watching its folder, and keeping a version loaded while a request uses it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from serving.protocol.names import is_version
from serving.protocol.status import Code, StatusError
from serving.server.config_files import Policy
from serving.server.loaded_model import LoadedModel

_LOG = logging.getLogger(__name__)


class VersionStatus(NamedTuple):
    """State of one version.

    Attributes:
        version: its number.
        state: name of a GetModelStatus state, such as `AVAILABLE`.
        error: why it could not be loaded, or None.
    """

    version: int
    state: str
    error: StatusError | None = None


class ModelFolder:
    """Serves the versions in a folder that a policy selects, and watches the folder for new ones.

    A new version is loaded and warmed up before an old one is dropped. Requests in
    progress finish on the version they began with. A version that does not load is
    reported (state END), tried again when its files change, and never replaces one
    that works.

    Args:
        name: the model's name in requests.
        base_path: folder with numeric sub-folders.
        policy: selects the versions.
        load: loads a version from its folder and number, or raises StatusError.
    """

    def __init__(self, *, name: str, base_path: Path, policy: Policy, load: Callable[[Path, int], LoadedModel]) -> None:
        self.name, self.base_path = name, base_path
        self.policy = policy
        self._load = load
        self._polling = threading.Lock()
        self._lock = threading.Lock()
        self._loaded: dict[int, _LoadedVersion] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, object] = {}
        self._logged = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, poll_s: float) -> None:
        """Looks once, then every `poll_s` seconds (0: once only; negative: never)."""
        if poll_s >= 0:
            self.poll()
        if poll_s > 0:
            self._thread = threading.Thread(target=self._watch, args=(poll_s,), name="versions", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops watching the folder and drops every version; each is closed once its last request is answered."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=60)
        with self._polling:
            self._drop(set(self._loaded))

    @contextlib.contextmanager
    def use(self, version: int | None = None) -> Iterator[LoadedModel]:
        """Yields a version (by default the newest) and keeps it loaded for the block.

        Raises:
            StatusError: NOT_FOUND, in TensorFlow Serving's words.
        """
        with self._lock:
            chosen = max(self._loaded, default=-1) if version is None else version
            held = self._loaded.get(chosen)
            if held is None:
                raise not_found(self.name, version)
            held.users += 1
        try:
            yield held.model
        finally:
            with self._lock:
                held.users -= 1
                is_last = held.dropped and not held.users
            if is_last:
                self._close(held)

    @property
    def versions(self) -> list[int]:
        """Versions that can answer now, newest first."""
        with self._lock:
            return sorted(self._loaded, reverse=True)

    def statuses(self, version: int | None = None) -> list[VersionStatus]:
        """Returns the states of all known versions, or of one, newest first.

        Raises:
            StatusError: NOT_FOUND, in TensorFlow Serving's words.
        """
        with self._lock:
            known = dict(self._statuses)
        if version is not None:
            if version not in known:
                raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {self.name}")
            return [known[version]]
        if not known:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {self.name}")
        return [known[number] for number in sorted(known, reverse=True)]

    def poll(self) -> None:
        """Looks at the folder once: loads the versions that the policy selects, then drops the others."""
        with self._polling:
            if self._stop.is_set():
                return
            found, policy = self._versions(), self.policy
            wanted = set(found) & policy.specific if policy.specific else set(found)
            serves: set[int] = set()
            for version in sorted(wanted, reverse=True):
                if policy.latest and not policy.specific and len(serves) == policy.latest:
                    break
                if version in self._loaded or self._load_version(found[version], version):
                    serves.add(version)
            if serves:
                self._drop(set(self._loaded) - serves)

    def _load_version(self, path: Path, version: int) -> bool:
        """Loads and warms up a version; tells whether that worked."""
        files = _fingerprint(path)
        if files is not None and self._failed.get(version) == files:
            return False
        self._set_status(version, "LOADING")
        started = time.monotonic()
        try:
            model = self._load(path, version)
        except StatusError as error:
            _LOG.error("version %d of model %s does not load: %s", version, self.name, error.message)
            self._failed[version] = files
            self._set_status(version, "END", error)
            return False
        self._failed.pop(version, None)
        with self._lock:
            self._loaded[version] = _LoadedVersion(model)
            self._statuses[version] = VersionStatus(version, "AVAILABLE")
        _LOG.info("serving version %d of model %s (loaded in %.1f s)", version, self.name, time.monotonic() - started)
        return True

    def _drop(self, versions: set[int]) -> None:
        """Stops using versions; each is closed once its last request is answered."""
        with self._lock:
            dropped = [self._loaded.pop(version) for version in versions]
            for held in dropped:
                held.dropped = True
                self._statuses[held.model.version] = VersionStatus(held.model.version, "UNLOADING")
            idle = [held for held in dropped if not held.users]
        for held in idle:
            self._close(held)

    def _close(self, held: _LoadedVersion) -> None:
        held.model.close()
        version = held.model.version
        _LOG.info("version %d of model %s was unloaded", version, self.name)
        with self._lock:
            if version not in self._loaded and self._statuses[version].state == "UNLOADING":
                self._statuses[version] = VersionStatus(version, "END")

    def _set_status(self, version: int, state: str, error: StatusError | None = None) -> None:
        with self._lock:
            self._statuses[version] = VersionStatus(version, state, error)

    def _versions(self) -> dict[int, Path]:
        """Returns the numeric sub-folders; a problem is logged once, not at every look."""
        try:
            found = {int(p.name): p for p in self.base_path.iterdir() if is_version(p.name) and p.is_dir()}
            problem = "" if found else "no versions yet; waiting for a sub-folder whose name is a number"
        except OSError as error:
            found, problem = {}, f"cannot be read ({error.strerror}); the loaded versions stay"
        if problem and problem != self._logged:
            _LOG.warning("%s: %s", self.base_path, problem)
        self._logged = problem
        return found

    def _watch(self, poll_s: float) -> None:
        while not self._stop.wait(poll_s):
            try:
                self.poll()
            except Exception:  # no folder may end the watching thread
                _LOG.exception("%s: looking for versions failed", self.base_path)


class _LoadedVersion:
    """A loaded version, the number of requests that use it, and whether the last of them must close it."""

    def __init__(self, model: LoadedModel) -> None:
        self.model, self.users, self.dropped = model, 0, False


def not_found(name: str, version: int | None) -> StatusError:
    """Returns the error for a model or version that is not served, in TensorFlow Serving's words."""
    wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")


def _fingerprint(path: Path) -> object:
    """Returns a value that changes when a file in a version's folder is added or written."""
    try:
        files = [path, *path.iterdir(), *(path / "variables").glob("*")]
        return tuple(sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    except OSError:
        return None
