"""All models of one server, by name and label, and how a new configuration replaces them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from serving.protocol.status import Code, StatusError
from serving.server.config_files import ModelSettings, read_models
from serving.server.models.loaded_model import LoadedModel
from serving.server.models.model_files import Folder
from serving.server.models.versions import LOADING_S, ModelFolder, Retries, VersionStatus, not_found
from tfpipe.errors import ServingError

_LOG = logging.getLogger(__name__)
# Removed models whose final states can still be asked for.
_MAX_REMOVED = 1000


class Catalog:
    """The models being served; safe to share between threads.

    Args:
        load: loads a version from its folder and number, or raises StatusError.
        poll_s: how often to look for new versions, in s; 0 looks once, a negative number never.
        retries: how often a version that does not load is tried again.
        early_labels: a new label may name a version that is not available yet.
    """

    def __init__(
        self,
        load: Callable[[Folder, int], LoadedModel],
        *,
        poll_s: float,
        retries: Retries,
        early_labels: bool = False,
    ) -> None:
        self._load, self._poll_s, self._retries, self._early_labels = load, poll_s, retries, early_labels
        self._changing = threading.Lock()
        self._models: dict[str, ModelFolder] = {}
        # Removed models: as in TensorFlow Serving, their versions are still listed, with the state END.
        self._removed: dict[str, ModelFolder] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._ended = threading.Event()
        self._follower: threading.Thread | None = None

    def replace(self, wanted: Sequence[ModelSettings]) -> None:
        """Serves exactly these models; one whose settings stay the same is not interrupted.

        Raises:
            StatusError: UNKNOWN if no version of a new model loads (its folder is watched nevertheless);
                FAILED_PRECONDITION if a label names a version that is not available (no label changes).
        """
        with self._changing:
            before = dict(self._models)
            missing = [settings.name for settings in wanted if not self._serve(settings)]
            names = {settings.name for settings in wanted}
            self._models = {name: folder for name, folder in self._models.items() if name in names}
            removed = {name: folder for name, folder in before.items() if name not in names}
            known = [(name, one) for name, one in {**self._removed, **removed}.items() if name not in names]
            self._removed = dict(known[-_MAX_REMOVED:])
            for name, folder in before.items():
                if self._models.get(name) is not folder:
                    folder.stop()
            if missing:
                raise StatusError(
                    Code.UNKNOWN, f"{len(missing)} servable(s) did not become available: {{{','.join(missing)}}}"
                )
            self._labels = {settings.name: self._checked_labels(settings) for settings in wanted}

    def follow(self, path: Path, *, poll_s: float) -> None:
        """Reads a `models.config` again every `poll_s` seconds; a wrong or empty file is logged and changes nothing."""

        def poll() -> None:
            known, logged = None, ""
            while not self._ended.wait(poll_s):
                try:
                    wanted = read_models(path)
                    if wanted is None:
                        raise ServingError("the file is empty; for no models, write model_config_list {}")
                    if wanted != known:
                        self.replace(wanted)
                    known, logged = wanted, ""
                except (ServingError, StatusError) as error:
                    if str(error) != logged:  # log an error once, not at every reading
                        _LOG.error("%s: the configuration stays as it was: %s", path, error)
                    logged = str(error)

        self._follower = threading.Thread(target=poll, name="models.config", daemon=True)
        self._follower.start()

    def stop(self) -> None:
        """Removes every model; each is closed once its last request is answered."""
        self._ended.set()
        if self._follower is not None:
            self._follower.join(timeout=LOADING_S)
        is_mine = self._changing.acquire(timeout=LOADING_S)  # not if a new configuration is still being loaded
        try:
            for folder in self._models.values():
                folder.stop()
        finally:
            if is_mine:
                self._changing.release()

    def versions(self) -> dict[str, list[int]]:
        """Returns the versions that can answer now, newest first, by model."""
        return {name: folder.versions for name, folder in self._models.items()}

    def knows(self, name: str) -> bool:
        """Tells whether a model with this name is configured."""
        return name in self._models

    def label(self, name: str, label: str) -> int:
        """Returns the version that a label stands for.

        Raises:
            StatusError: INVALID_ARGUMENT, in TensorFlow Serving's words.
        """
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise StatusError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        return version

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None) -> Iterator[LoadedModel]:
        """Yields a version of a model (by default the newest) and keeps it loaded for the block.

        Raises:
            StatusError: NOT_FOUND, in TensorFlow Serving's words.
        """
        folder = self._models.get(name)
        if folder is None:
            raise not_found(name, version)
        with folder.use(version) as model:
            yield model

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Returns the states of all known versions of a model, or of one, newest first.

        Raises:
            StatusError: NOT_FOUND, in TensorFlow Serving's words.
        """
        folder = self._models.get(name) or self._removed.get(name)
        if folder is not None:
            return folder.statuses(version)
        if version is not None:
            raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")

    def _serve(self, settings: ModelSettings) -> bool:
        """Adds a model, or gives it a new policy; tells whether one of its versions can answer."""
        folder = self._models.get(settings.name)
        if folder is not None and folder.base_path == settings.base_path:
            if folder.policy != settings.policy:
                folder.policy = settings.policy
                folder.poll()
            return True
        new = ModelFolder(
            name=settings.name,
            base_path=settings.base_path,
            policy=settings.policy,
            load=self._load,
            retries=self._retries,
        )
        new.start(poll_s=self._poll_s)
        # If a model's folder has changed, the old folder is served until the new one has a version.
        if folder is None or new.versions:
            self._models = {**self._models, settings.name: new}
        else:
            new.stop()
        return bool(new.versions)

    def _checked_labels(self, settings: ModelSettings) -> dict[str, int]:
        available, known = self._models[settings.name].versions, self._labels.get(settings.name, {})
        for label, version in settings.labels.items():
            if version not in available and not (self._early_labels and label not in known):
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {settings.name}, "
                    "which is not currently available for inference",
                )
        return dict(settings.labels)
