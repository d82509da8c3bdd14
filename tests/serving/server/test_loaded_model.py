"""Loading one version of a model: warm-up requests, and models of TensorFlow 1."""

import numpy as np
from serving_tools import copy_version, predict_request, ran, serving, states, steps

from serving.protocol import protos
from serving.protocol.names import WARMUP_FILE
from serving.server import loaded_model
from tfpipe.data.records import write_record


def test_each_warm_up_request_is_run_before_the_version_serves(toy, tmp_path):
    path = copy_version(toy / "1", tmp_path, 1)
    (path / WARMUP_FILE).parent.mkdir()
    with open(path / WARMUP_FILE, "wb") as file:
        for _ in range(3):
            log = protos.PredictionLog()
            log.predict_log.request.CopyFrom(predict_request(signature="slow", x=steps(1)))
            write_record(file, log.SerializeToString())
    for warm_up, runs in ((True, 3), (False, 0)):
        with serving(tmp_path, enable_model_warmup=warm_up) as (_, caller):
            assert ran(caller) == (runs, runs)


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
    assert loaded_model._only_calls_functions(toy / "1" / "saved_model.pb")
    assert not loaded_model._only_calls_functions(tmp_path / "1" / "saved_model.pb")
    with serving(tmp_path) as (_, caller):
        answer = caller.predict("serving_default", x=np.ones((2, 3), np.float32))
    np.testing.assert_allclose(answer["y"], np.full((2, 3), 3.0))
