"""Checks of Ogg files that decoders leave out. `tfpipe.audio.libsndfile` calls this module."""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO

from tfpipe.errors import AudioError

# Each byte with its bits in reverse order.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def require_whole_pages(path: str | os.PathLike[str], file: BinaryIO) -> None:
    """Checks all pages of an Ogg file.

    Decoders say nothing about damaged pages and a missing end, and read only the first of several
    recordings in a chain. The format is RFC 3533. Its CRC-32 is that of zlib with the
    bits of each byte in reverse order.

    Args:
        path: names the file in errors.
        file: the open file, at its start.

    Raises:
        AudioError: a page is damaged or cut, a stream's last page is missing, or another stream follows.
    """
    ended: dict[bytes, bool] = {}
    while head := file.read(27):
        table = file.read(head[26]) if len(head) == 27 else b""
        body = file.read(sum(table))
        if head[:4] != b"OggS"[: len(head)]:
            raise AudioError("damaged", f"{path}: damaged before byte {file.tell()}")
        if len(head) < 27 or len(table) < head[26] or len(body) < sum(table):
            raise AudioError("truncated", f"{path}: breaks off within its last part")
        page = (head[:22] + bytes(4) + head[26:] + table + body).translate(_REVERSED)
        if (zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big") != head[22:26].translate(_REVERSED):
            raise AudioError("damaged", f"{path}: damaged before byte {file.tell()}")
        begins, ends = head[5] & 2, head[5] & 4
        if begins and any(ended.values()):
            raise AudioError(
                "undecodable",
                f"{path}: holds recordings one after the other, of which only the first can be read; split it",
            )
        ended[head[14:18]] = bool(ends)
    if not all(ended.values()):
        raise AudioError("truncated", f"{path}: breaks off, the last page of a stream is missing")
