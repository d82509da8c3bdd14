"""Requests that are read without copies are equal to what protobuf reads."""

import tracemalloc

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.protocol import protos, tensors, wire


def request(*, typed=False, **inputs):
    message = protos.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "vae", "encode"
    message.output_filter.append("mean")
    for alias, array in inputs.items():
        tensors.write(message.inputs[alias], array, typed=typed)
    return message


def put_together(read):
    """Returns the whole message, with the contents that were cut out put back."""
    message = protos.PredictRequest()
    message.CopyFrom(read.message)
    for alias, (tag, numbers) in read.contents.items():
        message.inputs[alias].MergeFromString(wire.header(tag, len(numbers)) + bytes(numbers))
    return message


def outcome(read, data):
    try:
        return read(data)
    except DecodeError:
        return None


def assert_as_protobuf(data):
    """Checks that both ways of reading give the same message, or both refuse it."""
    theirs = outcome(protos.PredictRequest.FromString, data)
    ours = outcome(lambda data: put_together(wire.read_predict(data, large=0)), data)
    assert ours == theirs


messages = st.builds(
    lambda inputs, typed, tail: request(typed=typed, **inputs).SerializeToString() + tail,
    st.dictionaries(
        st.text(max_size=3),
        st.one_of(
            st.integers(0, 200).map(lambda size: np.arange(size, dtype=np.float32)),
            st.just(np.array([b"text", b""], object)),
        ),
        max_size=4,
    ),
    st.booleans(),
    # Nothing, an unknown field, an input given twice, an incomplete value.
    st.sampled_from([b"", b"\x80\x7d\x05", b"\x12\x00", b"\x12\x05\x0a\x01x\x12\x00", b"\x12\x04\x0a\x01x\x12"]),
)


@settings(max_examples=60, deadline=None)
@given(data=messages)
@example(data=request(x=np.ones(3, np.float32)).SerializeToString() + b"\x12\x05\x0a\x01x\x12\x00")
def test_whole_messages(data):
    assert_as_protobuf(data)


@settings(max_examples=250, deadline=None)
@given(data=messages, changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
@example(data=b"\x12\x08\x12\x04\x22\x02\x01\x02\x0a\x00", changes=[])  # the value before the key
@example(data=b"\x12\x0a\x0a\x00\x12\x06\x22\x01\x01\x22\x01\x02", changes=[])  # the content twice
@example(data=b"\x12\x09\x0a\x00\x12\x85\x00\x22\x03\x01\x02\x03", changes=[])  # a length in more bytes than needed
@example(
    data=b"\x12\x0f\x0a\x00\x12\x85\x80\x80\x80\x80\x80\x00\x22\x03\x01\x02\x03", changes=[]
)  # ... and in more than protobuf accepts
@example(
    data=b"\x12\x0f\x0a\x00\x92\x80\x80\x80\x80\x80\x00\x05\x22\x03\x01\x02\x03", changes=[]
)  # a tag in more bytes than protobuf accepts
@example(data=b"\x12\x07\x0a\x01\xff\x12\x02\x22\x00", changes=[])  # an alias that is not UTF-8
@example(data=b"\x12\x06\x12\x00\x12\x02\x22\x00", changes=[])  # two values, no key
def test_damaged_messages(data, changes):
    damaged = bytearray(data)
    for place, byte in changes:
        if damaged:
            damaged[int(place * len(damaged))] = byte
    assert_as_protobuf(bytes(damaged))
    assert_as_protobuf(bytes(damaged[: len(damaged) * 2 // 3]))


def test_contents_of_a_large_request_are_not_copied():
    array = np.random.default_rng(0).random((64, 128, 216), np.float32)
    data = request(mel=array).SerializeToString()
    tracemalloc.start()
    read = wire.read_predict(data)
    back = tensors.from_proto(read.message.inputs["mel"], max_bytes=1 << 30, numbers=read.contents["mel"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    np.testing.assert_array_equal(back, array)
    assert put_together(read) == protos.PredictRequest.FromString(data)


def test_small_requests_are_left_to_protobuf():
    assert not wire.read_predict(request(z=np.zeros((1, 8), np.float32)).SerializeToString()).contents


@pytest.mark.parametrize("part", [b"\x1a\x00", b"\x12\x00", b"\x12\x04\x0a\x00\x12\x00", b"\x80\x7d\x05"])
def test_a_message_of_many_tiny_fields_is_left_to_protobuf(part, monkeypatch):
    data = part * (1_000_000 // len(part))
    looked_at: list[int] = []
    monkeypatch.setattr(wire._FieldReader, "_varint", counted(wire._FieldReader._varint, looked_at))
    assert not wire.read_predict(data).contents
    assert len(looked_at) < 2000, "protobuf reads a message of many fields"


def counted(method, calls):
    def wrapper(*arguments):
        calls.append(1)
        return method(*arguments)

    return wrapper
