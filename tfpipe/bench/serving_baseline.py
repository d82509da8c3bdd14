"""The baseline of `tfpipe bench serve`: a simple server that calls the model once for each request.

`python -m tfpipe.bench.serving_baseline MODEL_DIR` prints its port as one line of JSON and serves until it is stopped.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from numpy.typing import NDArray

from serving.protocol import protos, tensors
from serving.protocol.names import MAX_TENSOR_BYTES, PREDICTION_SERVICE, UNLIMITED
from tfpipe.errors import UsageError

# A method that computes nothing. The first eight bytes of a request say how long the answer is.
EMPTY = "/tfpipe.Bench/Empty"
_THREADS = 32


def newest_version(model_dir: Path) -> Path:
    """Returns the folder of the newest version.

    Raises:
        UsageError: the folder holds no version.
    """
    versions = [path for path in model_dir.glob("*") if path.name.isdecimal() and path.is_dir()]
    if not versions:
        raise UsageError(f"{model_dir}: holds no exported version; give the --output of `tfpipe export`")
    return max(versions, key=lambda path: int(path.name))


def run_signature(model: Any, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Calls a signature of a model that `tf.saved_model.load` returned, with arrays in and out."""
    outputs = model.signatures[signature](**{alias: tf.constant(array) for alias, array in inputs.items()})
    return {alias: tensor.numpy() for alias, tensor in outputs.items()}


def serve(model_dir: Path) -> None:
    """Serves the newest version on a free port until the process is stopped."""
    model = tf.saved_model.load(str(newest_version(model_dir)), tags=["serve"])

    def predict(request: Any, _: Any) -> Any:
        given = request.inputs.items()
        inputs = {alias: tensors.from_proto(proto, max_bytes=MAX_TENSOR_BYTES) for alias, proto in given}
        response = protos.PredictResponse()
        for alias, array in run_signature(model, request.model_spec.signature_name, inputs).items():
            tensors.write(response.outputs[alias], array)
        return response

    answers = functools.cache(bytes)
    handler = grpc.unary_unary_rpc_method_handler(
        predict,
        request_deserializer=protos.PredictRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    empty = grpc.unary_unary_rpc_method_handler(lambda request, _: answers(int.from_bytes(request[:8], "little")))
    _, bench_service, method = EMPTY.split("/")
    server = grpc.server(futures.ThreadPoolExecutor(_THREADS), options=UNLIMITED)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(PREDICTION_SERVICE, {"Predict": handler}),
            grpc.method_handlers_generic_handler(bench_service, {method: empty}),
        )
    )
    print(json.dumps({"port": server.add_insecure_port("127.0.0.1:0")}), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    serve(Path(sys.argv[1]))
