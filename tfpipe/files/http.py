"""Reading http:// and https:// with the standard library. `tfpipe.files.remote` calls this module."""

from __future__ import annotations

import errno
import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, BinaryIO, cast

_TIMEOUT_S = 20.0
_BLOCK = 2**18
_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}


def is_web(url: str) -> bool:
    """Tells whether a URL is http:// or https://."""
    return url.startswith(("http://", "https://"))


def open_read(url: str) -> BinaryIO:
    """Opens a URL for reading from start to end; the file cannot seek.

    Raises:
        OSError: the URL is missing or out of reach. Reads may raise it too.
    """
    return cast(BinaryIO, io.BufferedReader(_Body(url), _BLOCK))


def stamp(url: str) -> tuple[int, int]:
    """Returns the size in bytes and the modification time in ns, 0 if the server does not give the time.

    Raises:
        OSError: the URL is missing or out of reach, or the server does not give the size.
    """
    with _translate_http_errors(url), _reply(url) as reply:
        size, changed = reply.headers["Content-Length"], reply.headers["Last-Modified"]
    if size is None:
        raise OSError(None, "the server does not give its size; use another server", url)
    return int(size), round(parsedate_to_datetime(changed).timestamp() * 1e9) if changed else 0


def gives_ranges(url: str) -> bool:
    """Tells whether the server can send a part of a file (a Range request).

    Raises:
        OSError: the URL is missing or out of reach.
    """
    with _translate_http_errors(url), _reply(url, Range="bytes=0-0") as reply:
        return bool(reply.status == 206)


def _reply(url: str, **headers: str) -> Any:
    """Sends a GET request and returns the response; not every server knows HEAD, which would be enough for `stamp`."""
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)


@contextmanager
def _translate_http_errors(url: str) -> Iterator[None]:
    """Turns what urllib raises into an `OSError` that names the URL."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        text = f"the server answers {error.code} {error.reason}; check the address"
        raise OSError(_STATUS.get(error.code), text, url) from error
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        text = f"out of reach ({getattr(cause, 'strerror', None) or cause}); check the address and the network"
        raise OSError(None, text, url) from error


class _Body(io.RawIOBase):
    """The body of a response. A connection that ends before the announced length is an error."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        with _translate_http_errors(url):
            self._reply = _reply(url)

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer and returns the number of bytes."""
        with _translate_http_errors(self._url):
            count = int(self._reply.readinto(buffer))
            if count == 0 and self._reply.length:
                raise OSError("the connection ended early")
            return count

    def readable(self) -> bool:
        """Returns True."""
        return True

    def close(self) -> None:
        """Ends the download."""
        if not self.closed:
            self._reply.close()
            super().close()
