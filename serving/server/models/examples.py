"""Classify, Regress and MultiInference: calls that send `tf.Example` messages to signatures that parse them.

The checks, their order and their words are TensorFlow Serving's (`servables/tensorflow/classifier.cc`, `regressor.cc`
and `multi_inference.cc`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos
from serving.protocol.names import CLASSIFY, DEFAULT_SIGNATURE, REGRESS
from serving.protocol.status import Code, StatusError, refused
from serving.server.admission import Call
from serving.server.models.signature import Signature

if TYPE_CHECKING:
    from serving.server.models.loaded_model import LoadedModel

# The alias of the only input, and the aliases of the outputs.
_INPUTS, _CLASSES, _SCORES, _OUTPUTS = "inputs", "classes", "scores", "outputs"


def classify(model: LoadedModel, request: Any, call: Call) -> Any:
    """Returns the ClassificationResponse to a ClassificationRequest.

    Raises:
        StatusError: the signature or its answer is not one of classification, or the model failed.
    """
    response = protos.ClassificationResponse()
    _answer(model, request.model_spec, CLASSIFY, request.input, response.result, call)
    _name(response.model_spec, request.model_spec, model)
    return response


def regress(model: LoadedModel, request: Any, call: Call) -> Any:
    """Returns the RegressionResponse to a RegressionRequest.

    Raises:
        StatusError: the signature or its answer is not one of regression, or the model failed.
    """
    response = protos.RegressionResponse()
    _answer(model, request.model_spec, REGRESS, request.input, response.result, call)
    _name(response.model_spec, request.model_spec, model)
    return response


def infer(model: LoadedModel, request: Any, call: Call) -> Any:
    """Returns the MultiInferenceResponse to a MultiInferenceRequest; its tasks run one after another.

    Raises:
        StatusError: the tasks do not belong together, or one of them fails.
    """
    response, inputs = protos.MultiInferenceResponse(), set()
    names: set[str] = set()
    for task in request.tasks:
        name = _signature_name(task.model_spec)
        if not task.model_spec.name:
            raise refused("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise refused("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if name in names:
            raise refused(f"Duplicate evaluation of signature: {name}")
        names.add(name)
        if name not in model.signatures:
            raise refused(f"Requested signature not found in model graph: {name}")
        if task.method_name not in (CLASSIFY, REGRESS):
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        signature = _signature(model, task.model_spec, task.method_name)
        inputs.add(signature.definition.inputs[_INPUTS].name)
        if len(inputs) > 1:
            raise refused("Input tensor must be the same for all Signatures.")
    for task in request.tasks:
        result = response.results.add()
        part = result.classification_result if task.method_name == CLASSIFY else result.regression_result
        _answer(model, task.model_spec, task.method_name, request.input, part, call)
        _name(result.model_spec, task.model_spec, model)
    return response


def _answer(model: LoadedModel, spec: Any, method: str, given: Any, result: Any, call: Call) -> None:
    """Runs a signature on the examples of an Input, and fills a ClassificationResult or a RegressionResult."""
    signature, examples = _signature(model, spec, method), _serialized(given)
    outputs = signature.run({_INPUTS: examples}, call)
    (_fill_classes if method == CLASSIFY else _fill_values)(result, outputs, len(examples))


def _signature(model: LoadedModel, spec: Any, method: str) -> Signature:
    """Returns the signature that a ModelSpec names; it must be one of the method."""
    name = _signature_name(spec)
    signature = model.signatures.get(name)
    if signature is None:
        raise refused(f"No signature was found with the name: {name}")
    kind = "classification" if method == CLASSIFY else "regression"
    definition = signature.definition
    problem = _unfit(definition, kind)
    if problem is not None:
        if definition.method_name != method:
            raise refused(f"Expected {kind} signature method_name to be {method}. Was: {definition.method_name}")
        raise problem
    return signature


def _unfit(definition: Any, kind: str) -> StatusError | None:
    """Returns why a signature cannot be used for a kind of call, or None if it can."""
    classes = kind == "classification"
    if len(definition.inputs) != 1:
        return refused("Expected one input Tensor.")
    if classes and len(definition.outputs) not in (1, 2):
        return refused(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if not classes and len(definition.outputs) != 1:
        return refused("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        return StatusError(Code.FAILED_PRECONDITION, f"No {kind} inputs found in SignatureDef: {definition}")
    if classes and not {_CLASSES, _SCORES} & set(definition.outputs):
        return StatusError(
            Code.FAILED_PRECONDITION,
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {definition}",
        )
    if not classes and _OUTPUTS not in definition.outputs:
        return StatusError(Code.FAILED_PRECONDITION, f"No regression outputs found in SignatureDef: {definition}")
    return None


def _serialized(given: Any) -> NDArray[Any]:
    """Returns the examples of an Input as strings; each has the features of the context, unless it sets them itself."""
    kind = given.WhichOneof("kind")
    listed = getattr(given, kind) if kind else None
    if listed is None or not listed.examples:
        raise refused("Input is empty.")
    # Protobuf merges messages that are written one after another.
    context = listed.context.SerializeToString() if kind == "example_list_with_context" else b""
    examples = np.empty(len(listed.examples), object)
    examples[:] = [context + example.SerializeToString() for example in listed.examples]
    return examples


def _fill_classes(result: Any, outputs: dict[str, NDArray[Any]], count: int) -> None:
    classes, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for name, array, kind, word in ((_CLASSES, classes, "O", "DT_STRING"), (_SCORES, scores, "f4", "DT_FLOAT")):
        if array is None:
            continue
        if array.ndim != 2:
            raise refused(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if array.dtype != np.dtype(kind):
            raise refused(f"Expected {name} Tensor of {word}. Got: {array.dtype.name}")
        if len(array) != count:
            raise refused(f"Expected {name} output batch size of {count}. Got: {len(array)}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise refused(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    labels = None if classes is None else classes.tolist()
    numbers = None if scores is None else scores.tolist()
    for row in range(count):
        entry = result.classifications.add()
        for column in range(len((labels or numbers or [])[row])):
            found = entry.classes.add()
            if labels is not None:
                found.label = labels[row][column].decode("utf-8", "replace")
            if numbers is not None:
                found.score = numbers[row][column]


def _fill_values(result: Any, outputs: dict[str, NDArray[Any]], count: int) -> None:
    values = outputs[_OUTPUTS]
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise refused(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(values)}"
        )
    if len(values) != count:
        raise refused(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
    if values.dtype != np.float32:
        raise refused(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype.name}")
    for value in values.ravel().tolist():
        result.regressions.add(value=value)


def _name(target: Any, asked: Any, model: LoadedModel) -> None:
    """Fills the ModelSpec of an answer."""
    target.name, target.signature_name = asked.name, _signature_name(asked)
    target.version.value = model.version


def _signature_name(spec: Any) -> str:
    return str(spec.signature_name or DEFAULT_SIGNATURE)


def _shape(array: NDArray[Any]) -> str:
    return f"[{','.join(map(str, array.shape))}]"
