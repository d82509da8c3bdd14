"""How a machine computes: the mixed-precision policy, and whether XLA compiles (needs TensorFlow)."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tfpipe.errors import UsageError
from tfpipe.model.presets import PRECISIONS


def resolve(precision: str) -> str:
    """Returns the name of the Keras policy for `precision`.

    `auto` depends on the hardware: mixed_bfloat16 for a GPU of compute capability 8.0 or more and for a CPU
    with AVX-512 BF16, mixed_float16 (with loss scaling) for a GPU of 7.x, and float32 otherwise.

    Raises:
        UsageError: unknown name.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "mixed_bfloat16" if _cpu_has("avx512_bf16") else "float32"
    capability = min(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus)
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"


def compiled(jit_compile: str, *, replicas: int) -> bool:
    """Tells whether XLA compiles the step. `auto` means no, because no measurement has shown a gain yet.

    Raises:
        UsageError: `on` with several replicas; XLA cannot compile their exchange of gradients.
    """
    if jit_compile == "on" and replicas > 1:
        raise UsageError(f"--jit-compile on works on one device, and here are {replicas}; use auto or off")
    return jit_compile == "on"


def _cpu_has(flag: str) -> bool:
    try:
        return flag in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
