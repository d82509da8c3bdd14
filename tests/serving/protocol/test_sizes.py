"""What a request takes in memory, found before it is read."""

import numpy as np
import pytest
from serving_tools import predict_request

from serving.protocol import protos
from serving.protocol.sizes import array_bytes, parsed_bytes
from serving.protocol.wire import Predict

MIB = 1 << 20


def length(number):
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def field(number, data):
    return bytes([number << 3 | 2]) + length(len(data)) + data


def parsed(message):
    return parsed_bytes(protos.PredictRequest, message)


def repeated(dtype, count, **values):
    request = protos.PredictRequest()
    tensor = request.inputs["x"]
    tensor.dtype = dtype
    tensor.tensor_shape.dim.add(size=count)
    for name, value in values.items():
        getattr(tensor, name).append(value)
    return Predict(request)


def test_a_message_of_many_small_parts_is_counted_as_many_times_its_size():
    hostile = field(2, field(1, b"x") + field(2, field(2, b"\x12\x00" * 500_000)))
    assert 54 * len(hostile) <= parsed(hostile) <= 70 * len(hostile)


def test_an_ordinary_message_is_counted_once():
    x = np.zeros((1000, 300), np.float32)
    for message in (predict_request(x=x).SerializeToString(), predict_request(x=x[:2]).SerializeToString()):
        assert len(message) <= parsed(message) < len(message) + 4096
    strings = protos.PredictRequest()
    strings.inputs["wav"].string_val.extend([bytes(200_000)] * 20)
    message = strings.SerializeToString()
    assert len(message) <= parsed(message) < 1.1 * len(message)


def test_packed_small_numbers_are_counted_as_what_they_become():
    request = protos.PredictRequest()
    request.inputs["x"].int64_val.extend([1] * MIB)
    assert parsed(request.SerializeToString()) >= 16 * MIB


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x0a", b"\x0a\xff\x01", b"\x13" + bytes(50), b"\x08" + b"\x80" * 20])
def test_what_is_no_message_is_counted_too(data):
    assert parsed(data) >= 0


def test_arrays_are_counted_as_what_they_become():
    assert array_bytes(repeated(1, MIB, float_val=1.0), largest=1 << 30) == 4 * MIB
    assert array_bytes(repeated(2, MIB), largest=1 << 30) == 8 * MIB
    assert array_bytes(repeated(7, 1024, string_val=bytes(MIB)), largest=1 << 30) >= 1024 * MIB
    assert array_bytes(repeated(1, 1 << 50, float_val=1.0), largest=1 << 30) == 0, "it is refused when it is read"
    assert array_bytes(repeated(1, -5), largest=1 << 30) == 0
    assert array_bytes(Predict(predict_request(x=np.zeros((9, 3), np.float32))), largest=1 << 30) == 0, "a view"


def test_many_examples_are_counted_about_once():
    request = protos.ClassificationRequest()
    for _ in range(1000):
        feature = request.input.example_list.examples.add().features.feature
        feature["pixels"].bytes_list.value.append(bytes(9_000))
    data = request.SerializeToString()
    assert len(data) <= parsed_bytes(protos.ClassificationRequest, data) < 1.2 * len(data)
