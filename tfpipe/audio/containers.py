"""Which container FFmpeg must expect in a file, and opening its sound track.

The container is told from the first bytes of the file, and FFmpeg gets an open
file. If FFmpeg guessed the container itself, it would also follow playlists to
other files and to the web.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer

from tfpipe.errors import AudioError, os_error_message
from tfpipe.files.remote import open_read


def container_of(path: str | os.PathLike[str]) -> str | None:
    """Returns FFmpeg's name of the container that a file's first bytes show; None if they show no known one.

    Raises:
        AudioError: the file cannot be read.
    """
    with translate_ffmpeg_errors(path, "undecodable"), open_read(path) as file:
        return _container_of(file)


def has_audio(path: str | os.PathLike[str]) -> bool:
    """Tells whether a file is a known container with a sound track."""
    try:
        with translate_ffmpeg_errors(path, "undecodable"), open_read(path) as file, open_container(file, path):
            return True
    except AudioError:
        return False


@contextmanager
def open_container(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Opens an open file's container; yields it and its first sound track.

    Args:
        file: the open file; it stays open.
        path: names the file in errors.

    Raises:
        AudioError: the container is not known, or has no sound track with a sample rate and channels.
        av.error.FFmpegError: FFmpeg cannot open it.
    """
    if (name := _container_of(file)) is None:
        raise AudioError("undecodable", f"{path}: not audio that can be decoded (format not recognised)")
    file.seek(0)
    with av.open(file, mode="r", format=name, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise AudioError("undecodable", f"{path}: has no sound track")
        codec = container.streams.audio[0].codec_context
        if codec is None or not codec.sample_rate or not codec.channels:
            raise AudioError("bad_header", f"{path}: gives neither its sample rate nor its channels")
        yield container, container.streams.audio[0]


@contextmanager
def translate_ffmpeg_errors(path: str | os.PathLike[str], code: str) -> Iterator[None]:
    """Turns errors in the block into an `AudioError`: those of FFmpeg get `code`, those of the disk `unreadable`."""
    try:
        yield
    except (av.error.FFmpegError, ValueError, ArithmeticError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(code, f"{path}: cannot be decoded (FFmpeg: {reason})") from error
    except OSError as error:
        raise AudioError("unreadable", os_error_message(error, path)) from error


def _container_of(file: BinaryIO) -> str | None:
    file.seek(0)
    head = file.read(16)
    if head[:3] == b"ID3" and len(head) > 9:  # a tag before AAC; its length is 4 times 7 bits
        file.seek(10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
        head = file.read(16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"\x30\x26\xb2\x75":
        return "asf"
    if head[:4] == b"fLaC":  # libsndfile cannot read FLAC without the length, which streamed FLAC lacks
        return "flac"
    return "aac" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None
