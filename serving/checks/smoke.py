"""Checks that an exported model answers real requests, which come from a client process.

It does what a person would do by hand after `tfpipe export`: start the server, encode a held-out recording, decode it,
generate new sounds, and look at the results. The server runs in this process, which in `tfpipe run` has imported
TensorFlow already.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from serving.server.config import ServerConfig
from serving.server.server import Server
from tfpipe.audio.wav import write_wav
from tfpipe.errors import ServingError
from tfpipe.process import children

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
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Serves a model on a free loopback port, sends it requests, and measures the sounds that come back.

    Args:
        model_base_path: folder of the exported versions.
        model_name: name under which it is served.
        version: version that must answer.
        audio: window `[samples]` that the model was not trained on.
        sample_rate: sample rate of `audio` in Hz.
        out: folder for the WAV and PNG files.
        say: is called with a line of text before each step that takes seconds.

    Returns:
        `sounds`: for each WAV file under `out`, what `listen` returns; and `pictures`: the PNG files.

    Raises:
        ServingError: the server does not start, a request fails, or an answer is silent.
    """
    held_out = out / "held_out.wav"
    write_wav(held_out, audio, sample_rate)
    # Warming up would run every signature in every size, and the few requests below would wait for that.
    config = ServerConfig(
        model_base_path=str(model_base_path), model_name=model_name, port=0, rest_api_port=-1, enable_model_warmup=False
    )
    say("starting the server ...")
    with Server(config) as server:
        server.start()
        say("asking it for sounds from another process ...")
        ask = ["--server", server.address, "--model-name", model_name, "--version", str(version)]
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
