"""SavedModels in memory: loading, and running requests, several in one batch.

Each version is a TensorFlow session of its own, as in TensorFlow Serving: closing
it gives back all that it held, the threads of its batch queues included. Needs
TensorFlow (imported when the first model is loaded, so that a taken port is
reported at once). Nothing here knows the tfpipe model: any SavedModel with
signatures is served.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos, tensors, wire
from serving.protocol.status import Code, StatusError, from_runtime
from serving.server.admission import Call, Line
from serving.server.config_files import Batching
from tfpipe.data.records import read_records
from tfpipe.errors import TfpipeError

_LOG = logging.getLogger(__name__)

DEFAULT_SIGNATURE = "serving_default"
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MAX_WARMUPS = 1000
_STRING = 7  # DT_STRING
# Operations that call a function, and those that compute nothing.
_CALLS = ("StatefulPartitionedCall", "PartitionedCall")
_INERT = ("Placeholder", "Const", "Identity", "NoOp", "VarHandleOp", "ReadVariableOp")

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What requests may ask for.

    Attributes:
        message_bytes: largest gRPC message, and largest tensor in a request or an answer, in bytes.
        json_bytes: largest REST body, in bytes.
        rows: largest batch of one request.
        step_rows: rows of an unbatched request that go through the model at a time.
        running: unbatched requests that compute at the same time.
        in_hand: requests that compute or wait, of each of gRPC and REST; more are refused.
    """

    message_bytes: int = 128 << 20
    json_bytes: int = 32 << 20
    rows: int = 1024
    step_rows: int = 64
    running: int = 2
    in_hand: int = 128


class Signature:
    """One signature of a loaded model.

    Args:
        definition: its SignatureDef (ours, see `protos`).
        alone: runs the model on one request's inputs.
        batched: runs it on the inputs of one request together with those of others; None where that cannot be.
        batching: how large batches are and how many may wait.

    Attributes:
        definition: its SignatureDef.
        has_rows: every input and output has the batch as dimension 0.
        row_bytes: size of a row of its largest output, as far as the shape tells, in bytes.
        rows_fit: rows of different requests can be computed together, and their answers be cut apart as bytes.
    """

    def __init__(
        self, definition: Any, alone: Run, *, batched: Run | None = None, batching: Batching | None = None
    ) -> None:
        self.definition = definition
        self._alone, self._batched = alone, batched
        self.has_rows = _has_rows(definition)
        self.row_bytes = max((_row_bytes(info) for info in definition.outputs.values()), default=0)
        self.rows_fit = batched is not None and all(info.dtype != _STRING for info in definition.outputs.values())
        batching = batching or Batching()
        self._batch_rows, self._batch_sizes = batching.max_batch_size, batching.allowed_batch_sizes
        # Requests wait here, where they can still leave, and not in the batch op: it takes what computes and one more.
        self._line = Line(
            inside=(batching.num_batch_threads + 1) * batching.max_batch_size,
            waiting=batching.max_enqueued_batches * batching.max_batch_size,
        )

    def run(self, inputs: Arrays, *, limits: Limits, turns: Line, call: Call) -> Arrays:
        """Runs the model on a request's inputs, together with other requests where that can be.

        Args:
            inputs: by alias.
            limits: what a request may ask for.
            turns: the line of all that is not batched.
            call: who waits for it.

        Raises:
            StatusError: the inputs do not fit, too much waits, nobody waits any more, or the model failed.
        """
        self._check(inputs, limits)
        rows = {len(array) for array in inputs.values()} if self.has_rows else {1}
        if len(rows) != 1:
            raise StatusError(Code.INVALID_ARGUMENT, f"the inputs differ in batch size: {sorted(rows)}")
        total = rows.pop()
        if self._batched is not None and 0 < total < self._batch_rows and not call.alone:
            return self._in_batch(self._batched, inputs, rows=total, turns=turns, call=call)
        parts: list[Arrays] = []
        for at in range(0, max(total, 1), limits.step_rows):
            step = (
                inputs if total <= limits.step_rows else {k: v[at : at + limits.step_rows] for k, v in inputs.items()}
            )
            with turns.turn(call), call.timed():
                parts.append(_run(self._alone, step))
        return parts[0] if len(parts) == 1 else {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    def run_together(self, inputs: Arrays, *, call: Call) -> Arrays:
        """Runs the model on the rows of several requests, as one batch of at most `max_batch_size`.

        Args:
            inputs: by alias.
            call: is told the model's time.

        Raises:
            StatusError: the inputs do not fit, or the model failed; `rows_fit` says whether another batch may do.
        """
        if not self.rows_fit:
            raise StatusError(Code.FAILED_PRECONDITION, "rows of different requests do not fit together")
        self._check_types(inputs)
        rows = len(next(iter(inputs.values())))
        size = next((size for size in self._batch_sizes if size >= rows), rows)
        if size > rows:
            inputs = {alias: np.concatenate([a, np.repeat(a[-1:], size - rows, axis=0)]) for alias, a in inputs.items()}
        with call.timed():
            outputs = _run(self._alone, inputs)
        if any(array.shape[:1] != (size,) for array in outputs.values()):
            # Cut apart, they would hand one client's rows to another.
            self.rows_fit = False
            raise StatusError(Code.FAILED_PRECONDITION, "the model answers with other rows than it was asked for")
        return {alias: array[:rows] for alias, array in outputs.items()} if size > rows else outputs

    def warm_up(self, inputs: Arrays) -> None:
        """Runs the model unbatched: a way that a later request may take for the first time."""
        _run(self._alone, inputs)

    def _in_batch(self, batched: Run, inputs: Arrays, *, rows: int, turns: Line, call: Call) -> Arrays:
        try:
            with self._line.turn(call, rows), call.timed():
                outputs = _run(batched, inputs)
            call.fits_others = self.rows_fit
            return outputs
        except StatusError as error:
            if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED):
                raise
        # One bad row fails its whole batch: alone, only its own client hears of it.
        with turns.turn(call), call.timed():
            return _run(self._alone, inputs)

    def _check(self, inputs: Arrays, limits: Limits) -> None:
        self._check_types(inputs)
        if self.has_rows:
            self.check_rows(max((len(array) for array in inputs.values()), default=0), limits)

    def check_rows(self, rows: int, limits: Limits) -> None:
        """Refuses more rows than a request may have.

        Raises:
            StatusError: INVALID_ARGUMENT.
        """
        most = min(limits.rows, limits.message_bytes // max(1, self.row_bytes))
        if rows > most:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"a batch of {rows} rows is larger than this server's {most}; split it"
            )

    def _check_types(self, inputs: Arrays) -> None:
        for alias, array in inputs.items():
            info = self.definition.inputs[alias]
            wanted = tensors.dtype_of(info.dtype)
            if array.dtype != wanted:
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"Expects {alias} to be {_type_word(wanted)} but {_type_word(array.dtype)} is provided",
                )
            sizes = None if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim]
            if sizes is not None and not _fits(array.shape, sizes):
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"Expects {alias} of shape {sizes} (-1 is any) but {list(array.shape)} is provided",
                )


@dataclass(frozen=True, kw_only=True)
class Together:
    """Answers to requests that were computed together, as parts of PredictResponses.

    Attributes:
        rest: what stands in each answer besides its outputs.
        heads: by number of rows of a request, what stands before the rows of each output.
        arrays: the bytes of each output, with the rows of all requests one after another.
    """

    rest: bytes
    heads: dict[int, list[bytes]]
    arrays: list[memoryview]


class LoadedModel:
    """One version, ready to answer.

    Args:
        version: its number.
        signatures: by name.
        limits: what a request may ask for.
        turns: the line of requests that are not batched.
        close: gives back what the version holds.
    """

    def __init__(
        self,
        *,
        version: int,
        signatures: dict[str, Signature],
        limits: Limits,
        turns: Line,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.version = version
        self.signatures = signatures
        self.close = close
        self._limits, self._turns = limits, turns

    @classmethod
    def load(
        cls, path: Path, *, version: int, limits: Limits, turns: Line, batching: Batching | None, warmup: bool = True
    ) -> LoadedModel:
        """Loads a SavedModel with the tag `serve` and, unless told not to, runs its warm-up requests.

        Args:
            path: the version's folder.
            version: its number.
            limits: what a request may ask for.
            turns: the line of requests that are not batched.
            batching: how requests are put together; None is not at all.
            warmup: run the warm-up requests.

        Raises:
            StatusError: with the reason, when it cannot be loaded or a warm-up request fails.
        """
        import tensorflow as tf

        _require_complete(path)
        session = tf.compat.v1.Session(graph=tf.Graph(), config=_session_config(path))
        try:
            with session.graph.as_default():
                with _quiet():
                    graph = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
                signatures = {
                    name: _signature(session, name, definition, batching=batching, where=f"{path}@{version}")
                    for name, definition in graph.signature_def.items()
                    if not name.startswith("__")
                }
            model = cls(version=version, signatures=signatures, limits=limits, turns=turns, close=session.close)
            if warmup:
                model._warm_up(path / WARMUP_FILE)
        except StatusError:
            session.close()
            raise
        except Exception as error:  # TensorFlow raises many kinds for a damaged model
            session.close()
            raise StatusError(Code.DATA_LOSS, f"{path}: cannot be loaded ({_first_line(error)})") from error
        return model

    def predict(self, request: wire.Predict, call: Call) -> list[wire.Buffer]:
        """Returns the bytes, in parts, of the PredictResponse to a request whose model spec leads to this version.

        The order of the checks is TensorFlow Serving's (servables/tensorflow/predict_util.cc).

        Raises:
            StatusError: the request does not fit the model, or the model failed.
        """
        signature = self._signature(request)
        inputs = self._inputs(signature, request)
        wanted = _filtered(signature.definition.outputs, request.message.output_filter)
        outputs = self.run(signature, inputs, call)
        return tensors.serialised(self._response(request), {alias: outputs[alias] for alias in wanted})

    def predict_together(
        self, request: wire.Predict, contents: Mapping[str, Any], *, rows: Sequence[int], call: Call
    ) -> Together:
        """Answers requests that differ in nothing but their rows.

        Args:
            request: the first of them, which stands for all.
            contents: by alias, the bytes of the rows of all of them.
            rows: how many each of them has.
            call: is told the model's time.

        Raises:
            StatusError: they do not fit the model, or the model failed on one of the rows.
        """
        signature = self._signature(request)
        signature.check_rows(max(rows), self._limits)
        first = self._inputs(signature, request)
        wanted = _filtered(signature.definition.outputs, request.message.output_filter)
        inputs = {
            alias: np.frombuffer(contents[alias], array.dtype).reshape(sum(rows), *array.shape[1:])
            for alias, array in first.items()
        }
        outputs = signature.run_together(inputs, call=call)
        return Together(
            rest=self._response(request).SerializeToString(),
            heads={n: [tensors.head(alias, outputs[alias], rows=n) for alias in wanted] for n in set(rows)},
            arrays=[tensors.content(outputs[alias]) for alias in wanted],
        )

    def _signature(self, request: wire.Predict) -> Signature:
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(name)
        if signature is None:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return signature

    def _response(self, request: wire.Predict) -> Any:
        """Returns the PredictResponse without its outputs."""
        response = protos.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        response.model_spec.version.value = self.version
        return response

    def run(self, signature: Signature, inputs: Arrays, call: Call) -> Arrays:
        """Runs one of the signatures; see `Signature.run`."""
        return signature.run(inputs, limits=self._limits, turns=self._turns, call=call)

    def _inputs(self, signature: Signature, request: wire.Predict) -> Arrays:
        protos_by_alias = request.message.inputs
        check_aliases(signature.definition.inputs, protos_by_alias)
        return {alias: self._tensor(alias, proto, request) for alias, proto in protos_by_alias.items()}

    def _tensor(self, alias: str, proto: Any, request: wire.Predict) -> NDArray[Any]:
        try:
            return tensors.from_proto(proto, max_bytes=self._limits.message_bytes, content=request.contents.get(alias))
        except tensors.TensorError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}: {error}") from error

    def _warm_up(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            for number, record in enumerate(read_records(path)):
                if number >= _MAX_WARMUPS:
                    raise StatusError(Code.INVALID_ARGUMENT, f"{path}: more than {_MAX_WARMUPS} warm-up requests")
                request = wire.Predict(protos.PredictionLog.FromString(record).predict_log.request)
                self.predict(request, Call())
                signature = self.signatures[request.model_spec.signature_name or DEFAULT_SIGNATURE]
                signature.warm_up(self._inputs(signature, request))
        except (TfpipeError, ValueError, OSError) as error:
            raise StatusError(Code.DATA_LOSS, f"{path}: damaged warm-up file ({error})") from error
        except StatusError as error:
            raise StatusError(error.code, f"{path}: a warm-up request failed ({error.message})") from error


def _require_complete(path: Path) -> None:
    """Refuses a folder that is still being copied: TensorFlow would load it without its variables.

    Raises:
        StatusError: NOT_FOUND.
    """
    for name in ("saved_model.pb", "variables/variables.index"):
        if not (path / name).is_file():
            raise StatusError(Code.NOT_FOUND, f"{path}: holds no complete SavedModel ({name} is missing)")


def _session_config(path: Path) -> Any:
    """Returns how a model's session is to be made.

    For each way into a graph, a session optimises all of it anew, with the functions that it does not call: most
    of the time that a model took to load. A graph that does nothing but call functions does without, since they
    are optimised when they are first called.
    """
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    config.graph_options.rewrite_options.disable_meta_optimizer = _only_calls_functions(path / "saved_model.pb")
    return config


def _only_calls_functions(path: Path) -> bool:
    """Tells whether all that the graph of a SavedModel computes is in functions that bring their own settings."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (DecodeError, OSError):
        return False  # the loader has better words for it
    nodes = [
        node for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags for node in graph.graph_def.node
    ]
    return all(node.op in _INERT or (node.op in _CALLS and node.attr["config_proto"].s) for node in nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from the server's log what TensorFlow has to say of its older loader, which serving needs."""
    log = logging.getLogger("tensorflow")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _signature(session: Any, name: str, definition: Any, *, batching: Batching | None, where: str) -> Signature:
    """Makes a signature of a session: the way of a request alone, and the way of many in one batch."""
    graph = session.graph
    feeds = {alias: graph.get_tensor_by_name(info.name) for alias, info in definition.inputs.items()}
    fetches = {alias: graph.get_tensor_by_name(info.name) for alias, info in definition.outputs.items()}
    ours = protos.SignatureDef.FromString(definition.SerializeToString())
    alone = _runner(session, feeds, fetches)
    if batching is None or not _is_batchable(ours):
        return Signature(ours, alone)
    outputs = _batch_op(feeds, fetches, batching=batching, name=f"{where}/{name}")
    if outputs is None:
        return Signature(ours, alone)
    return Signature(ours, alone, batched=_runner(session, feeds, outputs), batching=batching)


def _batch_op(
    feeds: Mapping[str, Any], fetches: Mapping[str, Any], *, batching: Batching, name: str
) -> dict[str, Any] | None:
    """Puts TensorFlow's batch op around the function that a signature calls.

    Args:
        feeds: inputs by alias.
        fetches: outputs by alias.
        batching: sizes and times.
        name: of the queue; queues of the same name share their function, so it names version and signature.

    Returns:
        The outputs by alias, or None where the signature is not one call of a function (TensorFlow 1 models).
    """
    import tensorflow as tf

    calls = {tensor.op.name: tensor.op for tensor in fetches.values()}
    [function] = calls.values() if len(calls) == 1 else [None]
    if function is None or function.type not in _CALLS:
        return None
    rows = {tensor.name for tensor in feeds.values()}
    given = [tensor for tensor in function.inputs if tensor.name in rows]
    if [tensor.name for tensor in function.inputs[: len(given)]] != [tensor.name for tensor in given]:
        return None
    outputs = tf.raw_ops.BatchFunction(
        in_tensors=given,
        captured_tensors=list(function.inputs[len(given) :]),
        f=function.get_attr("f"),
        Tout=[tensor.dtype for tensor in function.outputs],
        num_batch_threads=batching.num_batch_threads,
        max_batch_size=batching.max_batch_size,
        batch_timeout_micros=batching.batch_timeout_micros,
        allowed_batch_sizes=list(batching.allowed_batch_sizes),
        # Never full: `Signature` lets no more rows in than this.
        max_enqueued_batches=(batching.num_batch_threads + 1) * batching.max_batch_size,
        shared_name=name,
        enable_large_batch_splitting=True,
    )
    return {alias: outputs[tensor.value_index] for alias, tensor in fetches.items()}


def _runner(session: Any, feeds: Mapping[str, Any], fetches: Mapping[str, Any]) -> Run:
    from tensorflow.core.protobuf import config_pb2

    aliases, names = list(feeds), list(fetches)
    options = config_pb2.CallableOptions(
        feed=[tensor.name for tensor in feeds.values()], fetch=[tensor.name for tensor in fetches.values()]
    )
    # The public `make_callable` looks up feeds and fetches in the graph, under a lock, at every call: a third of
    # all the time that a busy server held the interpreter.
    run = session._make_callable_from_options(options)
    return lambda inputs: dict(zip(names, run(*(inputs[alias] for alias in aliases)), strict=True))


def _run(run: Run, inputs: Arrays) -> Arrays:
    try:
        return run(inputs)
    except Exception as error:  # whatever the graph raises must not end the server
        if not hasattr(error, "error_code"):
            _LOG.exception("the model failed")
        raise from_runtime(error) from error


def _has_rows(definition: Any) -> bool:
    """Tells whether every input and output has the batch as dimension 0."""
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    return all(info.tensor_shape.dim and info.tensor_shape.dim[0].size == -1 for info in infos)


def _row_bytes(info: Any) -> int:
    """Returns the size of one row of an output, as far as its shape tells."""
    sizes = [max(1, dim.size) for dim in info.tensor_shape.dim[1:]]
    return math.prod(sizes) * tensors.dtype_of(info.dtype).itemsize


def _is_batchable(definition: Any) -> bool:
    """Tells whether rows of different requests always fit together: only their number is open."""
    dims = [dim for info in definition.inputs.values() for dim in info.tensor_shape.dim[1:]]
    return bool(definition.inputs) and _has_rows(definition) and all(dim.size >= 0 for dim in dims)


def check_aliases(wanted: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    """Refuses a request whose inputs are not the signature's.

    Raises:
        StatusError: INVALID_ARGUMENT with both sets of names.
    """
    if set(wanted) == set(sent):
        return
    ours, theirs = sorted(wanted), sorted(sent)
    raise StatusError(
        Code.INVALID_ARGUMENT,
        f"input size does not match signature: {len(theirs)}!={len(ours)} "
        f"len({{{','.join(theirs)}}}) != len({{{','.join(ours)}}}). "
        f"Sent extra: {{{','.join(sorted(set(theirs) - set(ours)))}}}. "
        f"Missing but required: {{{','.join(sorted(set(ours) - set(theirs)))}}}.",
    )


def _filtered(outputs: Mapping[str, Any], output_filter: Sequence[str]) -> list[str]:
    seen: list[str] = []
    for alias in output_filter:
        if alias not in outputs:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{','.join(sorted(outputs))}}}.",
            )
        if alias in seen:
            raise StatusError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(outputs)


def _fits(shape: tuple[int, ...], sizes: list[int]) -> bool:
    return len(shape) == len(sizes) and all(b in (-1, a) for a, b in zip(shape, sizes, strict=True))


def _type_word(dtype: np.dtype[Any]) -> str:
    words = {"float32": "float", "float64": "double", "object": "string"}
    return words.get(dtype.name, dtype.name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
