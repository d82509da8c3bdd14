"""One signature: checks of a request's inputs, steps of a large request, and errors of the model."""

import numpy as np
import pytest
from serving_tools import signature_of

from serving.protocol import protos
from serving.protocol.status import Code, StatusError
from serving.server.admission import Call
from serving.server.config import Limits
from serving.server.config_files import Batching


def definition_of(rows=-1):
    """Returns a signature with one float input `x` and one float output `y`, `[rows, 3]` each."""
    definition = protos.SignatureDef()
    for info in (definition.inputs["x"], definition.outputs["y"]):
        info.dtype = 1
        for size in (rows, 3):
            info.tensor_shape.dim.add(size=size)
    return definition


def test_a_large_request_runs_in_steps_and_an_empty_one_runs_once():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"]}

    signature = signature_of(definition_of(), run, limits=Limits(step_rows=4))
    x = np.arange(30, dtype=np.float32).reshape(10, 3)
    np.testing.assert_array_equal(signature.run({"x": x}, Call())["y"], 2 * x)
    assert signature.run({"x": x[:0]}, Call())["y"].shape == (0, 3)
    assert sizes == [4, 4, 2, 0]


def test_a_batch_is_padded_to_an_allowed_size_and_the_padding_is_cut_off():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": -inputs["x"]}

    batching = Batching(max_batch_size=8, allowed_batch_sizes=(4, 8))
    signature = signature_of(definition_of(), run, run_batched=run, batching=batching)
    x = np.ones((3, 3), np.float32)
    np.testing.assert_array_equal(signature.run_rows({"x": x}, Call())["y"], -x)
    assert sizes == [4]


def test_a_model_that_returns_other_rows_is_never_batched_again():
    double = lambda inputs: {"y": np.concatenate([inputs["x"], inputs["x"]])}  # noqa: E731
    signature = signature_of(definition_of(), double, run_batched=double)
    for says in ("did not return one row for each row", "cannot share a batch"):
        with pytest.raises(StatusError, match=says):
            signature.run_rows({"x": np.ones((2, 3), np.float32)}, Call())
    assert not signature.rows_fit


def test_a_failed_batch_is_run_again_alone_but_a_full_queue_is_not():
    def fails(code):
        def run_batched(inputs):
            raise StatusErrorOfTensorFlow(code)

        return run_batched

    run = lambda inputs: {"y": inputs["x"]}  # noqa: E731
    x = np.ones((1, 3), np.float32)
    signature = signature_of(definition_of(), run, run_batched=fails(Code.INVALID_ARGUMENT))
    np.testing.assert_array_equal(signature.run({"x": x}, Call())["y"], x)
    signature = signature_of(definition_of(), run, run_batched=fails(Code.UNAVAILABLE))
    with pytest.raises(StatusError) as info:
        signature.run({"x": x}, Call())
    assert info.value.code == Code.UNAVAILABLE


class StatusErrorOfTensorFlow(Exception):
    """Looks like an error of TensorFlow's runtime."""

    def __init__(self, code):
        super().__init__("the batch failed")
        self.error_code, self.message = int(code), "the batch failed"


def test_runtime_errors_keep_their_code_and_lose_their_stack():
    import tensorflow as tf

    definition = protos.SignatureDef()
    definition.inputs["x"].dtype = 1
    definition.inputs["x"].tensor_shape.unknown_rank = True
    function = tf.function(lambda x: {"y": tf.reshape(x, [-1, 3])}, input_signature=[tf.TensorSpec([None], name="x")])

    def refusal(run):
        with pytest.raises(StatusError) as info:
            signature_of(definition, run).run({"x": np.zeros(4, np.float32)}, Call())
        return info.value

    error = refusal(lambda inputs: {alias: tensor.numpy() for alias, tensor in function(**inputs).items()})
    assert error.code == Code.INVALID_ARGUMENT
    assert "4 values" in error.message
    for word in ("File", "line", "Traceback", "{{", "[Op:", "Detected at"):
        assert word not in error.message
    error = refusal(lambda inputs: 1 / 0)
    assert error.code == Code.INTERNAL
    assert "division" not in error.message
