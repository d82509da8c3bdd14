"""The bearer token that a server may ask of its clients: where it is read from, and how it is compared."""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from serving.protocol.small_file import read_small_file
from tfpipe.errors import ServingError, UsageError

_LOG = logging.getLogger(__name__)
# The variable that holds the token if no file is named.
TOKEN_VARIABLE = "TFPIPE_AUTH_TOKEN"
# What a client without the token hears. The compiled gRPC server (`serving/native`) has a copy; a test compares them.
NO_TOKEN = "Send the server's token: authorization: Bearer TOKEN (tfpipe client --token-file FILE)"
_MAX_BYTES = 4096
# What RFC 6750 (2.1) allows in a token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True)
class Token:
    """A secret that clients send in the header `authorization`, as RFC 6750 says.

    Raises:
        UsageError: the text is empty, too long, or has a character that a header cannot carry.
    """

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.value) or len(self.value) > _MAX_BYTES:
            raise UsageError(
                f"a token has 1 to {_MAX_BYTES} letters, digits and characters of -._~+/ (and = at its end); "
                "make one with: openssl rand -hex 32"
            )

    @property
    def header(self) -> str:
        """The value of the header `authorization`."""
        return f"Bearer {self.value}"

    def allows(self, header: str | None) -> bool:
        """Tells whether a client sent this token; takes as long for a wrong one, whichever letters are wrong.

        Args:
            header: what the client sent in the header `authorization`; None if it sent none.
        """
        scheme, _, sent = (header or "").partition(" ")
        same = hmac.compare_digest(sent.strip(" ").encode("utf-8", "replace"), self.value.encode())
        return scheme.lower() == "bearer" and same


def read_token(path: Path | None) -> Token | None:
    """Returns the token of a file, or that of the variable TFPIPE_AUTH_TOKEN, or None if there is neither.

    Spaces and newlines around the token are dropped. A file that other users can read gets a warning in the log.

    Args:
        path: the file; None looks for the variable.

    Raises:
        ServingError: the file cannot be read.
        UsageError: the file or the variable holds no token.
    """
    if path is None:
        where, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
        if text is None:
            return None
    else:
        where, text = str(path), _read(path)
    if not text.strip():
        raise UsageError(f"{where}: holds no token; write one there, or leave it out if none is wanted")
    try:
        return Token(text.strip())
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _read(path: Path) -> str:
    try:
        data, mode = read_small_file(path, most=_MAX_BYTES + 3)
    except OSError as error:
        raise ServingError(f"{path}: the token cannot be read ({error.strerror})") from error
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        _LOG.warning("%s: other users can read the token; run: chmod 600 %s", path, path)
    return data.decode("utf-8", "replace")
