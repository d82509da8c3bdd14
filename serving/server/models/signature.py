"""One signature of a loaded model: checks a request's inputs and runs them, alone or in a batch with others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos, tensors
from serving.protocol.sizes import is_sized, row_bytes
from serving.protocol.status import Code, StatusError, from_runtime
from serving.server.admission import AdmissionQueue, Call
from serving.server.config import Limits
from serving.server.config_files import Batching
from serving.server.models.row_batches import Arrays, RowBatches, Run

_LOG = logging.getLogger(__name__)


class Signature:
    """One signature of a loaded model.

    Args:
        definition: the SignatureDef (a message of `protos`).
        run: runs the model on the inputs of one request.
        limits: how large requests may be.
        queue: admits requests that are not batched; all signatures of a server share it.
        batching: sizes of batches, and how many rows may wait; None turns batching off.
        own_batches: `batching` is this version's own, so the server must not form its batches.
        refusal: why the signature cannot be served; empty if it can.

    Attributes:
        definition: the SignatureDef.
        has_rows: every input and output has the batch as dimension 0.
        row_bytes: size of one row of the largest output in bytes; dimensions of unknown size count as 1.
        is_batched: requests may share batches.
        rows_fit: rows of different requests may be computed in one call and the bytes of the answer cut apart.
    """

    def __init__(
        self,
        definition: Any,
        run: Run,
        *,
        limits: Limits,
        queue: AdmissionQueue,
        batching: Batching | None = None,
        own_batches: bool = False,
        refusal: str = "",
    ) -> None:
        self.definition = definition
        self._refusal = refusal
        self._run, self._limits, self._queue = run, limits, queue
        self.has_rows = _has_rows(definition)
        self.row_bytes = max((row_bytes(info) for info in definition.outputs.values()), default=0)
        fixed = all(tensors.has_fixed_size(info.dtype) for info in definition.outputs.values())
        sized = all(map(is_sized, definition.outputs.values()))
        self._most_rows = limits.rows if sized else min(limits.rows, limits.open_rows)
        self.is_batched = batching is not None and not refusal and _is_batchable(definition)
        self.rows_fit = self.is_batched and fixed and not own_batches
        batching = batching or Batching()
        self._batch_rows, self._batch_sizes = batching.max_batch_size, batching.allowed_batch_sizes
        self._batches = RowBatches(self._run_batch, batching)
        # A request in a batch cannot be dropped when its client disconnects. So only the batches that compute and one
        # more are formed; all other requests wait in this queue.
        self._batch_queue = AdmissionQueue(
            capacity=(batching.num_batch_threads + 1) * batching.max_batch_size,
            max_waiting=batching.max_enqueued_batches * batching.max_batch_size,
        )

    def run(self, inputs: Arrays, call: Call) -> Arrays:
        """Runs the model on a request's inputs, in a batch with other requests if the signature allows it.

        Args:
            inputs: by alias.
            call: the request that is answered.

        Raises:
            StatusError: the inputs do not fit, a queue is full, the client has disconnected, or the model failed.
        """
        self.require_servable()
        self._check_types(inputs)
        sizes = {len(array) if array.ndim else 1 for array in inputs.values()}
        rows = max(sizes, default=0)
        if self.has_rows:
            self.check_rows(rows)
        # As in TensorFlow Serving, inputs of other shapes than the signature says go to the model as they are.
        if not self.has_rows or len(sizes) != 1 or not self._fits(inputs):
            return self._run_alone(inputs, call)
        if self.is_batched and 0 < rows < self._batch_rows and not call.alone:
            return self._run_in_batch(inputs, rows=rows, call=call)
        return self._run_in_steps(inputs, rows=rows, call=call)

    def run_rows(self, inputs: Arrays, call: Call) -> Arrays:
        """Runs the model on the rows of several requests at once, at most `max_batch_size` rows.

        Args:
            inputs: by alias, with the rows of all requests one after another.
            call: `runtime_s` of it is increased by the model's time.

        Raises:
            StatusError: the inputs do not fit, or the model failed. If the model does not return one row for each
                row it gets, `rows_fit` becomes False: cutting the answer apart would mix up the clients.
        """
        if not self.rows_fit:
            raise StatusError(Code.FAILED_PRECONDITION, "requests for this signature cannot share a batch")
        self._check_types(inputs)
        if not self._fits(inputs):
            raise StatusError(Code.FAILED_PRECONDITION, "the rows do not have the shape that the signature says")
        with call.timed():
            return self._run_batch(inputs)

    def require_servable(self) -> None:
        """Refuses a request for a signature that cannot be served.

        Raises:
            StatusError: UNIMPLEMENTED with the reason.
        """
        if self._refusal:
            raise StatusError(Code.UNIMPLEMENTED, self._refusal)

    def _run_batch(self, inputs: Arrays) -> Arrays:
        """Runs the model on the rows of a batch, which it pads to an allowed size."""
        rows = len(next(iter(inputs.values())))
        size = next((size for size in self._batch_sizes if size >= rows), rows)
        if size > rows:  # pad with copies of the last row
            inputs = {alias: np.concatenate([a, np.repeat(a[-1:], size - rows, axis=0)]) for alias, a in inputs.items()}
        outputs = _run_model(self._run, inputs)
        if any(array.shape[:1] != (size,) for array in outputs.values()):
            self.rows_fit = self.is_batched = False
            raise StatusError(Code.FAILED_PRECONDITION, "the model did not return one row for each row of the batch")
        return {alias: array[:rows] for alias, array in outputs.items()} if size > rows else outputs

    def check_rows(self, rows: int) -> None:
        """Refuses more rows than a request may have.

        Raises:
            StatusError: INVALID_ARGUMENT.
        """
        most = min(self._most_rows, self._limits.message_bytes // max(1, self.row_bytes))
        if rows > most:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"a batch of {rows} rows is larger than this server's {most}; split it"
            )

    def _run_alone(self, inputs: Arrays, call: Call) -> Arrays:
        with self._queue.slot(call), call.timed():
            return _run_model(self._run, inputs)

    def _run_in_steps(self, inputs: Arrays, *, rows: int, call: Call) -> Arrays:
        """Runs the model on a few rows at a time; on all at once if it does not return one row for each row."""
        step = self._limits.step_rows
        parts: list[Arrays] = []
        for start in range(0, rows, step) if rows > step else ():
            part = {alias: array[start : start + step] for alias, array in inputs.items()}
            parts.append(self._run_alone(part, call))
            if any(array.shape[:1] != (min(step, rows - start),) for array in parts[-1].values()):
                parts = []
                break
        if not parts:
            return self._run_alone(inputs, call)
        return {alias: np.concatenate([part[alias] for part in parts]) for alias in parts[0]}

    def _run_in_batch(self, inputs: Arrays, *, rows: int, call: Call) -> Arrays:
        try:
            with self._batch_queue.slot(call, rows), call.timed():
                outputs = self._batches.run(inputs, rows=rows)
            call.fits_others = self.rows_fit
            return outputs
        except StatusError as error:
            if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED):
                raise
        # One bad row fails its whole batch. Each request is run again alone, so that only the bad one fails.
        return self._run_alone(inputs, call)

    def _check_types(self, inputs: Arrays) -> None:
        for alias, array in inputs.items():
            info = self.definition.inputs[alias]
            wanted = tensors.dtype_of(info.dtype)
            if array.dtype != wanted:
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"Expects {alias} to be {_type_word(wanted)} but {_type_word(array.dtype)} is provided",
                )

    def _fits(self, inputs: Arrays) -> bool:
        """Tells whether all inputs have the shapes that the signature says."""
        infos = self.definition.inputs
        return all(_has_shape(array, infos[alias].tensor_shape) for alias, array in inputs.items())


def make_signature(
    name: str,
    session: Any,
    definition: Any,
    *,
    limits: Limits,
    queue: AdmissionQueue,
    batching: Batching | None,
    own_batches: bool = False,
) -> Signature:
    """Returns a signature of a TensorFlow session.

    A signature that cannot be served, for example because an input is a sparse tensor, refuses all requests. The
    other signatures of the model are not affected.

    Args:
        name: the signature's name.
        session: holds the model's graph.
        definition: the SignatureDef (a message of TensorFlow's own).
        limits: how large requests may be.
        queue: admits requests that are not batched.
        batching: sizes and times of batches; None turns batching off.
        own_batches: `batching` is this version's own.
    """
    ours = protos.SignatureDef.FromString(definition.SerializeToString())
    refusal = ""
    run: Run = _nothing
    try:
        run = _runner(session, definition)
    except Exception as error:  # TensorFlow raises many types for a tensor that is not there
        refusal = f'Serving signature "{name}" cannot be served: {" ".join(str(error).split())}'
        _LOG.warning("%s", refusal)
    return Signature(ours, run, limits=limits, queue=queue, batching=batching, own_batches=own_batches, refusal=refusal)


def _nothing(inputs: Arrays) -> Arrays:
    """Stands for the model of a signature that cannot be served."""
    return {}


def _tensor(session: Any, alias: str, info: Any) -> Any:
    """Returns the tensor that an input or output stands for.

    Raises:
        Exception: it is sparse or ragged, of a type that this server does not know, or not in the graph.
    """
    encoding = info.WhichOneof("encoding")
    if encoding not in ("name", None):
        raise tensors.TensorError(f"{alias} is a {encoding.replace('_', ' ')}, not a plain tensor")
    try:
        tensors.dtype_of(info.dtype)
    except tensors.TensorError as error:
        raise tensors.TensorError(f"{alias}: {error}") from error
    return session.graph.get_tensor_by_name(info.name)


def _runner(session: Any, definition: Any) -> Run:
    from tensorflow.core.protobuf import config_pb2

    feeds = {alias: _tensor(session, alias, info) for alias, info in definition.inputs.items()}
    fetches = {alias: _tensor(session, alias, info) for alias, info in definition.outputs.items()}
    aliases, names = list(feeds), list(fetches)
    options = config_pb2.CallableOptions(
        feed=[tensor.name for tensor in feeds.values()], fetch=[tensor.name for tensor in fetches.values()]
    )
    # The public `make_callable` looks up feeds and fetches in the graph at every call, under a lock. That took a
    # third of all the time for which a busy server held the interpreter.
    run = session._make_callable_from_options(options)
    return lambda inputs: dict(zip(names, map(_as_array, run(*(inputs[alias] for alias in aliases))), strict=True))


def _as_array(value: Any) -> NDArray[Any]:
    """Returns what TensorFlow answers as an array; a string without dimensions comes as bytes."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, object if isinstance(value, bytes) else None)


def _run_model(run: Run, inputs: Arrays) -> Arrays:
    try:
        return run(inputs)
    except Exception as error:  # no error of a graph may end the server
        if not hasattr(error, "error_code"):
            _LOG.exception("the model failed")
        raise from_runtime(error) from error


def check_aliases(wanted: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    """Refuses a request whose inputs are not those of the signature.

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


def select_outputs(outputs: Mapping[str, Any], output_filter: Sequence[str]) -> list[str]:
    """Returns the aliases that a request's `output_filter` asks for; an empty filter means all, sorted.

    Raises:
        StatusError: INVALID_ARGUMENT for an unknown alias, or one that is named twice.
    """
    selected: list[str] = []
    for alias in output_filter:
        if alias not in outputs:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{','.join(sorted(outputs))}}}.",
            )
        if alias in selected:
            raise StatusError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        selected.append(alias)
    return selected or sorted(outputs)


def _has_rows(definition: Any) -> bool:
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    return all(info.tensor_shape.dim and info.tensor_shape.dim[0].size == -1 for info in infos)


def _is_batchable(definition: Any) -> bool:
    """Tells whether rows of different requests always have the same shape: only the number of rows is open."""
    dims = [dim for info in definition.inputs.values() for dim in info.tensor_shape.dim[1:]]
    return bool(definition.inputs) and _has_rows(definition) and all(dim.size >= 0 for dim in dims)


def _has_shape(array: NDArray[Any], shape: Any) -> bool:
    if shape.unknown_rank:
        return True
    return array.ndim == len(shape.dim) and all(
        dim.size in (-1, n) for n, dim in zip(array.shape, shape.dim, strict=True)
    )


def _type_word(dtype: np.dtype[Any]) -> str:
    words = {"float16": "half", "float32": "float", "float64": "double", "object": "string"}
    return words.get(dtype.name, dtype.name)
