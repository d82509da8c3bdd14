"""Versions of one model: following its folder, and holding a version while a request uses it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from serving.protocol.status import Code, StatusError
from serving.server.config_files import Policy
from serving.server.loaded_model import LoadedModel

_LOG = logging.getLogger(__name__)


class VersionStatus(NamedTuple):
    """State of one version.

    Attributes:
        version: its number.
        state: name of a GetModelStatus state, such as `AVAILABLE`.
        error: why it ended, or None.
    """

    version: int
    state: str
    error: StatusError | None = None


class ModelFolder:
    """Serves the versions in a folder that its policy wants, and follows the folder as versions come and go.

    New versions are loaded and warmed before old ones are dropped; requests
    in flight finish on the version they began with; a version that does not
    load is reported (state END), tried again once its files have changed, and
    never takes the place of one that does.

    Args:
        name: the model's name in requests.
        base_path: folder with numeric sub-folders.
        policy: which versions.
        load: makes a model of (path, version), or raises StatusError.
    """

    def __init__(self, *, name: str, base_path: Path, policy: Policy, load: Callable[[Path, int], LoadedModel]) -> None:
        self.name, self.base_path = name, base_path
        self.policy = policy
        self._load = load
        self._polling = threading.Lock()
        self._lock = threading.Lock()
        self._loaded: dict[int, _Held] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, object] = {}
        self._said = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, poll_s: float) -> None:
        """Looks once, then every `poll_s` seconds (0: once only; negative: never)."""
        if poll_s >= 0:
            self.poll()
        if poll_s > 0:
            self._thread = threading.Thread(target=self._follow, args=(poll_s,), name="versions", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops following the folder and drops every version once its last request is answered."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=60)
        with self._polling:
            self._drop(set(self._loaded))

    @contextlib.contextmanager
    def use(self, version: int | None = None) -> Iterator[LoadedModel]:
        """Holds a version, or the newest, for one request.

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
                ends = held.leaving and not held.users
            if ends:
                self._end(held)

    @property
    def versions(self) -> list[int]:
        """Versions that answer now, newest first."""
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
        """Looks at the folder once: loads what the policy wants, then drops what it does not."""
        with self._polling:
            if self._stop.is_set():
                return
            found, policy = self._versions(), self.policy
            wanted = set(found) & policy.specific if policy.specific else set(found)
            serves: set[int] = set()
            for version in sorted(wanted, reverse=True):
                if policy.latest and not policy.specific and len(serves) == policy.latest:
                    break
                if version in self._loaded or self._try(found[version], version):
                    serves.add(version)
            if serves:
                self._drop(set(self._loaded) - serves)

    def _try(self, path: Path, version: int) -> bool:
        """Loads and warms a version; tells whether that worked."""
        files = _fingerprint(path)
        if files is not None and self._failed.get(version) == files:
            return False
        self._set(version, "LOADING")
        started = time.monotonic()
        try:
            model = self._load(path, version)
        except StatusError as error:
            _LOG.error("version %d of model %s does not load: %s", version, self.name, error.message)
            self._failed[version] = files
            self._set(version, "END", error)
            return False
        self._failed.pop(version, None)
        with self._lock:
            self._loaded[version] = _Held(model)
            self._statuses[version] = VersionStatus(version, "AVAILABLE")
        _LOG.info("serving version %d of model %s (loaded in %.1f s)", version, self.name, time.monotonic() - started)
        return True

    def _drop(self, versions: set[int]) -> None:
        """Takes versions out of use; each ends when its last request is answered."""
        with self._lock:
            leaving = [self._loaded.pop(version) for version in versions]
            for held in leaving:
                held.leaving = True
                self._statuses[held.model.version] = VersionStatus(held.model.version, "UNLOADING")
            idle = [held for held in leaving if not held.users]
        for held in idle:
            self._end(held)

    def _end(self, held: _Held) -> None:
        held.model.close()
        version = held.model.version
        _LOG.info("version %d of model %s has ended", version, self.name)
        with self._lock:
            if version not in self._loaded and self._statuses[version].state == "UNLOADING":
                self._statuses[version] = VersionStatus(version, "END")

    def _set(self, version: int, state: str, error: StatusError | None = None) -> None:
        with self._lock:
            self._statuses[version] = VersionStatus(version, state, error)

    def _versions(self) -> dict[int, Path]:
        """Returns the numeric sub-folders; what is wrong is logged once, not at every look."""
        try:
            found = {int(p.name): p for p in self.base_path.iterdir() if _is_number(p.name) and p.is_dir()}
            problem = "" if found else "no versions yet: waiting for a sub-folder whose name is a number"
        except OSError as error:
            found, problem = {}, f"cannot be read ({error.strerror}); the state stays as it is"
        if problem and problem != self._said:
            _LOG.warning("%s: %s", self.base_path, problem)
        self._said = problem
        return found

    def _follow(self, poll_s: float) -> None:
        while not self._stop.wait(poll_s):
            try:
                self.poll()
            except Exception:  # the watcher must outlive any folder
                _LOG.exception("%s: looking for versions failed", self.base_path)


class _Held:
    """A loaded version, the requests that use it, and whether it goes when the last of them is answered."""

    def __init__(self, model: LoadedModel) -> None:
        self.model, self.users, self.leaving = model, 0, False


def not_found(name: str, version: int | None) -> StatusError:
    """Returns the error for a model or version that is not served, in TensorFlow Serving's words."""
    wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 19


def _fingerprint(path: Path) -> object:
    """Changes when a file is added to, or written in, a version's folder."""
    try:
        files = [path, *path.iterdir(), *(path / "variables").glob("*")]
        return tuple(sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    except OSError:
        return None
