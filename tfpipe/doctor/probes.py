"""Probes: each uses a library for real and returns what it found, or raises.

`tfpipe.doctor.outcomes` runs this module in a child process, so that a library that aborts ends only the
child. Every probe prints one JSON line when it starts and one when it ends, so that the parent knows which
one was running.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_RATE = 22_050
_OBJECT = b"tfpipe doctor"


def soundfile() -> dict[str, bool]:
    """Returns which of the audio formats can be written and read back."""
    import soundfile as sf

    formats = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", None), "ogg": ("OGG", "VORBIS")}
    results = {}
    for name, (format_, subtype) in formats.items():
        try:
            results[name] = len(sf.read(io.BytesIO(_encode(format_, subtype)))[0]) >= _RATE
        except (sf.SoundFileError, ValueError, TypeError):
            results[name] = False
    return results


def features() -> str:
    """Computes one log-mel window with librosa."""
    import numpy as np

    from tfpipe.features.log_mel import log_mel
    from tfpipe.spec import FeatureSpec

    spec = FeatureSpec()
    mel = log_mel(0.5 * np.sin(2 * np.pi * 440 * np.arange(spec.samples) / spec.sample_rate), spec).mel
    if mel.shape != spec.mel_shape or not np.isfinite(mel).all():
        raise RuntimeError(f"log-mel of a tone has shape {mel.shape} and range {mel.min()} to {mel.max()}")
    return f"log-mel {mel.shape[0]} x {mel.shape[1]}"


def beam() -> str:
    """Runs a pipeline on Beam's in-process runner."""
    import apache_beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.testing.util import assert_that, equal_to

    with apache_beam.Pipeline(runner=FnApiRunner()) as pipeline:
        total = pipeline | apache_beam.Create([1, 2, 3]) | apache_beam.CombineGlobally(sum)
        assert_that(total, equal_to([6]))
    return "in-process runner"


def tensorflow() -> dict[str, Any]:
    """Multiplies on every device and returns what TensorFlow sees."""
    import tensorflow as tf

    devices = []
    for device in tf.config.list_physical_devices():
        details: dict[str, Any] = {}
        if device.device_type == "GPU":
            details = tf.config.experimental.get_device_details(device)
        with tf.device(device.name.removeprefix("/physical_device:")):
            float(tf.reduce_sum(tf.linalg.matmul(tf.ones([64, 64]), tf.ones([64, 64]))))
        devices.append(
            {
                "name": device.name.removeprefix("/physical_device:"),
                "kind": details.get("device_name", device.device_type),
                "compute_capability": ".".join(map(str, details.get("compute_capability", ()))) or None,
            }
        )
    return {"version": tf.__version__, "devices": devices, "built_with_gpu": tf.test.is_built_with_cuda()}


def precision() -> str:
    """Returns the mixed-precision policy that `--precision auto` chooses here."""
    from tfpipe.model.precision import resolve

    return resolve("auto")


def serving_api() -> str:
    """Builds the messages and the stub of the TensorFlow Serving API."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    with grpc.insecure_channel("127.0.0.1:1") as channel:
        prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return type(predict_pb2.PredictRequest()).__name__


def masks() -> str:
    """Masks a spectrogram as SpecAugment does, with tensorflow-io."""
    import tensorflow as tf
    import tensorflow_io as tfio

    masked = tfio.audio.time_mask(tfio.audio.freq_mask(tf.ones([64, 64]), param=8), param=8)
    if masked.shape != (64, 64):
        raise RuntimeError(f"masked spectrogram has shape {masked.shape}")
    return "freq_mask, time_mask"


def decode_wav() -> str:
    """Decodes wav with tensorflow-io."""
    return _decode("decode_wav", "WAV", "PCM_16", dtype="int16")


def decode_flac() -> str:
    """Decodes flac with tensorflow-io."""
    return _decode("decode_flac", "FLAC", "PCM_16", dtype="int16")


def decode_mp3() -> str:
    """Decodes mp3 with tensorflow-io."""
    return _decode("decode_mp3", "MP3", None)


def decode_vorbis() -> str:
    """Decodes Ogg Vorbis with tensorflow-io."""
    return _decode("decode_vorbis", "OGG", "VORBIS")


def resample() -> str:
    """Resamples a tone with tensorflow-io."""
    import tensorflow_io as tfio

    length = tfio.audio.resample(_tone()[:, None].astype("float32"), _RATE, 16_000).shape[0]
    if abs(length - 16_000) > 16:
        raise RuntimeError(f"1 s at 16 kHz came out as {length} samples")
    return "22.05 to 16 kHz"


def http() -> str:
    """Reads http:// through TensorFlow's file systems."""
    with _server() as address:
        return _read(f"http://{address}/bucket/object")


def s3() -> str:
    """Reads s3:// through TensorFlow's file systems, from a server on this machine."""
    with _server() as address:
        os.environ.update(
            S3_ENDPOINT=f"http://{address}",
            S3_USE_HTTPS="0",
            S3_VERIFY_SSL="0",
            AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="doctor",
            AWS_SECRET_ACCESS_KEY="doctor",
        )
        return _read("s3://bucket/object")


# In the order in which they run: the quick ones first, and s3 last because it may abort when the process exits.
PROBES: dict[str, Callable[[], Any]] = {
    probe.__name__: probe
    for probe in (
        *(soundfile, features, beam, tensorflow, precision, serving_api),
        *(masks, decode_wav, decode_flac, decode_mp3, decode_vorbis, resample, http, s3),
    )
}
TENSORFLOW_IO = ("masks", "decode_wav", "decode_flac", "decode_mp3", "decode_vorbis", "resample", "http", "s3")


def main(names: list[str]) -> int:
    """Runs the named probes, one JSON line before and one after each."""
    for name in names:
        _say(probe=name, state="started")
        try:
            _say(probe=name, state="works", detail=PROBES[name]())
        except (Exception, SystemExit) as error:
            _say(probe=name, state="fails", detail=_one_line(error))
    return 0


def _say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def _one_line(error: BaseException) -> str:
    """Returns the error's type and the most informative line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    telling = [line for line in lines if re.search(r"undefined symbol|unable to|not implemented|No such", line)]
    text = (telling or lines)[-1]
    text = re.sub(r"^\{\{.*?\}\} ", "", text)  # the name of the TensorFlow op, such as {{function_node ...}}
    return f"{type(error).__name__}: {text}"[:240]


def _tone() -> Any:
    import numpy as np

    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(_RATE) / _RATE)


def _encode(format_: str, subtype: str | None) -> bytes:
    import soundfile as sf

    buffer = io.BytesIO()
    sf.write(buffer, _tone(), _RATE, format=format_, subtype=subtype)
    return buffer.getvalue()


def _decode(function: str, format_: str, subtype: str | None, **arguments: Any) -> str:
    import tensorflow_io as tfio

    frames = getattr(tfio.audio, function)(_encode(format_, subtype), **arguments).shape[0]
    if frames < _RATE:
        raise RuntimeError(f"{frames} of {_RATE} frames decoded")
    return f"{frames} frames"


def _read(url: str) -> str:
    import tensorflow as tf
    import tensorflow_io  # noqa: F401  registers the file systems

    content = tf.io.read_file(url).numpy()
    if content != _OBJECT:
        raise RuntimeError(f"{url} gave {content[:40]!r}")
    return f"{len(content)} bytes"


class _Handler(BaseHTTPRequestHandler):
    """Answers every path with `_OBJECT`, or with the range of it that is asked for."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2]) if asked and asked[2] else len(_OBJECT) - 1, len(_OBJECT) - 1)
        body = _OBJECT[first : last + 1]
        self.send_response(416 if not body else 206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(_OBJECT)}")
        self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """Runs an HTTP server on a free loopback port and yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
