"""One version of a model in memory: loading a SavedModel, warming it up, and answering Predict requests.

Each version has a TensorFlow session of its own, as in TensorFlow Serving, so
closing the session frees all that the version holds. TensorFlow is imported when the first model is loaded, so that a
taken port is reported at once. Nothing here depends on tfpipe's own model: any
SavedModel with signatures is served.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos, tensors, wire
from serving.protocol.names import DEFAULT_SIGNATURE, WARMUP_FILE
from serving.protocol.status import Code, StatusError, reason_of
from serving.server.admission import AdmissionQueue, Call
from serving.server.config import Limits, ModelConfig
from serving.server.config_files import Batching, batching_of
from serving.server.models import examples
from serving.server.models.model_files import Folder, import_tensorflow, local_copy, read, read_graph
from serving.server.models.row_batches import Arrays
from serving.server.models.signature import Signature, check_aliases, make_signature, select_outputs
from tfpipe.data.records import read_records
from tfpipe.errors import ServingError, TfpipeError

_MAX_WARMUPS = 1000
# Each thread may hold the memory of a full batch.
_MOST_WARMUP_THREADS = 4
# Types of the graph operations that call a function.
_CALL_OPS = ("StatefulPartitionedCall", "PartitionedCall")
# Types of the graph operations that compute nothing.
_INERT_OPS = ("Placeholder", "Const", "Identity", "NoOp", "VarHandleOp", "ReadVariableOp")
# In a version's folder: its own sizes and times of batches.
_BATCHING_FILE = "batching_params.pbtxt"


@dataclass(frozen=True, kw_only=True)
class BatchAnswer:
    """The answers to requests that were computed in one batch, as parts of PredictResponses.

    Attributes:
        rest: bytes of each answer besides its outputs.
        heads: by a request's number of rows, the bytes before the rows of each output.
        arrays: the bytes of each output, with the rows of all requests one after another.
    """

    rest: bytes
    heads: dict[int, list[bytes]]
    arrays: list[memoryview]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A Predict request that was read, whatever its format is.

    Attributes:
        signature: what to run.
        inputs: by alias.
        write: returns the bytes of the answer with these outputs, as parts to be sent one after another.
    """

    signature: Signature
    inputs: Arrays
    write: Callable[[Arrays], list[wire.Buffer]]

    def answer(self, call: Call) -> list[wire.Buffer]:
        """Runs the signature and returns the bytes of the answer.

        Raises:
            StatusError: as `Signature.run` and `write`.
        """
        return self.write(self.signature.run(self.inputs, call))


class LoadedModel:
    """One version, ready to answer.

    Args:
        version: its number.
        signatures: by name.
        limits: how large requests may be.
        close: frees all that the version holds.
    """

    def __init__(
        self,
        *,
        version: int,
        signatures: dict[str, Signature],
        limits: Limits,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.version = version
        self.signatures = signatures
        self.close = close
        self._limits = limits

    @classmethod
    def load(
        cls,
        path: Folder,
        *,
        version: int,
        limits: Limits,
        queue: AdmissionQueue,
        batching: Batching | None,
        how: ModelConfig,
    ) -> LoadedModel:
        """Loads a SavedModel and runs its warm-up requests.

        Args:
            path: the version's folder.
            version: its number.
            limits: how large requests may be.
            queue: admits requests that are not batched.
            batching: sizes and times of batches; None turns batching off.
            how: which graph to load, its threads, and which warm-up requests to run.

        Raises:
            StatusError: the model cannot be loaded, or a warm-up request fails.
        """
        tf = import_tensorflow()
        own_batches = how.enable_per_model_batching_parameters and batching is not None
        batching = _own_batching(path) if own_batches else batching
        definition = read_graph(path, how.saved_model_tags)
        session = tf.compat.v1.Session(graph=tf.Graph(), config=_session_config(definition, how))
        try:
            with session.graph.as_default():
                with _tensorflow_errors_only():
                    graph = tf.compat.v1.saved_model.load(session, list(how.saved_model_tags), str(path))
                settings: dict[str, Any] = {"limits": limits, "queue": queue, "batching": batching}
                signatures = {
                    name: make_signature(name, session, definition, **settings, own_batches=own_batches)
                    for name, definition in graph.signature_def.items()
                    if not name.startswith("__")
                }
            model = cls(version=version, signatures=signatures, limits=limits, close=session.close)
            if how.enable_model_warmup:
                with local_copy(path, WARMUP_FILE) as file:
                    model._warm_up(file, times=max(1, how.num_request_iterations_for_warmup))
        except StatusError:
            session.close()
            raise
        except Exception as error:  # TensorFlow raises many types for a damaged model
            session.close()
            raise StatusError(Code.DATA_LOSS, f"{path}: cannot be loaded ({reason_of(error)})") from error
        return model

    def query(self, request: wire.Predict, *, typed: bool = True) -> Query:
        """Reads a PredictRequest; its answer is a PredictResponse.

        Args:
            request: the request.
            typed: answer in typed fields instead of `tensor_content`.

        Raises:
            StatusError: the request does not fit the model.
        """
        signature, inputs, selected = self._read(request)

        def write(outputs: Arrays) -> list[wire.Buffer]:
            chosen = {alias: outputs[alias] for alias in selected}
            return tensors.response_parts(self._empty_response(request), chosen, typed=typed)

        return Query(signature=signature, inputs=inputs, write=write)

    def predict_batch(
        self, request: wire.Predict, contents: Mapping[str, Any], *, rows: Sequence[int], call: Call, typed: bool
    ) -> BatchAnswer:
        """Answers several requests that differ only in their rows, with one run of the model.

        Args:
            request: the first of them; the others have the same model, signature, filter, types and row shapes.
            contents: by alias, the bytes of the rows of all requests one after another.
            rows: the number of rows of each request.
            call: `runtime_s` of it is increased by the model's time.
            typed: answer in typed fields instead of `tensor_content`.

        Raises:
            StatusError: the requests do not fit the model, or the model failed on one of the rows.
        """
        signature, first, selected = self._read(request)
        signature.check_rows(max(rows))
        inputs = {
            alias: np.frombuffer(contents[alias], array.dtype).reshape(sum(rows), *array.shape[1:])
            for alias, array in first.items()
        }
        outputs = signature.run_rows(inputs, call)
        return BatchAnswer(
            rest=self._empty_response(request).SerializeToString(),
            heads={
                n: [tensors.head(alias, outputs[alias], rows=n, typed=typed) for alias in selected] for n in set(rows)
            },
            arrays=[tensors.content(outputs[alias]) for alias in selected],
        )

    def _read(self, request: wire.Predict) -> tuple[Signature, Arrays, list[str]]:
        """Returns the signature, the inputs, and the aliases of the outputs that a request asks for.

        The checks come in TensorFlow Serving's order (servables/tensorflow/predict_util.cc).
        """
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(name)
        if signature is None:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        signature.require_servable()
        sent = request.message.inputs
        check_aliases(signature.definition.inputs, sent)
        inputs = {alias: self._tensor(alias, proto, request) for alias, proto in sent.items()}
        return signature, inputs, select_outputs(signature.definition.outputs, request.message.output_filter)

    def _empty_response(self, request: wire.Predict) -> Any:
        """Returns the PredictResponse without its outputs."""
        response = protos.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        response.model_spec.version.value = self.version
        return response

    def _tensor(self, alias: str, proto: Any, request: wire.Predict) -> NDArray[Any]:
        try:
            return tensors.from_proto(proto, max_bytes=self._limits.message_bytes, numbers=request.contents.get(alias))
        except tensors.TensorError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}: {error}") from error

    def _warm_up(self, path: Path, *, times: int) -> None:
        """Runs each warm-up request of a file `times` times, several requests in parallel.

        Most of a first run is TensorFlow's optimiser, which uses one core: with two threads on two cores, a model of
        `tfpipe export` warms up in 60 % of the time.
        """
        if not path.exists():
            return
        requests, lock = self._warmups(path), threading.Lock()

        def run() -> None:
            while True:
                with lock:
                    log = next(requests, None)
                if log is None:
                    return
                try:
                    for _ in range(times):
                        self._repeat(log)
                except BaseException:
                    with lock:
                        requests.close()  # the other threads end after their request
                    raise

        threads = min(_MOST_WARMUP_THREADS, len(os.sched_getaffinity(0)))
        try:
            with ThreadPoolExecutor(threads, thread_name_prefix="warm-up") as pool:
                for done in [pool.submit(run) for _ in range(threads)]:
                    done.result()
        except (TfpipeError, ValueError, OSError) as error:
            raise StatusError(Code.DATA_LOSS, f"{path}: damaged warm-up file ({error})") from error
        except StatusError as error:
            raise StatusError(error.code, f"{path}: a warm-up request failed ({error.message})") from error

    def _warmups(self, path: Path) -> Generator[Any, None, None]:
        """Yields the requests of a warm-up file as messages `PredictionLog`."""
        for number, record in enumerate(read_records(path, max_bytes=self._limits.message_bytes)):
            if number >= _MAX_WARMUPS:
                raise StatusError(Code.INVALID_ARGUMENT, f"more than {_MAX_WARMUPS} warm-up requests")
            yield protos.PredictionLog.FromString(record)

    def _repeat(self, log: Any) -> None:
        """Answers the request that a PredictionLog holds."""
        kind = log.WhichOneof("log_type")
        if kind == "predict_log":
            self.query(wire.Predict(log.predict_log.request)).answer(Call())
            return
        answers = {
            "classify_log": examples.classify,
            "regress_log": examples.regress,
            "multi_inference_log": examples.infer,
        }
        if kind not in answers:
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
        answers[kind](self, getattr(log, kind).request, Call())


def _own_batching(path: Folder) -> Batching | None:
    """Returns the batching of a version that has a file for it; the others are not batched, as in TensorFlow Serving.

    Raises:
        StatusError: INVALID_ARGUMENT; the file is wrong.
    """
    from google.protobuf import text_format

    try:
        text = read(path, _BATCHING_FILE)
        if text is None:
            return None
        return batching_of(text_format.Parse(text, protos.BatchingParameters()), f"{path}/{_BATCHING_FILE}")
    except (ServingError, text_format.ParseError, UnicodeDecodeError, OSError) as error:
        message = " ".join(str(error).split())
        raise StatusError(Code.INVALID_ARGUMENT, f"{path}/{_BATCHING_FILE}: {message}") from error


def _session_config(graph: Any, how: ModelConfig) -> Any:
    """Returns the ConfigProto of a model's session.

    A session optimises the whole graph again for each signature, including functions that the signature does not
    call; that was most of the time for loading a model. A graph that only calls functions does not need it,
    because functions are optimised on their first call, so the optimiser is turned off for such a graph.

    Args:
        graph: the MetaGraphDef, or None if it could not be read.
        how: says how many threads the session has.
    """
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    config.graph_options.rewrite_options.disable_meta_optimizer = graph is not None and _only_calls_functions(graph)
    config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = how.threads
    return config


def _only_calls_functions(graph: Any) -> bool:
    """Tells whether a MetaGraphDef computes everything in functions that have their own optimiser settings."""
    nodes = graph.graph_def.node
    return all(node.op in _INERT_OPS or (node.op in _CALL_OPS and node.attr["config_proto"].s) for node in nodes)


@contextlib.contextmanager
def _tensorflow_errors_only() -> Iterator[None]:
    """Hides TensorFlow's warning that its older loader, which serving needs, is deprecated."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
