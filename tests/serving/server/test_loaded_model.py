"""Loading one version of a model: warm-up requests, and models of TensorFlow 1."""

import http.client
import json
import time

import numpy as np
import pytest
from serving_tools import Caller, copy_version, eventually, predict_request, ran, serving, states, steps

from serving.protocol import protos
from serving.protocol.names import WARMUP_FILE
from serving.server.config import ModelConfig, ServerConfig
from serving.server.models import loaded_model
from serving.server.models.model_files import read_graph
from serving.server.server import Server
from tfpipe.data.records import write_record
from tfpipe.errors import ServingError


def test_each_warm_up_request_is_run_before_the_version_serves(toy, tmp_path):
    path = copy_version(toy / "1", tmp_path, 1)
    (path / WARMUP_FILE).parent.mkdir()
    with open(path / WARMUP_FILE, "wb") as file:
        for _ in range(3):
            log = protos.PredictionLog()
            log.predict_log.request.CopyFrom(predict_request(signature="slow", x=steps(1)))
            write_record(file, log.SerializeToString())
    for settings, runs in (
        ({}, 3),
        ({"enable_model_warmup": False}, 0),
        ({"num_request_iterations_for_warmup": 2}, 6),
    ):
        with serving(tmp_path, **settings) as (_, caller):
            assert ran(caller) == (runs, runs)


def test_the_first_warm_up_request_that_fails_ends_them_all(toy, tmp_path):
    path = copy_version(toy / "1", tmp_path, 1)
    (path / WARMUP_FILE).parent.mkdir()
    with open(path / WARMUP_FILE, "wb") as file:
        for name in ("double", "nope", *["slow"] * 500):
            log = protos.PredictionLog()
            log.predict_log.request.CopyFrom(predict_request(signature=name, x=steps(100_000)))
            write_record(file, log.SerializeToString())
    started = time.monotonic()
    with serving(tmp_path, file_system_poll_wait_seconds=0) as (_, caller):
        [(_, state, error)] = states(caller, "vae")
    assert state == "END"
    assert "a warm-up request failed" in error
    assert '"nope" not found' in error
    assert time.monotonic() - started < 30.0  # all 500 take minutes


def test_a_damaged_warmup_file_fails_the_version(toy, tmp_path):
    path = copy_version(toy / "1", tmp_path, 1)
    (path / WARMUP_FILE).parent.mkdir()
    (path / WARMUP_FILE).write_bytes(b"not a TFRecord")
    with serving(tmp_path, file_system_poll_wait_seconds=0) as (_, caller):
        [(version, state, error)] = states(caller, "vae")
    assert (version, state) == (1, "END")
    assert "damaged warm-up file" in error


def test_a_model_of_tensorflow_1_is_served_too(tmp_path, toy):
    """Its operations are in the graph itself, so the session must optimise the graph."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
        scale = tf.compat.v1.get_variable("scale", initializer=2.0, use_resource=True)
        session.run(scale.initializer)
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": scale * x + 1.0})
    assert loaded_model._only_calls_functions(read_graph(toy / "1", ("serve",)))
    assert not loaded_model._only_calls_functions(read_graph(tmp_path / "1", ("serve",)))
    with serving(tmp_path) as (_, caller):
        answer = caller.predict("serving_default", x=np.ones((2, 3), np.float32))
    np.testing.assert_allclose(answer["y"], np.full((2, 3), 3.0))


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory):
    """A frozen graph without variables whose signatures have shapes and types that the exported model has not."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("odd")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        info = v1.saved_model.build_tensor_info

        def signature(inputs, outputs):
            named = [{alias: info(tensor) for alias, tensor in each.items()} for each in (inputs, outputs)]
            return v1.saved_model.build_signature_def(*named, "tensorflow/serving/predict")

        signatures = {}
        for name in ("float16", "bfloat16", "complex64"):
            x = v1.placeholder(name, [None, 2], name=name)
            signatures[name] = signature({"x": x}, {"y": x * tf.cast(2, x.dtype)})
        column = v1.placeholder("float32", [None, 1], name="column")
        signatures["column"] = signature({"x": column}, {"y": 2 * column})
        one, other = (v1.placeholder("float32", [None], name=name) for name in ("one", "other"))
        signatures["sum"] = signature({"one": one, "other": other}, {"y": one + other})
        sparse = v1.sparse_placeholder("float32", [None, 3], name="sparse")
        signatures["sparse"] = signature({"x": sparse}, {"y": tf.sparse.to_dense(sparse)})
        handle = v1.placeholder(tf.resource, [], name="handle")
        signatures["resource"] = signature({"x": handle, "y": column}, {"y": column + 1})
        ragged = v1.ragged.placeholder("float32", 1, name="ragged")
        signatures["ragged"] = signature({"x": ragged}, {"y": ragged.flat_values})
        pairs = v1.placeholder("float32", [None], name="pairs")
        signatures["words"] = signature({"x": pairs}, {"y": tf.strings.as_string(pairs)})
        quantised = v1.placeholder("quint8", [None], name="quantised")
        signatures["quantised"] = signature({"x": quantised}, {"y": tf.identity(quantised)})
        gone = signature({"x": column}, {"y": column})
        gone.outputs["y"].name = "not_there:0"
        signatures["gone"] = gone
        signatures["pairs"] = signature({"x": pairs}, {"y": tf.repeat(pairs, 2)})
        for tags in (["serve"], ["serve", "gpu"]):
            builder = v1.saved_model.Builder(str(folder / "-".join(tags) / "1"))
            builder.add_meta_graph_and_variables(session, tags, signature_def_map=signatures)
            builder.save()
    return folder


@pytest.fixture(scope="module")
def odd_caller(odd_model, front_end, shared_server):
    with Caller(shared_server(odd_model / "serve", front_end).port) as caller:
        yield caller


def test_the_list_of_models_shows_odd_signatures_too(odd_model):
    with serving(odd_model / "serve") as (server, _):
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        connection.request("GET", "/")
        response = connection.getresponse()
        page = response.read().decode()
        connection.close()
    assert response.status == 200
    for name in ("quantised", "sparse", "ragged", "complex64", "column"):
        assert name in page


@pytest.mark.parametrize("name", ["float16", "bfloat16", "complex64"])
def test_halves_and_complex_numbers_go_in_and_come_out(odd_caller, name):
    import tensorflow as tf

    x = np.array([[1.5, -2.0], [0.25, 3.0]]).astype(tf.as_dtype(name).as_numpy_dtype)
    for _ in range(3):  # later ones may be batched
        answer = odd_caller.predict(name, x=x)["y"]
        assert answer.dtype == x.dtype
        np.testing.assert_array_equal(answer, x + x)
    code, says = odd_caller.refusal("column", x=x)
    assert code == "INVALID_ARGUMENT"
    assert says == f"Expects x to be float but {'half' if name == 'float16' else name} is provided"


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 4), (), (2, 1, 1), (0,)])
def test_inputs_of_any_shape_go_to_the_model(odd_caller, shape):
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    for _ in range(2):
        np.testing.assert_array_equal(odd_caller.predict("column", x=x)["y"], 2 * x)


def test_inputs_of_different_lengths_go_to_the_model_which_may_refuse_them(odd_caller):
    one, two, three = (np.ones(count, np.float32) for count in (1, 2, 3))
    np.testing.assert_array_equal(odd_caller.predict("sum", one=one, other=three)["y"], 2 * three)
    code, says = odd_caller.refusal("sum", one=two, other=three)
    assert (code, "Incompatible shapes" in says) == ("INVALID_ARGUMENT", True)


def test_a_large_request_is_not_cut_if_the_rows_of_the_answer_are_others(odd_caller):
    x = np.arange(200, dtype=np.float32)
    np.testing.assert_array_equal(odd_caller.predict("pairs", x=x)["y"], np.repeat(x, 2))


def test_a_request_may_have_thousands_of_rows(odd_caller):
    x = np.random.default_rng(0).normal(size=(5000, 1)).astype(np.float32)
    np.testing.assert_array_equal(odd_caller.predict("column", x=x)["y"], 2 * x)
    code, says = odd_caller.refusal("column", x=np.zeros((70_000, 1), np.float32))
    assert (code, says) == ("INVALID_ARGUMENT", "a batch of 70000 rows is larger than this server's 65536; split it")
    code, says = odd_caller.refusal("words", x=np.zeros(1025, np.float32))
    assert (code, says) == ("INVALID_ARGUMENT", "a batch of 1025 rows is larger than this server's 1024; split it")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sparse", "x is a coo sparse, not a plain tensor"),
        ("ragged", "x is a composite tensor, not a plain tensor"),
        ("resource", "x: DT_RESOURCE is not supported here"),
        ("gone", "not_there"),
    ],
)
def test_a_signature_that_cannot_be_served_disturbs_no_other(
    odd_model, odd_caller, shared_server, front_end, name, says
):
    code, message = odd_caller.refusal(name, x=np.zeros((1, 1), np.float32))
    assert code == "UNIMPLEMENTED"
    assert f'Serving signature "{name}" cannot be served' in message
    assert says in message
    status, _ = ask_rest(shared_server(odd_model / "serve", front_end), name, [[0]])
    assert status == 501


def ask_rest(server, name, x):
    """Returns the status and the JSON of a predict request over REST with one input."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    try:
        connection.request("POST", "/v1/models/vae:predict", json.dumps({"signature_name": name, "inputs": {"x": x}}))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_halves_are_numbers_in_json_and_complex_numbers_are_refused(odd_model, shared_server, front_end):
    server = shared_server(odd_model / "serve", front_end)
    for name in ("float16", "bfloat16"):
        assert ask_rest(server, name, [[1.5, -2.0]]) == (200, {"outputs": [[3.0, -4.0]]})
    status, answer = ask_rest(server, "complex64", [[1.5, -2.0]])
    assert (status, "use gRPC" in answer["error"]) == (501, True)


def test_a_graph_is_chosen_by_its_tags(odd_model):
    with serving(odd_model / "serve-gpu", saved_model_tags=("gpu", "serve")) as (_, caller):
        caller.predict("column", x=np.ones((1, 1), np.float32))
    with serving(odd_model / "serve-gpu", file_system_poll_wait_seconds=0) as (_, caller):
        [(_, state, error)] = states(caller, "vae")
    assert (state, "MetaGraphDef" in error) == ("END", True)


def test_a_version_may_bring_its_own_batching(toy, tmp_path, front_end):
    path = copy_version(toy / "1", tmp_path, 1)
    settings = {"enable_per_model_batching_parameters": True, "grpc_front_end": front_end, "enable_model_warmup": False}
    for text, batched, rows in ((None, False, 0), ("max_batch_size { value: 2 }", True, 2)):
        if text is not None:
            (path / "batching_params.pbtxt").write_text(text)
        with serving(tmp_path, **settings) as (server, caller):
            waiting = [caller.future("double", x=steps(number)) for number in range(20)]
            assert [int(one.result().outputs["y"].tensor_shape.dim[0].size) for one in waiting] == [1] * 20
            with server.catalog.use("vae") as model:
                double = model.signatures["double"]
        assert (double.is_batched, double.rows_fit) == (batched, False)
        if batched:
            assert double._batch_rows == rows
    (path / "batching_params.pbtxt").write_text("max_batch_size: 2")
    with serving(tmp_path, file_system_poll_wait_seconds=0, **settings) as (_, caller):
        [(_, state, error)] = states(caller, "vae")
    assert (state, "batching_params.pbtxt" in error) == ("END", True)


def test_threads_of_a_session_are_those_of_the_flags():
    config = loaded_model._session_config(None, ModelConfig(tensorflow_intra_op_parallelism=2))
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (2, 0)


def test_a_model_at_a_url_is_served(toy):
    """`ram://` is a file system of TensorFlow's, as `gs://` is."""
    import tensorflow as tf

    for path in (toy / "1").rglob("*"):
        if path.is_file():
            tf.io.gfile.makedirs(f"ram://models/toy/1/{path.parent.relative_to(toy / '1')}")
            tf.io.gfile.copy(str(path), f"ram://models/toy/1/{path.relative_to(toy / '1')}", overwrite=True)
    with serving("ram://models/toy") as (server, caller):
        assert server.versions == [1]
        caller.predict("double", x=np.ones((1, 3), np.float32))
        tf.io.gfile.rmtree("ram://models/toy/1")
        eventually(lambda: server.versions == [])


def test_a_url_that_tensorflow_does_not_read_is_refused():
    with pytest.raises(ServingError, match=r"nfs://models/toy: TensorFlow as installed here reads folders of .*gs://"):
        Server(ServerConfig(model_base_path="nfs://models/toy", port=0, rest_api_port=-1))
