"""Checks that an exported model answers real requests, with a server process and a client process.

It does what a person would do by hand after `tfpipe export`: start the server, encode a held-out recording, decode it,
generate new sounds, and look at the results. This process loads no TensorFlow; the server does.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tfpipe.audio.wav import write_wav
from tfpipe.errors import ServingError
from tfpipe.process import children

_READY_S = 180.0
_REQUEST_S = 180.0
_SEEDS = "1,2,3,4"
# Runs commands of `tfpipe client` one after the other, up to the first that fails; one process starts faster than four.
_CLIENT = """
import json, sys
from tfpipe.cli.main import main
for command in json.loads(sys.argv[1]):
    if status := main(["client", *command]):
        sys.exit(f"tfpipe client {command[0]} ended with status {status}")
"""


def serve_check(
    *,
    model_base_path: Path,
    model_name: str,
    version: int,
    audio: NDArray[np.floating[Any]],
    sample_rate: int,
    out: Path,
) -> dict[str, Any]:
    """Serves a model on free loopback ports, sends requests from a client process, and measures the sounds they get.

    Args:
        model_base_path: folder of the exported versions.
        model_name: name under which it is served.
        version: version that must answer.
        audio: window `[samples]` that the model was not trained on.
        sample_rate: sample rate of `audio` in Hz.
        out: folder for the WAV and PNG files.

    Returns:
        `sounds`: for each WAV file under `out`, what `listen` returns; and `pictures`: the PNG files.

    Raises:
        ServingError: the server does not start, a request fails, or an answer is silent.
    """
    held_out = out / "held_out.wav"
    write_wav(held_out, audio, sample_rate)
    command = ["serve", "--model_base_path", str(model_base_path), "--model_name", model_name]
    # Warming up would run every signature in every size, and the few requests below would wait for that.
    with server_process([*command, "--rest_api_port", "0", "--enable_model_warmup=false"]) as port:
        ask = ["--server", f"127.0.0.1:{port}", "--model-name", model_name, "--version", str(version)]
        _clients(
            ["encode", str(held_out), "--out", str(out / "held_out.npz"), *ask],
            ["decode", str(out / "held_out.npz"), "--out", str(out / "decoded"), *ask],
            ["reconstruct", str(held_out), "--out", str(out / "reconstructed"), *ask],
            ["generate", "--seeds", _SEEDS, "--out", str(out / "generated"), *ask],
        )
    sounds = {str(path.relative_to(out)): listen(path) for path in sorted(out.rglob("*.wav"))}
    for name, sound in sounds.items():
        if sound["peak"] == 0.0:
            raise ServingError(f"{out / name}: the served model answered with silence; train longer, or report this")
    pictures = [str(path.relative_to(out)) for path in sorted(out.rglob("*.png"))]
    return {"sounds": sounds, "pictures": pictures}


def listen(path: Path) -> dict[str, float]:
    """Returns `peak` and `rms` of a WAV file (full scale is 1.0), and `loudest_hz`, where its spectrum peaks."""
    audio, rate = soundfile.read(path, dtype="float64")
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return {
        "peak": round(float(np.abs(audio).max()), 4),
        "rms": round(float(np.sqrt(np.mean(np.square(audio)))), 4),
        "loudest_hz": round(float(np.argmax(spectrum) * rate / len(audio)), 1),
    }


@contextlib.contextmanager
def server_process(arguments: list[str], *, module: str = "tfpipe") -> Iterator[int]:
    """Runs a server in a process of its own on a free port; yields the gRPC port when the server is ready.

    Args:
        arguments: command line of `tfpipe`, without the port.
        module: module to run instead of `tfpipe`; it must print its port as `tfpipe serve --json` does.

    Raises:
        ServingError: the server ends, or is not ready in time.
    """
    ports = ["--port", "0", "--json"] if module == "tfpipe" else []
    process = subprocess.Popen(
        children.python(["-m", module, *arguments, *ports]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=children.environment(),
    )
    log: list[str] = []
    ready: queue.Queue[str] = queue.Queue()
    readers = [
        threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True),
        threading.Thread(target=lambda: ready.put((process.stdout or sys.stdin).readline()), daemon=True),
    ]
    try:
        for reader in readers:
            reader.start()
        with contextlib.suppress(queue.Empty):
            if line := ready.get(timeout=_READY_S):
                yield int(json.loads(line)["port"])
                return
        last = log[-1].strip() if log else "no message"
        what = "ended" if process.poll() is not None else f"was not ready within {_READY_S:g} s"
        raise ServingError(f"{' '.join(arguments)}: the server {what} ({last})")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in readers:
            reader.join(timeout=5)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _clients(*commands: list[str]) -> None:
    """Runs the commands in one process; raises ServingError if one of them fails."""
    done = subprocess.run(
        children.python(["-c", _CLIENT, json.dumps(commands)]),
        capture_output=True,
        text=True,
        timeout=_REQUEST_S * len(commands),
        env=children.environment(),
        check=False,
    )
    if done.returncode:
        *before, last = done.stderr.strip().splitlines() or ["no message"]
        raise ServingError(f"{last} ({before[-1]})" if before else last)
