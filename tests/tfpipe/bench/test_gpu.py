"""`tfpipe bench gpu`, on a machine without a GPU."""

from pathlib import Path

import pytest
import tensorflow as tf
from helpers import last_json, tfpipe

from tfpipe.cli.main import main


@pytest.mark.slow
def test_the_measurement_can_be_tried_on_the_cpu(small: Path) -> None:
    report = last_json(tfpipe("bench", "gpu", small, "--cpu"))  # a process of its own: it hides the GPU
    assert report["device"] == "CPU"
    tiny = report["presets"]["tiny"]
    assert tiny["gflop_per_example"] > 0
    assert 0 <= tiny["input_wait"] < 1
    assert [(row["precision"], row["jit_compile"]) for row in tiny["steps"]] == [
        (policy, jit) for policy in ("float32", "mixed_bfloat16") for jit in (False, True)
    ]
    assert all(row["examples_per_s"] > 0 for row in tiny["steps"])


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("tfpipe: bench gpu: TensorFlow sees no GPU here")
    assert len(said.err.splitlines()) == 1
