"""`tfpipe bench gpu`, on a machine without a GPU."""

from pathlib import Path

import pytest
import tensorflow as tf
from helpers import last_json, tfpipe

from tfpipe.bench.gpu import training_flops
from tfpipe.cli.main import main
from tfpipe.model import networks
from tfpipe.spec import FeatureSpec


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


def test_training_flops_of_a_known_model_and_of_one_counted_by_hand() -> None:
    assert training_flops(networks.build("notebook", FeatureSpec(), latent=16)) == pytest.approx(13e9, rel=0.02)
    tiny = networks.build("tiny", FeatureSpec(n_mels=16, window_s=15 * 512 / 22_050), latent=4)
    # Kernel, channels before and after, places: 16 frames, or the single step that they become.
    block = [(5, 16, 1, 1), (1, 16, 32, 1), (1, 32, 16, 1)]
    encoder = [(3, 16, 8, 16), (16, 8, 16, 1), *block, (1, 16, 4, 2)]
    decoder = [(3, 4, 16, 1), *block, (1, 16, 128, 1), (3, 8, 8, 16), (1, 8, 16, 16)]
    linear = [(16, 16, 4, 1), (1, 4, 256, 1)]
    sizes = [*encoder, *decoder, *linear]
    forward = sum(2 * kernel * before * after * places for kernel, before, after, places in sizes)
    assert training_flops(tiny) == 3 * forward
