"""One signature: checks of inputs, steps of a large request, batches that clients share, and errors of the model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_tools import (
    ran,
    random_rows,
    serving,
    signature_of,
    steps,
)

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
    signature = signature_of(definition_of(), run, batching=batching)
    x = np.ones((3, 3), np.float32)
    np.testing.assert_array_equal(signature.run_rows({"x": x}, Call())["y"], -x)
    assert sizes == [4]


def test_a_model_that_returns_other_rows_is_never_batched_again():
    double = lambda inputs: {"y": np.concatenate([inputs["x"], inputs["x"]])}  # noqa: E731
    signature = signature_of(definition_of(), double, batching=Batching())
    for says in ("did not return one row for each row", "cannot share a batch"):
        with pytest.raises(StatusError, match=says):
            signature.run_rows({"x": np.ones((2, 3), np.float32)}, Call())
    assert not signature.rows_fit


def test_a_failed_batch_is_run_again_alone_but_a_full_queue_is_not():
    def fails_once(code):
        runs = iter([StatusErrorOfTensorFlow(code)])

        def run(inputs):
            for error in runs:
                raise error
            return {"y": inputs["x"]}

        return signature_of(definition_of(), run, batching=Batching())

    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(fails_once(Code.INVALID_ARGUMENT).run({"x": x}, Call())["y"], x)
    with pytest.raises(StatusError) as info:
        fails_once(Code.UNAVAILABLE).run({"x": x}, Call())
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


def test_signatures_are_batched_where_rows_fit_together(toy_server, server):
    """The toy's all are; of the exported model all but audio, whose rows differ in length."""

    def batched(running):
        with running.catalog.use(running.config.model_name) as model:
            return {name for name, signature in model.signatures.items() if signature.is_batched}

    assert batched(toy_server) == {"double", "negate", "finite", "slow", "ran", "version", "serving_default"}
    assert batched(server) == {
        "encode",
        "decode",
        "decode_audio",
        "decode_wav",
        "reconstruct",
        "reconstruct_wav",
        "generate",
        "generate_wav",
        "spec",
        "serving_default",
    }


def test_every_answer_is_that_of_its_own_input(caller):
    """Two signatures with equal shapes under concurrent load, in requests of several sizes."""

    def one(number):
        x = random_rows(number, 1 + number % 5)
        name, factor = ("double", 2) if number % 2 else ("negate", -1)
        np.testing.assert_allclose(caller.predict(name, x=x)["y"], factor * x, rtol=1e-6)

    with ThreadPoolExecutor(32) as pool:
        assert len(list(pool.map(one, range(120)))) == 120


@pytest.mark.parametrize("batching", [Batching(), None])
def test_requests_share_batches_where_batching_is_on(toy, batching, front_end):
    with serving(toy, batching=batching, grpc_front_end=front_end) as (_, caller):
        waiting = [caller.future("slow", x=steps(2000 if batching else 1)) for _ in range(48)]
        assert all(one.result() for one in waiting)
        rows, runs = ran(caller)
    assert rows == 48
    assert (runs < 40) if batching else (runs == 48)


def test_a_bad_row_fails_alone(caller):
    def one(number):
        x = random_rows(number, 1)
        if number % 4 == 0:
            x[0, 1] = np.nan
            code, message = caller.refusal("finite", x=x)
            assert code == "INVALID_ARGUMENT", message
            assert "a bad row" in message
        else:
            np.testing.assert_array_equal(caller.predict("finite", x=x)["y"], x)

    with ThreadPoolExecutor(12) as pool:
        assert len(list(pool.map(one, range(100)))) == 100


def test_requests_that_do_not_fit_disturb_nobody(caller):
    def one(number):
        if number % 3 == 0:
            if number % 2:
                assert caller.refusal("double", x=np.zeros((1, 3), np.float64))[0] == "INVALID_ARGUMENT"
            else:  # of another shape than the signature says; the model takes it
                x = random_rows(number, 4).T if number % 4 else random_rows(number, 1)[0]
                np.testing.assert_allclose(caller.predict("double", x=x)["y"], 2 * x, rtol=1e-6)
        else:
            x = random_rows(number, 2)
            np.testing.assert_allclose(caller.predict("double", x=x)["y"], 2 * x, rtol=1e-6)

    with ThreadPoolExecutor(24) as pool:
        assert len(list(pool.map(one, range(100)))) == 100


def test_padding_to_allowed_sizes_and_large_requests(toy, front_end):
    batching = Batching(max_batch_size=8, allowed_batch_sizes=(4, 8), batch_timeout_micros=1000, num_batch_threads=2)
    with serving(toy, batching=batching, grpc_front_end=front_end) as (_, caller), ThreadPoolExecutor(8) as pool:

        def one(number):
            x = random_rows(number, number)
            np.testing.assert_allclose(caller.predict("double", x=x)["y"], 2 * x, rtol=1e-6)

        assert len(list(pool.map(one, [0, 1, 3, 7, 8, 9, 31, 32, 33, 100]))) == 10
