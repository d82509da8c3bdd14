"""Checks of tensors in gRPC messages on the model of `serving.checks.api_model`: every type, in both forms.

The expected answers are those of TensorFlow's `tensor.proto` and of TensorFlow Serving's `predict_util.cc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.checks.api_model import ECHOED
from serving.checks.probe import Asker, Case, refused, require
from serving.protocol import protos, tensors
from serving.protocol.names import MAX_TENSOR_BYTES, PREDICT

_BAD = "INVALID_ARGUMENT"
# The field of a TensorProto that holds the values of a type, and how a value is written there.
_FIELDS = {
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "int_val"),
    **{"float32": "float_val", "float64": "double_val", "float16": "half_val", "bfloat16": "half_val"},
    **{"int64": "int64_val", "uint32": "uint32_val", "uint64": "uint64_val", "bool": "bool_val"},
    **{"complex64": "scomplex_val", "complex128": "dcomplex_val", "string": "string_val"},
}


def tensor_cases(asker: Asker) -> Iterator[Case]:
    """Yields the checks."""
    for name in ECHOED:
        yield f"Predict, {name}: typed values", partial(_typed, asker, name)
        if name != "string":
            yield f"Predict, {name}: tensor_content", partial(_content, asker, name)
        yield f"Predict, {name}: no element", partial(_shaped, asker, name, (0, 2))
        yield f"Predict, {name}: a scalar", partial(_shaped, asker, name, ())
    yield "Predict: answers have typed values", partial(_answer_is_typed, asker)
    yield "Predict: one value stands for all elements", partial(_repeated, asker)
    yield "Predict: the last value stands for the rest", partial(_last_repeated, asker)
    yield "Predict: several inputs and outputs", partial(_several, asker)
    yield "Predict: a filter chooses outputs", partial(_filtered, asker)
    yield "Predict: no row", partial(_half_plus_two, asker, [])
    yield "Predict: many rows", partial(_half_plus_two, asker, [float(number) for number in range(1000)])
    for name, request, code, says in _refusals(asker):
        yield f"Predict: {name} is refused", partial(refused, partial(_ask, asker, request), code, says)


def sample(name: str) -> tuple[NDArray[Any], list[Any]]:
    """Returns six values of a type as a matrix, and what its field in a TensorProto holds."""
    if name == "string":
        texts = [b"", b"a", b"\x00\xff", "é".encode(), b"five", b"six" * 100]
        return np.array([*texts, None], object)[:-1].reshape(2, 3), texts
    dtype = tensors.dtype_of(protos.TensorProto(dtype=_data_type(name)).dtype)
    if name == "bool":
        array = np.array([[True, False, True], [False, False, True]])
    elif name.startswith("complex"):
        array = np.array([[1 + 2j, -0.5j, 0], [3, 1j, 2.5 - 1j]], dtype)
    elif name.startswith("u"):
        array = np.array([[0, 1, 2], [3, 100, np.iinfo(dtype).max]], dtype)
    elif name.startswith("int"):
        array = np.array([[0, -1, 2], [3, np.iinfo(dtype).min, np.iinfo(dtype).max]], dtype)
    else:
        array = np.array([[0.0, -1.5, 2.0], [0.25, 1024.0, -3.0]], np.float64).astype(dtype)
    if name in ("float16", "bfloat16"):
        values: list[Any] = array.view(np.uint16).ravel().tolist()
    elif name.startswith("complex"):
        values = array.view(array.real.dtype).ravel().tolist()
    else:
        values = array.ravel().tolist()
    return array, values


def _data_type(name: str) -> str:
    words = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}
    return f"DT_{words.get(name, name.upper())}"


def _request(asker: Asker, signature: str, **inputs: Any) -> Any:
    request = protos.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = asker.target.model, signature
    for alias, proto in inputs.items():
        request.inputs[alias].CopyFrom(proto)
    return request


def _ask(asker: Asker, request: Any) -> Any:
    return asker.call(PREDICT, request, protos.PredictResponse)


def _proto(name: str, shape: tuple[int, ...], values: list[Any]) -> Any:
    proto = protos.TensorProto(dtype=_data_type(name))
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.SetInParent()
    getattr(proto, _FIELDS[name]).extend(values)
    return proto


def _echoed(asker: Asker, name: str, proto: Any, expected: NDArray[Any]) -> None:
    answer = _ask(asker, _request(asker, f"echo_{name}", x=proto)).outputs
    require(set(answer) == {"y"}, f"it answers {sorted(answer)}")
    found = tensors.from_proto(answer["y"], max_bytes=MAX_TENSOR_BYTES)
    require(found.dtype == expected.dtype and found.shape == expected.shape, f"{found.dtype} of shape {found.shape}")
    same = found.tolist() == expected.tolist() if name == "string" else found.tobytes() == expected.tobytes()
    require(same, f"it answers {found.tolist()}")


def _typed(asker: Asker, name: str) -> None:
    array, values = sample(name)
    _echoed(asker, name, _proto(name, array.shape, values), array)


def _content(asker: Asker, name: str) -> None:
    array, _ = sample(name)
    proto = _proto(name, array.shape, [])
    proto.tensor_content = array.tobytes()
    _echoed(asker, name, proto, array)


def _shaped(asker: Asker, name: str, shape: tuple[int, ...]) -> None:
    array, values = sample(name)
    size = int(np.prod(shape))
    each = 2 if name.startswith("complex") else 1
    _echoed(asker, name, _proto(name, shape, values[: size * each]), array.ravel()[:size].reshape(shape))


def _answer_is_typed(asker: Asker) -> None:
    """A server that was started with `enable_serialization_as_tensor_content` differs here, as it was asked to."""
    array, values = sample("float32")
    request = _request(asker, "echo_float32", x=_proto("float32", array.shape, values))
    answer = _ask(asker, request).outputs["y"]
    require(list(answer.float_val) == values and not answer.tensor_content, f"it answers {answer}")


def _repeated(asker: Asker) -> None:
    _echoed(asker, "float32", _proto("float32", (2, 3), [1.5]), np.full((2, 3), 1.5, np.float32))


def _last_repeated(asker: Asker) -> None:
    _echoed(asker, "int32", _proto("int32", (5,), [1, 2]), np.array([1, 2, 2, 2, 2], np.int32))


def _inputs() -> dict[str, Any]:
    return {
        "whole": _proto("int32", (2,), [1, 2]),
        "text": _proto("string", (2,), [b"a", b"b"]),
        "real": _proto("float32", (2,), [0.5, 1.5]),
    }


def _several(asker: Asker) -> None:
    response = _ask(asker, _request(asker, "several", **_inputs()))
    found = {alias: tensors.from_proto(proto, max_bytes=1 << 20).tolist() for alias, proto in response.outputs.items()}
    texts = [b"a", b"b"]
    require(found == {"whole": [1, 2], "text": texts, "text_bytes": texts, "real": [0.5, 1.5]}, f"it answers {found}")
    require(response.model_spec.signature_name == "several", f"it names {response.model_spec.signature_name!r}")


def _filtered(asker: Asker) -> None:
    for wanted in (["real"], ["whole", "text"]):
        request = _request(asker, "several", **_inputs())
        request.output_filter.extend(wanted)
        found = set(_ask(asker, request).outputs)
        require(found == set(wanted), f"for {wanted} it answers {sorted(found)}")


def _half_plus_two(asker: Asker, values: list[float]) -> None:
    request = _request(asker, "half_plus_two", x=_proto("float32", (len(values),), values))
    found = tensors.from_proto(_ask(asker, request).outputs["y"], max_bytes=1 << 20)
    require(found.tolist() == [value / 2 + 2 for value in values], f"it answers {found.tolist()[:10]}")


def _refusals(asker: Asker) -> Iterator[tuple[str, Any, str, str]]:
    """Yields name, request, status code and part of the message."""
    whole = _proto("int32", (1,), [1])
    size = "input size does not match signature"
    yield "no input", _request(asker, "echo_int32"), _BAD, f"{size}: 0!=1"
    yield "an input too many", _request(asker, "echo_int32", x=whole, z=whole), _BAD, f"{size}: 2!=1"
    missing = _inputs()
    del missing["text"]
    yield "one of three inputs less", _request(asker, "several", **missing), _BAD, f"{size}: 2!=3"
    yield "an input of another name", _request(asker, "echo_int32", z=whole), _BAD, ""
    for name in ("float32", "int64", "string", "bool"):
        wrong = _request(asker, "echo_int32", x=_proto(name, (1,), sample(name)[1][:1]))
        yield f"{name} for int32", wrong, _BAD, ""
    short = _proto("int32", (3,), [])
    short.tensor_content = b"12345"
    yield "tensor_content that is too short", _request(asker, "echo_int32", x=short), _BAD, "tensor parsing error: x"
    many = _proto("float32", (2,), [1.0, 2.0, 3.0])
    yield "more values than elements", _request(asker, "echo_float32", x=many), _BAD, "tensor parsing error: x"
    negative = _proto("int32", (-2,), [1])
    yield "a negative size", _request(asker, "echo_int32", x=negative), _BAD, "tensor parsing error: x"
    huge = _proto("float32", (1 << 40, 1 << 40), [1.0])
    yield "more elements than 64 bits count", _request(asker, "echo_float32", x=huge), _BAD, "tensor parsing error: x"
    yield "a tensor without a type", _request(asker, "echo_int32", x=protos.TensorProto()), _BAD, "parsing error: x"
    unknown = _request(asker, "several", **_inputs())
    unknown.output_filter.append("nope")
    yield "an unknown output", unknown, _BAD, "output tensor alias not found in signature: nope"
    twice = _request(asker, "several", **_inputs())
    twice.output_filter.extend(["real", "real"])
    yield "an output twice", twice, _BAD, "duplicate output tensor alias: real"
