"""Frames of HTTP/2, for tests that send what no correct client would."""

import contextlib
import socket
import struct
import urllib.parse

import hpack

from serving.protocol.names import PREDICT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(path=PREDICT, method=b"\x83", kind=b"application/grpc", extra=()):
    def text(value):
        return bytes([len(value)]) + value

    block = method + b"\x86\x04" + text(path.encode()) + b"\x01" + text(b"localhost")
    for name, value in ((b"content-type", kind), (b"te", b"trailers"), *extra):
        block += b"\x00" + text(name) + text(value)
    return block


@contextlib.contextmanager
def connection(port, data=b""):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(PREFACE + frame(SETTINGS, 0, 0))
        frames(raw, lambda one: one[0] == WINDOW_UPDATE)
        # From here on, the server's announced window sizes hold.
        raw.sendall(frame(SETTINGS, 1, 0) + data)
        yield raw


def frames(raw, until):
    """Reads frames until `until` accepts one; returns (kind, flags, stream, payload) of each."""
    data, found = b"", []
    while True:
        while len(data) >= 9:
            length = int.from_bytes(data[:3], "big")
            if len(data) < 9 + length:
                break
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
            data = data[9 + length :]
            if until(found[-1]):
                return found
        more = raw.recv(65536)
        if not more:
            return found
        data += more


def ends_call(one):
    return (one[0] in (DATA, HEADERS) and one[1] & 1) or one[0] in (RST_STREAM, GOAWAY)


def prefixed(message, *, flag=0, length=None):
    return bytes([flag]) + struct.pack(">I", len(message) if length is None else length) + message


def text_of(block):
    """Returns the response headers of a block as text."""
    pairs = hpack.Decoder().decode(block, raw=True)
    return urllib.parse.unquote_to_bytes(b"\n".join(b"%s: %s" % (name, value) for name, value in pairs))
