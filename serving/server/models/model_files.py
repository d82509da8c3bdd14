"""The folder of a model, local or at a URL that TensorFlow reads, such as `gs://bucket/models/vae`.

A version of a model is a sub-folder whose name is a number. A local folder is a `Path`, a URL is text. URLs are read
through `tf.io.gfile`, so TensorFlow is imported only if there is a URL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from serving.protocol.names import is_version
from serving.protocol.status import Code, StatusError
from tfpipe.data.file_systems import use_tensorflow_io
from tfpipe.errors import ServingError

Folder = Path | str
_IMPORTING, _LEGACY_KERAS = threading.Lock(), "TF_USE_LEGACY_KERAS"
_VARIABLE_OPS = ("VarHandleOp", "VariableV2", "Variable")
_GRAPH_FILE, _VARIABLES_FILE = "saved_model.pb", "variables/variables.index"


def import_tensorflow() -> Any:
    """Imports TensorFlow without Keras, if it is not imported yet. That takes 1 s less, and the server needs no Keras.

    TensorFlow leaves Keras 3 out if it is told to use an older Keras, which is not installed. Once the setting is
    gone, `tensorflow.keras` imports Keras 3 as usual.
    """
    with _IMPORTING:
        own = _LEGACY_KERAS not in os.environ
        if own:
            os.environ[_LEGACY_KERAS] = "1"
        try:
            import tensorflow as tf
        finally:
            if own:
                del os.environ[_LEGACY_KERAS]
    return tf


def is_url(path: Folder) -> bool:
    """Tells whether a path is a URL, such as `gs://bucket/models/vae`."""
    return isinstance(path, str) and "://" in path and not path.startswith("/")


def require_readable(url: str) -> None:
    """Refuses a URL of a kind that TensorFlow does not read here.

    Raises:
        ServingError: the message names the kinds that it reads.
    """
    kind = url.partition("://")[0]
    use_tensorflow_io(kind)
    schemes = [scheme for scheme in _gfile().get_registered_schemes() if scheme and not scheme.startswith("http")]
    if kind not in schemes:
        raise ServingError(
            f"{url}: TensorFlow as installed here reads folders of {', '.join(f'{scheme}://' for scheme in schemes)}; "
            "copy the model to a local folder, or install the tensorflow-io that fits this TensorFlow (for s3://)"
        )


def versions_in(folder: Folder) -> dict[int, Folder]:
    """Returns the versions in a model's folder, by number.

    Raises:
        OSError: the folder cannot be read.
    """
    if isinstance(folder, Path):
        return {int(one.name): one for one in folder.iterdir() if is_version(one.name) and one.is_dir()}
    use_tensorflow_io(folder.partition("://")[0])
    gfile, found = _gfile(), {}
    with _os_errors():
        for entry in gfile.listdir(folder):
            name = entry.rstrip("/")
            if is_version(name) and (entry.endswith("/") or gfile.isdir(f"{folder.rstrip('/')}/{name}")):
                found[int(name)] = f"{folder.rstrip('/')}/{name}"
    return dict(found)


def fingerprint(folder: Folder) -> object:
    """Returns a value that changes when a file in a version's folder is added or written; None if it is unknown."""
    try:
        if isinstance(folder, Path):
            files = [folder, *folder.iterdir(), *(folder / "variables").glob("*"), *(folder / "assets.extra").glob("*")]
            return tuple(sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))
        gfile = _gfile()
        with _os_errors():
            names = [name for part in ("*", "variables/*") for name in gfile.glob(f"{folder}/{part}")]
            return tuple((name, gfile.stat(name).mtime_nsec, gfile.stat(name).length) for name in sorted(names))
    except OSError:
        return None


def is_file(folder: Folder, name: str | Path) -> bool:
    """Tells whether a version's folder has this file."""
    if isinstance(folder, Path):
        return (folder / name).is_file()
    with _os_errors():
        return bool(_gfile().exists(f"{folder}/{name}"))


def read(folder: Folder, name: str) -> bytes | None:
    """Returns the bytes of a file in a version's folder; None if there is no such file.

    Raises:
        OSError: the file cannot be read.
    """
    if not is_file(folder, name):
        return None
    if isinstance(folder, Path):
        return (folder / name).read_bytes()
    with _os_errors(), _gfile().GFile(f"{folder}/{name}", "rb") as file:
        return bytes(file.read())


@contextlib.contextmanager
def local_copy(folder: Folder, name: Path) -> Iterator[Path]:
    """Yields a path at which a file of a version's folder can be opened; nothing is there if there is no such file.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(folder, Path):
        yield folder / name
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / name.name
        if is_file(folder, name):
            with _os_errors():
                _gfile().copy(f"{folder}/{name}", str(copy))
        yield copy


def _gfile() -> Any:
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Turns TensorFlow's errors into OSError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        number = errno.ENOENT if isinstance(error, tf.errors.NotFoundError) else errno.EIO
        raise OSError(number, " ".join(str(error.message).split())[:200]) from error


def read_graph(path: Folder, tags: Sequence[str]) -> Any:
    """Returns the MetaGraphDef with these tags, or None if TensorFlow's loader must say what is wrong.

    A folder that is still being copied is refused, because TensorFlow would load it without its variables.

    Raises:
        StatusError: NOT_FOUND, because a file is missing.
    """
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        data, as_text = read(path, _GRAPH_FILE), read(path, f"{_GRAPH_FILE}txt")
        if data is None and as_text is None:
            raise _incomplete(path, _GRAPH_FILE)
        model = saved_model_pb2.SavedModel()
        model = model.FromString(data) if data is not None else text_format.Parse(as_text or b"", model)
        graph = next((one for one in model.meta_graphs if set(one.meta_info_def.tags) == set(tags)), None)
        if graph is not None and _has_variables(graph) and not is_file(path, _VARIABLES_FILE):
            raise _incomplete(path, _VARIABLES_FILE)
    except (DecodeError, text_format.ParseError, OSError):
        return None
    return graph


def _incomplete(path: Folder, name: str) -> StatusError:
    return StatusError(Code.NOT_FOUND, f"{path}: holds no complete SavedModel ({name} is missing)")


def _has_variables(graph: Any) -> bool:
    """Tells whether a graph restores variables from files; one that was frozen does not."""
    return bool(graph.saver_def.restore_op_name) or any(node.op in _VARIABLE_OPS for node in graph.graph_def.node)
