"""Helpers of the serving tests."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib
import re
import shutil
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.protocol import protos, tensors
from serving.protocol.names import METRICS_PATH, MODEL_SERVICE, PREDICT, REGRESS, UNLIMITED, WARMUP_FILE
from serving.server.admission import AdmissionQueue
from serving.server.config import Limits, ServerConfig
from serving.server.grpc.native_server import NativeGrpcServer, is_built
from serving.server.models.signature import Signature
from serving.server.server import Server
from tfpipe.cli.arguments import normalised

# Marks tests that need the compiled server.
native = pytest.mark.skipif(not is_built(), reason="the native front end is not built; install Rust")


@contextlib.contextmanager
def serving(folder: Path | str, *, grace_s: float = 30, **settings):
    """Yields a running server of one model and a `Caller` of it; for tests that need settings of their own."""
    server = start_server(folder, **settings)
    try:
        with Caller(server.port) as caller:
            yield server, caller
    finally:
        server.stop(grace_s=grace_s)


def start_server(folder: Path | str, **settings) -> Server:
    server = Server(ServerConfig(model_base_path=folder, port=0, rest_api_port=0, **settings))
    server.start()
    return server


def native_grpc(server: Server) -> NativeGrpcServer:
    """Returns the native gRPC front end of a server, to look inside it."""
    assert isinstance(server._grpc, NativeGrpcServer)
    return server._grpc


def signature_of(definition, run, *, limits=None, **settings) -> Signature:
    """Returns a signature whose model is the function `run`, without a server."""
    queue = AdmissionQueue(capacity=1, max_waiting=0)
    return Signature(definition, run, limits=limits or Limits(), queue=queue, **settings)


def copy_version(source: Path, folder: Path, version: int) -> Path:
    """Adds a version as an export does: copies it to another name and renames it, so it appears at once."""
    temporary = folder / f".tmp-{version}"
    shutil.copytree(source, temporary)
    return temporary.rename(folder / str(version))


def eventually(condition, *, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def peak_mib(*, reset=False) -> int:
    """Returns the most memory that this process has held since the last reset, in MiB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) >> 10


def run_command(name: str, *arguments: object) -> int:
    """Runs `tfpipe NAME ARGUMENTS` in this process."""
    command = importlib.import_module(f"tfpipe.commands.{name}")
    parser = argparse.ArgumentParser(prog=name)
    command.add_arguments(parser)
    return command.run(parser.parse_args(normalised([str(argument) for argument in arguments], parser)))


def run_signature(loaded, name: str, **inputs) -> dict[str, np.ndarray]:
    """Runs a signature of a model that `tf.saved_model.load` returned."""
    import tensorflow as tf

    outputs = loaded.signatures[name](**{alias: tf.constant(value) for alias, value in inputs.items()})
    return {alias: tensor.numpy() for alias, tensor in outputs.items()}


def export_toy(folder: Path, version: int) -> Path:
    """Writes a small model with the signatures `double`, `negate`, `finite`, `slow`, `ran` and `version`."""
    import tensorflow as tf

    rows = tf.TensorSpec([None, 3], tf.float32, name="x")
    module = tf.Module()
    module.rows = tf.Variable(0, dtype=tf.int32)
    module.runs = tf.Variable(0, dtype=tf.int32)
    index = tf.TensorSpec([None], tf.int32, name="index")

    @tf.function(input_signature=[rows])
    def double(x):
        return {"y": 2 * x}

    @tf.function(input_signature=[rows])
    def negate(x):
        return {"y": -x}

    @tf.function(input_signature=[rows])
    def finite(x):
        return {"y": tf.debugging.check_numerics(x, "a bad row")}

    @tf.function(input_signature=[rows])
    def slow(x):
        """Takes as many steps as its largest first value, and counts its runs and their rows (see `ran`)."""
        module.rows.assign_add(tf.shape(x)[0])
        module.runs.assign_add(1)
        matrix = tf.eye(64) + 0 * x[0, 0]
        steps = tf.cast(tf.reduce_max(x[:, 0]), tf.int32)
        matrix = tf.while_loop(lambda i, m: i < steps, lambda i, m: (i + 1, m @ m), (0, matrix))[1]
        return {"y": x * matrix[0, 0]}

    @tf.function(input_signature=[index])
    def ran(index):
        return {
            "rows": tf.fill(tf.shape(index), module.rows.read_value()),
            "runs": tf.fill(tf.shape(index), module.runs.read_value()),
        }

    @tf.function(input_signature=[index])
    def version_(index):
        return {"version": tf.fill(tf.shape(index), version)}

    functions = {
        "double": double,
        "negate": negate,
        "finite": finite,
        "slow": slow,
        "ran": ran,
        "version": version_,
        "serving_default": double,
    }
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    temporary = folder / f".tmp-{version}"
    tf.saved_model.save(module, str(temporary), signatures=signatures)
    return temporary.rename(folder / str(version))


def export_examples_model(folder: Path) -> Path:
    """Writes a model with signatures that parse `tf.Example` messages, as estimators export them.

    `regress` answers x / 2 + 2 of the feature x, `classify` the same as the score of one class, `scores` without a
    label, and `wrong` has an output of the wrong shape. `text` takes a string without dimensions and gives it back.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(folder / "1"))
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="examples")
        x = v1.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32, -4.0)})["x"]
        scores = v1.get_variable("half", initializer=0.5) * x + 2.0
        text = v1.placeholder(tf.string, [], name="text")
        info = v1.saved_model.build_tensor_info
        inputs, score = {"inputs": info(serialized)}, info(scores)
        label = info(tf.fill(tf.shape(scores), "class"))
        methods = {
            "regress": (inputs, {"outputs": score}, "regress"),
            "classify": (inputs, {"classes": label, "scores": score}, "classify"),
            "scores": (inputs, {"scores": score}, "classify"),
            "wrong": (inputs, {"outputs": info(tf.concat([scores, scores], 1))}, "regress"),
            "text": ({"text": info(text)}, {"text": info(tf.identity(text))}, "predict"),
        }
        signatures = {
            name: v1.saved_model.build_signature_def(given, outputs, f"tensorflow/serving/{method}")
            for name, (given, outputs, method) in methods.items()
        }
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
    # A version is loaded only if each of its warm-up requests is answered.
    log = protos.PredictionLog
    classify, regress, infer = log(), log(), log()
    for warmup, name in ((classify.classify_log, "classify"), (regress.regress_log, "regress")):
        warmup.request.model_spec.signature_name = name
        warmup.request.input.example_list.examples.add()
    infer.multi_inference_log.request.CopyFrom(protos.MultiInferenceRequest(input=classify.classify_log.request.input))
    task = infer.multi_inference_log.request.tasks.add(method_name=REGRESS)
    task.model_spec.name, task.model_spec.signature_name = "vae", "regress"
    path = folder / "1" / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in (classify, regress, infer):
            writer.write(record.SerializeToString())
    return folder


def random_rows(seed: int, count: int) -> np.ndarray:
    """Returns `[count, 3]` random numbers, an input of the toy model."""
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def steps(count: int) -> np.ndarray:
    """Returns the input that makes the toy's `slow` take `count` steps."""
    return np.full((1, 3), count, np.float32)


def ran(caller: Caller) -> tuple[int, int]:
    """Returns how many rows the toy's `slow` has computed, and in how many runs."""
    answer = caller.predict("ran", index=np.zeros(1, np.int32))
    return int(answer["rows"][0]), int(answer["runs"][0])


def states(caller: Caller, name: str) -> list[tuple[int, str, str]]:
    """Returns number, state and error of each version that the server knows of a model."""
    request = protos.GetModelStatusRequest()
    request.model_spec.name = name
    ask = caller.channel.unary_unary(f"/{MODEL_SERVICE}/GetModelStatus")
    response = protos.GetModelStatusResponse.FromString(ask(request.SerializeToString(), timeout=60))
    return [
        (entry.version, entry.State.Name(entry.state), entry.status.error_message)
        for entry in response.model_version_status
    ]


def metrics_page(server: Server, path: str = METRICS_PATH) -> tuple[int, str, str]:
    """Returns status, content type and text of the Prometheus page."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


SAMPLE = re.compile(r'(:tensorflow:serving:\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\d+(?:\.\d+)?(?:e[+-]\d+)?)')


def samples(text: str) -> dict[tuple[str, str], float]:
    """Reads a page as Prometheus does: each line is a comment or a sample; returns {(name, labels): value}."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("# TYPE "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            found[match[1], match[2]] = float(match[3])
    return found


def predict_request(name="vae", signature="double", output_filter=(), **inputs):
    """Returns a PredictRequest, by default for the toy model."""
    message = protos.PredictRequest(output_filter=output_filter)
    message.model_spec.name, message.model_spec.signature_name = name, signature
    for alias, array in inputs.items():
        tensors.write(message.inputs[alias], array)
    return message


# One row for the toy's `double`, serialised.
ROWS = predict_request(x=np.ones((1, 3), np.float32)).SerializeToString()


class Caller:
    """Predict calls over one gRPC channel, without the retries of our client."""

    def __init__(self, port: int, *, model: str = "vae", credentials=None) -> None:
        target = f"127.0.0.1:{port}"
        self.model = model
        self.channel = (
            grpc.secure_channel(target, credentials, options=UNLIMITED)
            if credentials
            else grpc.insecure_channel(target, options=UNLIMITED)
        )
        self._predict = self.channel.unary_unary(
            PREDICT,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=protos.PredictResponse.FromString,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def request(self, signature, *, version=None, label="", **inputs):
        request = protos.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, signature
        if version is not None:
            request.model_spec.version.value = version
        if label:
            request.model_spec.version_label = label
        for alias, array in inputs.items():
            tensors.write(request.inputs[alias], np.asarray(array))
        return request

    def future(self, signature, *, timeout=120, **options):
        return self._predict.future(self.request(signature, **options), timeout=timeout)

    def predict(self, signature, *, timeout=120, **options):
        response = self._predict(self.request(signature, **options), timeout=timeout)
        return {alias: tensors.from_proto(proto, max_bytes=1 << 30) for alias, proto in response.outputs.items()}

    def refusal(self, signature, **options):
        try:
            self.predict(signature, **options)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        raise AssertionError(f"{signature} was answered")


def assert_same_sound(one, other):
    """Requires two sounds `[samples]` at 22 050 Hz to be the same but for their phases.

    Rounding differs between two graphs with the same ops, and on some CPUs between batches of two sizes. Where a
    log-mel has two peaks of nearly the same height, rounding decides which of them the phases follow. With the random
    weights of the tests, energies of the same sound differ by up to 1.3 dB, those of two seeds by 4.7 dB or more.
    """
    levels = [10 * np.log10(np.mean(np.square(sound, dtype=np.float64)) + 1e-12) for sound in (one, other)]
    assert abs(levels[0] - levels[1]) < 0.3, levels
    difference = np.abs(_energies(one) - _energies(other)).mean()
    assert difference < 2.0, difference


def _energies(sound):
    """Returns energies in dB, `[64 bands, windows of 0.1 s]`."""
    import librosa

    power = librosa.feature.melspectrogram(y=np.asarray(sound, np.float32), sr=22_050, n_mels=64)
    whole = power[:, : power.shape[1] // 4 * 4].reshape(64, -1, 4)
    return 10 * np.log10(whole.mean(axis=2) + 1e-10)
