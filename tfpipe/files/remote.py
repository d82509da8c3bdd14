"""Files that are local or at a URL such as `s3://bucket/a.wav` or `gs://bucket/a.wav`, handled the same way.

URLs go through Beam's FileSystems, which is imported only for them. The
environment variables of boto3 and of Google's libraries say who we are and
where the store is; so do Beam's options, in its pipeline's processes and after
`use_options`. http:// and https:// can be read, through `tfpipe.files.http`. Loads no
TensorFlow.
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
# Bytes read at a time: few, for a window out of a long file; those that follow come with the same request.
_BLOCK = 2**18
_EXTRAS = {"s3": "aws", "gs": "gcp"}
_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT}


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is a URL."""
    return _URL.match(os.fspath(path)) is not None


def require_local(path: str | os.PathLike[str], *, what: str) -> None:
    """Refuses a URL for what only local folders can do.

    Raises:
        UsageError: naming the path and what it is for.
    """
    if is_remote(path):
        raise UsageError(f"{path}: {what} must be a local folder; copy what is there first, and name the copy")


def join(folder: str | os.PathLike[str], name: str) -> str:
    """Returns the path of what is in a folder."""
    return f"{os.fspath(folder).rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def use_options(arguments: Sequence[str]) -> None:
    """Makes this process reach URLs with Beam's options, such as `--s3_endpoint_url=http://localhost:9000`.

    Raises:
        UsageError: one of them has no value, or one that cannot be.
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
    """Beam logs what it raises, and to stderr where nobody has said how to log."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def open_read(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        OSError: it is missing or out of reach, now or while it is read.
        TfpipeError: so is all of its bucket, or what it takes to read there is not installed.
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
    """Tells whether a file is there.

    Raises:
        OSError: the place is out of reach.
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
    """Returns size in bytes and modification time in ns, which tell that a file changed.

    Raises:
        OSError: it is missing or out of reach.
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
    """Returns the size in bytes of each file that lies in a folder itself, by name; empty for no folder.

    Empty too for http://, where folders cannot be listed.

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
    """Returns URL and size of the files that a pattern matches; `*` stands for text without `/`, `**` for any.

    Raises:
        OSError: the place is out of reach.
        TfpipeError: as `open_read`.
    """
    # Beam makes a regular expression of the pattern, and Python warns about a `[` in it.
    with translate_store_errors(pattern), warnings.catch_warnings(action="ignore"):
        (found,) = file_system(pattern).match([pattern])
        entries = [(entry.path, entry.size_in_bytes) for entry in found.metadata_list]
    # What ends in / is no file but the mark that a console leaves for a folder.
    return [(path, size) for path, size in entries if not path.endswith("/")]


def file_system(path: str) -> Any:
    """Returns Beam's file system for a local path, or for a URL whose store has been seen to answer.

    Raises:
        TfpipeError: it does not, or what it takes to go there is not installed.
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
    """Turns what Beam and the stores' clients raise into an `OSError` that names the path."""
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
    """A file of Beam's whose errors are `OSError`s that name the path."""

    def __init__(self, path: str, file: Any) -> None:
        super().__init__()
        self._path, self._file = path, file

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer; returns the number of bytes."""
        with translate_store_errors(self._path):
            return int(self._file.readinto(buffer))

    def write(self, data: Any) -> int:
        """Writes all of `data`."""
        with translate_store_errors(self._path):
            return int(self._file.write(data))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves within a file that is read."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Returns the place in the file."""
        return int(self._file.tell())

    def readable(self) -> bool:
        """Tells whether it was opened for reading."""
        return bool(self._file.readable())

    def writable(self) -> bool:
        """Tells whether it was opened for writing."""
        return bool(self._file.writable())

    def seekable(self) -> bool:
        """Tells whether `seek` works."""
        return bool(self._file.seekable())

    def close(self) -> None:
        """Ends the download or the upload; a file that was written is there from now on."""
        if not self.closed:
            try:
                with translate_store_errors(self._path):
                    self._file.close()
            finally:
                super().close()
