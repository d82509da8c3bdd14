"""Files, local or at a URL such as `s3://bucket/a.wav` or `gs://bucket/a.wav`, with the same functions for both.

URLs are read through Beam's FileSystems; Beam is imported only if there is a URL.
The address of the store and the credentials come from the environment variables
of boto3 and of Google's libraries, or from Beam's options (in the processes of its
pipeline, and after `use_options`). http:// and https:// can be read, through
`tfpipe.files.http`. Loads no TensorFlow.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.files import http

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
# Bytes that are read at a time. Few are enough, because reading on continues the same request.
_BLOCK = 2**18
_EXTRAS = {"s3": "aws", "gs": "gcp"}
_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT}


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is a URL."""
    return _URL.match(os.fspath(path)) is not None


def require_local(path: str | os.PathLike[str], *, what: str) -> None:
    """Refuses a URL where only a local folder works.

    Args:
        path: the path that the user gave.
        what: what it is for, such as `--run`; the subject of the error message.

    Raises:
        UsageError: the path is a URL.
    """
    if is_remote(path):
        raise UsageError(f"{path}: {what} must be a local folder; copy the URL's files to one first")


def join(folder: str | os.PathLike[str], name: str) -> str:
    """Returns the path of a file in a folder."""
    return f"{os.fspath(folder).rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def use_options(arguments: Sequence[str]) -> None:
    """Sets Beam's options for this process, such as `--s3_endpoint_url=http://localhost:9000`.

    Raises:
        UsageError: an option has no value or a wrong one.
    """
    _keep_quiet()
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(arguments))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options.get_all_options()
    except SystemExit:
        raise UsageError(f"options for Beam: {said.getvalue().rpartition('error: ')[2].strip()}") from None
    FileSystems.set_options(options)


def _keep_quiet() -> None:
    """Keeps Beam's log off stderr: Beam logs the errors that it also raises."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def open_read(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        OSError: the file is missing or out of reach. Reads may raise it too.
        TfpipeError: its whole bucket is missing or out of reach, or a package for this kind of URL is not installed.
    """
    if not is_remote(path):
        return open(path, "rb")
    url = os.fspath(path)
    if http.is_web(url):
        return http.open_read(url)
    with translate_store_errors(url):
        file = file_system(url).open(url, compression_type="uncompressed")
        # Beam's own buffer is 16 MiB, which a window of a few seconds would fill twice.
        raw = file.detach() if isinstance(file, io.BufferedReader) else file
    return cast(BinaryIO, io.BufferedReader(Stream(url, raw), _BLOCK))


def exists(path: str | os.PathLike[str]) -> bool:
    """Tells whether a file exists.

    Raises:
        OSError: the URL is out of reach.
        TfpipeError: as `open_read`.
    """
    if not is_remote(path):
        return os.path.isfile(path)
    url = os.fspath(path)
    if http.is_web(url):
        with contextlib.suppress(FileNotFoundError):
            return bool(http.stamp(url))
        return False
    with translate_store_errors(url):
        return bool(file_system(url).exists(url))


def stamp(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the size in bytes and the modification time in ns; if either changes, the file has changed.

    Raises:
        OSError: the file is missing or out of reach.
        TfpipeError: as `open_read`.
    """
    if not is_remote(path):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    url = os.fspath(path)
    if http.is_web(url):
        return http.stamp(url)
    with translate_store_errors(url):
        found = file_system(url).metadata(url)
    return found.size_in_bytes, round(found.last_updated_in_seconds * 1e9)


def sizes(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Returns name -> size in bytes for the files in a folder, without those in its subfolders.

    Empty if there is no folder, and for http://, where folders cannot be listed.

    Raises:
        OSError: the folder is out of reach.
        TfpipeError: as `open_read`.
    """
    if is_remote(folder):
        if http.is_web(os.fspath(folder)):
            return {}
        return {path.rpartition("/")[2]: size for path, size in match(f"{glob.escape(join(folder, ''))}*")}
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def match(pattern: str) -> list[tuple[str, int]]:
    """Returns the URL and size of each file that a pattern matches; `*` is any text without `/`, `**` any text.

    Raises:
        OSError: the URL is out of reach.
        TfpipeError: as `open_read`.
    """
    # Beam makes a regular expression of the pattern, and Python warns about a `[` in it.
    with translate_store_errors(pattern), warnings.catch_warnings(action="ignore"):
        (found,) = file_system(pattern).match([pattern])
        entries = [(entry.path, entry.size_in_bytes) for entry in found.metadata_list]
    # An object whose name ends in / is not a file: web consoles make it to show a folder.
    return [(path, size) for path, size in entries if not path.endswith("/")]


def file_system(path: str) -> Any:
    """Returns Beam's file system for a local path or a URL; an s3:// bucket is first tested.

    Raises:
        TfpipeError: the bucket is missing or out of reach, or a package for this kind of URL is not installed.
    """
    _keep_quiet()
    from apache_beam.io.filesystems import FileSystems

    if FileSystems._pipeline_options is None:
        use_options([])
    try:
        if path.startswith("s3://"):
            from tfpipe.files import s3

            s3.install()
            s3.require_bucket(path, FileSystems._pipeline_options)
        return FileSystems.get_filesystem(path)
    except (ImportError, ValueError) as error:
        scheme = path.partition("://")[0]
        fix = f"pip install 'tfpipe[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else "use s3://, gs:// or a local path"
        raise TfpipeError(f"{path}: what it takes to use {scheme}:// is not installed; {fix}") from error


@contextlib.contextmanager
def translate_store_errors(path: str) -> Iterator[None]:
    """Turns errors of Beam and of the stores' clients in the block into an `OSError` that names the path."""
    try:
        yield
    except TfpipeError:
        raise
    except Exception as error:
        from apache_beam.io.filesystem import BeamIOError

        cause = error
        while isinstance(cause, BeamIOError) and cause.exception_details:
            cause = next(iter(cause.exception_details.values()))
        if cause.args and isinstance(cause.args[0], OSError):
            cause = cause.args[0]
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, os.strerror(cause.errno), cause.filename or path) from error
        code = getattr(cause, "code", None)  # S3ClientError and GoogleAPICallError have code and message
        text = " ".join(str(getattr(cause, "message", None) or cause).split())
        number = errno.EINVAL if isinstance(cause, ValueError) else _STATUS.get(code) if isinstance(code, int) else None
        raise OSError(number, text, path) from error


class Stream(io.RawIOBase):
    """A file that Beam opened, but with errors that are `OSError`s and name the path."""

    def __init__(self, path: str, file: Any) -> None:
        super().__init__()
        self._path, self._file = path, file

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer and returns the number of bytes."""
        with translate_store_errors(self._path):
            return int(self._file.readinto(buffer))

    def write(self, data: Any) -> int:
        """Writes all of `data` and returns the number of bytes."""
        with translate_store_errors(self._path):
            return int(self._file.write(data))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position in a file that is open for reading, and returns it."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Returns the position in the file."""
        return int(self._file.tell())

    def readable(self) -> bool:
        """Tells whether the file is open for reading."""
        return bool(self._file.readable())

    def writable(self) -> bool:
        """Tells whether the file is open for writing."""
        return bool(self._file.writable())

    def seekable(self) -> bool:
        """Tells whether `seek` works."""
        return bool(self._file.seekable())

    def close(self) -> None:
        """Ends the download or the upload; a written file exists from now on."""
        if not self.closed:
            try:
                with translate_store_errors(self._path):
                    self._file.close()
            finally:
                super().close()
