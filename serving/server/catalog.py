"""All models of one server: which there are, by name and label, and how a new configuration takes their place."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from serving.protocol.status import Code, StatusError
from serving.server.config_files import ModelSettings, read_models
from serving.server.loaded_model import LoadedModel
from serving.server.versions import ModelFolder, VersionStatus, not_found
from tfpipe.errors import ServingError

_LOG = logging.getLogger(__name__)
# Models that are gone and still known by name.
_REMEMBERED = 1000


class Catalog:
    """The models being served; safe to share between threads.

    Args:
        load: makes a model of (path, version), or raises StatusError.
        poll_s: time between two looks for new versions, in s; 0 is one look, negative is none.
        early_labels: a new label may name a version that is not available yet.
    """

    def __init__(self, load: Callable[[Path, int], LoadedModel], *, poll_s: float, early_labels: bool = False) -> None:
        self._load, self._poll_s, self._early_labels = load, poll_s, early_labels
        self._changing = threading.Lock()
        self._models: dict[str, ModelFolder] = {}
        # Models that were served once: their versions are known as ended, as in TensorFlow Serving.
        self._removed: dict[str, ModelFolder] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._ended = threading.Event()
        self._follower: threading.Thread | None = None

    def replace(self, wanted: Sequence[ModelSettings]) -> None:
        """Serves these models and no others; what stays the same goes on undisturbed.

        Raises:
            StatusError: UNKNOWN when a new model has no version that loads (it is followed all the same);
                FAILED_PRECONDITION when a label names a version that is not available (labels stay as they were).
        """
        with self._changing:
            before = dict(self._models)
            missing = [settings.name for settings in wanted if not self._serve(settings)]
            names = {settings.name for settings in wanted}
            self._models = {name: folder for name, folder in self._models.items() if name in names}
            removed = {name: folder for name, folder in before.items() if name not in names}
            known = [(name, one) for name, one in {**self._removed, **removed}.items() if name not in names]
            self._removed = dict(known[-_REMEMBERED:])
            for name, folder in before.items():
                if self._models.get(name) is not folder:
                    folder.stop()
            if missing:
                raise StatusError(
                    Code.UNKNOWN, f"{len(missing)} servable(s) did not become available: {{{','.join(missing)}}}"
                )
            self._labels = {settings.name: self._checked_labels(settings) for settings in wanted}

    def follow(self, path: Path, *, poll_s: float) -> None:
        """Reads a `models.config` again every `poll_s` seconds; one that is wrong is logged and changes nothing."""

        def again() -> None:
            known, said = None, ""
            while not self._ended.wait(poll_s):
                try:
                    wanted = read_models(path)
                    if wanted != known:
                        self.replace(wanted)
                    known, said = wanted, ""
                except (ServingError, StatusError) as error:
                    if str(error) != said:  # once, not at every look
                        _LOG.error("%s: the configuration stays as it was: %s", path, error)
                    said = str(error)

        self._follower = threading.Thread(target=again, name="models.config", daemon=True)
        self._follower.start()

    def stop(self) -> None:
        """Drops every model once its last request is answered."""
        self._ended.set()
        if self._follower is not None:
            self._follower.join(timeout=60)
        with self._changing:
            for folder in self._models.values():
                folder.stop()

    def versions(self) -> dict[str, list[int]]:
        """Returns the versions that answer now, newest first, by model."""
        return {name: folder.versions for name, folder in self._models.items()}

    def knows(self, name: str) -> bool:
        """Tells whether a model of that name is configured."""
        return name in self._models

    def label(self, name: str, label: str) -> int:
        """Returns the version that a label names.

        Raises:
            StatusError: INVALID_ARGUMENT, in TensorFlow Serving's words.
        """
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise StatusError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        return version

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None) -> Iterator[LoadedModel]:
        """Holds a version of a model, or its newest, for one request.

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
        """Adds a model or gives it its new policy; tells whether a version answers."""
        folder = self._models.get(settings.name)
        if folder is not None and folder.base_path == settings.base_path:
            if folder.policy != settings.policy:
                folder.policy = settings.policy
                folder.poll()
            return True
        new = ModelFolder(name=settings.name, base_path=settings.base_path, policy=settings.policy, load=self._load)
        new.start(poll_s=self._poll_s)
        # One whose folder has moved goes on from the old folder until the new one has a version.
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
