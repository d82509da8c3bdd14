"""Versions of one model: watching its folder, and keeping a version loaded while a request uses it."""

from __future__ import annotations

import contextlib
import logging
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from serving.protocol.status import Code, StatusError
from serving.server.config_files import Policy
from serving.server.models.loaded_model import LoadedModel
from serving.server.models.model_files import Folder, fingerprint, versions_in
from tfpipe.process.exit_status import skip_cleanup

_LOG = logging.getLogger(__name__)
# A server that stops waits this long for a version that is being loaded, in s.
LOADING_S = 5.0
# Protobuf reads no message of more bytes, and saved_model.pb is one message.
_MAX_SAVED_MODEL = 2**31 - 1


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


class Retries(NamedTuple):
    """How often a version that does not load is tried again while its files stay as they are.

    Attributes:
        most: number of tries after the first.
        wait_s: time between two tries, in s; a negative number does not wait.
    """

    most: int = 0
    wait_s: float = 60.0


class _Failure(NamedTuple):
    """A version that did not load: what its files were, how often it was tried, and when it may be tried again."""

    files: object
    tries: int
    again_at: float

    def is_due(self, retries: Retries) -> bool:
        """Tells whether the version is to be tried again now."""
        return self.tries <= retries.most and time.monotonic() >= self.again_at


class ModelFolder:
    """Serves the versions in a folder that a policy selects, and watches the folder for new ones.

    A new version is loaded and warmed up before an old one is dropped. Requests in
    progress finish on the version they began with. A version that does not load is
    reported (state END), tried again when its files change or `retries` says so, and
    never replaces one that works. A version whose folder is removed is dropped; if
    the model's whole folder cannot be read, its versions stay.

    Args:
        name: the model's name in requests.
        base_path: folder with numeric sub-folders.
        policy: selects the versions.
        load: loads a version from its folder and number, or raises StatusError.
        retries: how often a version that does not load is tried again.
    """

    def __init__(
        self,
        *,
        name: str,
        base_path: Folder,
        policy: Policy,
        load: Callable[[Folder, int], LoadedModel],
        retries: Retries,
    ) -> None:
        self.name, self.base_path = name, base_path
        self.policy = policy
        self._load, self._retries = load, retries
        self._polling, self._lock = threading.Lock(), threading.Lock()
        self._loaded: dict[int, _LoadedVersion] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, _Failure] = {}
        self._logged = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, poll_s: float) -> None:
        """Looks once, then every `poll_s` seconds (0: once only; negative: never)."""
        if poll_s >= 0:
            self.poll()
        if poll_s > 0 or self._next_try_s() is not None:
            self._thread = threading.Thread(target=self._watch, args=(poll_s,), name="versions", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops watching the folder and drops every version; each is closed once its last request is answered."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=LOADING_S)
        if self._polling.acquire(timeout=LOADING_S):
            self._polling.release()
        else:  # the thread that loads it closes it, if it ever ends
            _LOG.warning("model %s: a version is still being loaded; the server does not wait for it", self.name)
            skip_cleanup()
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
        chosen = sorted(known, reverse=True) if version is None else sorted({version} & set(known))
        if not chosen:
            wanted = "any versions" if version is None else f"version {version}"
            raise StatusError(Code.NOT_FOUND, f"Could not find {wanted} of model {self.name}")
        return [known[number] for number in chosen]

    def poll(self) -> None:
        """Looks at the folder once: loads the versions that the policy selects, then drops the others."""
        with self._polling:
            if self._stop.is_set():
                return
            found, policy = self._versions(), self.policy
            if found is None:
                return
            wanted = set(found) & policy.specific if policy.specific else set(found)
            self._failed = {version: failure for version, failure in self._failed.items() if version in wanted}
            serves: set[int] = set()
            for version in sorted(wanted, reverse=True):
                if policy.latest and not policy.specific and len(serves) == policy.latest:
                    break
                if version in self._loaded or self._load_version(found[version], version):
                    serves.add(version)
            if serves or not wanted:
                self._drop(set(self._loaded) - serves)

    def _load_version(self, path: Folder, version: int) -> bool:
        """Loads and warms up a version; tells whether that worked."""
        files, before = fingerprint(path), self._failed.get(version)
        if before is not None and before.files != files:
            before = None
        if before is not None and files is not None and not before.is_due(self._retries):
            return False
        self._set_status(version, "LOADING")
        started = time.monotonic()
        _LOG.info("loading version %d of model %s", version, self.name)
        try:
            _check_files(path)
            model = self._load(path, version)
        except Exception as reason:  # whatever is wrong with one version, the others are served
            error = reason if isinstance(reason, StatusError) else _unexpected(path, reason)
            _LOG.error("version %d of model %s does not load: %s", version, self.name, error.message)
            again_at = time.monotonic() + max(0.0, self._retries.wait_s)
            self._failed[version] = _Failure(files, before.tries + 1 if before else 1, again_at)
            self._set_status(version, "END", error)
            return False
        self._failed.pop(version, None)
        with self._lock:
            is_late = self._stop.is_set()
            if not is_late:
                self._loaded[version] = _LoadedVersion(model)
            self._statuses[version] = VersionStatus(version, "END" if is_late else "AVAILABLE")
        if is_late:
            model.close()
            return False
        _LOG.info("serving version %d of model %s (loaded in %.1f s)", version, self.name, time.monotonic() - started)
        return True

    def _next_try_s(self) -> float | None:
        """Returns the time until a version that did not load is tried again, in s; None if none is."""
        failures = tuple(self._failed.values())  # another thread may look at the folder meanwhile
        due = [failure.again_at for failure in failures if failure.tries <= self._retries.most]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _drop(self, versions: set[int]) -> None:
        """Stops using versions; each is closed once its last request is answered."""
        with self._lock:
            dropped = [self._loaded.pop(version) for version in versions if version in self._loaded]
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

    def _versions(self) -> dict[int, Folder] | None:
        """Returns the numeric sub-folders, None if they cannot be read; a problem is logged once, not at every look."""
        found: dict[int, Folder] | None = None
        try:
            found = versions_in(self.base_path)
            problem = "" if found else "no versions; waiting for a sub-folder whose name is a number"
        except OSError as error:
            problem = f"cannot be read ({error.strerror}); the loaded versions stay"
        if problem and problem != self._logged:
            _LOG.warning("%s: %s", self.base_path, problem)
        self._logged = problem
        return found

    def _watch(self, poll_s: float) -> None:
        """Looks every `poll_s` seconds, and when a version is to be tried again; with 0, only for the latter."""
        while waits := [wait for wait in (poll_s or None, self._next_try_s()) if wait is not None]:
            if self._stop.wait(min(*waits, threading.TIMEOUT_MAX)):
                return
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


def _unexpected(path: Folder, error: Exception) -> StatusError:
    """Returns the error for a version that the server cannot load for a reason that it does not know."""
    why = str(error) or "no reason is known"
    return StatusError(Code.INTERNAL, f"{path}: cannot be loaded ({type(error).__name__}: {why})")


def _check_files(path: Folder) -> None:
    """Refuses what would make loading hang or fill the memory: a pipe in the folder, or a huge saved_model.pb.

    Raises:
        StatusError: FAILED_PRECONDITION.
    """
    if not isinstance(path, Path):  # a bucket has files only
        return
    for folder in (path, path / "variables", path / "assets", path / "assets.extra"):
        for file in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(OSError):  # loading reports what cannot be read
                found = file.stat()
                if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                    raise StatusError(
                        Code.FAILED_PRECONDITION, f"{file}: is a pipe, socket or device; a model has files only"
                    )
                if file.name == "saved_model.pb" and found.st_size > _MAX_SAVED_MODEL:
                    raise StatusError(
                        Code.FAILED_PRECONDITION,
                        f"{file}: has {found.st_size} bytes; a SavedModel's graph has less than 2 GiB",
                    )
