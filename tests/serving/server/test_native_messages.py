"""How the native server reads a Predict request: which requests may share a batch."""

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serving_tools import native, predict_request

from serving.protocol import protos
from serving.server.grpc.native_server import is_built

if is_built():
    from serving.server import _front


arrays = st.builds(
    lambda rows, width, dtype: np.arange(rows * width).astype(dtype).reshape(rows, width),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([np.float32, np.int32, np.int64]),
)


messages = st.builds(
    lambda inputs, name, outputs, tail: (
        predict_request(name=name, output_filter=outputs, **inputs).SerializeToString() + tail
    ),
    st.dictionaries(st.text(max_size=2), st.one_of(arrays, st.just(np.array([b"text"], object))), max_size=3),
    st.sampled_from(["vae", "", "\x00\x00\x00\x00"]),
    st.lists(st.sampled_from(["y", "z"]), max_size=2),
    # Nothing, an unknown field, an input given twice, another model.
    st.sampled_from([b"", b"\x80\x7d\x05", b"\x12\x05\x0a\x01x\x12\x00", b"\x0a\x03\x0a\x01x"]),
)


seen: dict[bytes, protos.PredictRequest] = {}


def key_of(message):
    found = _front.rows_of(message.SerializeToString())
    assert found is not None
    return found[0]


def assert_rows_are_protobufs(data):
    """Checks that the rows found are those that protobuf reads, and that requests with one key differ only in rows."""
    found = _front.rows_of(bytes(data))
    if found is None:
        return False
    key, rows, inputs = found
    try:
        message = protos.PredictRequest.FromString(bytes(data))
    except DecodeError:
        return False  # an invalid request is never answered, so its key is never used
    assert rows > 0
    assert len(inputs) == len(message.inputs)
    assert {alias.decode(): content for alias, content in inputs} == {
        alias: proto.tensor_content for alias, proto in message.inputs.items()
    }
    for proto in message.inputs.values():
        assert proto.tensor_shape.dim[0].size == rows
        proto.tensor_shape.dim[0].size = len(proto.tensor_content) // rows
        proto.tensor_content = b""
    assert seen.setdefault(key, message) == message
    return True


@native
@settings(max_examples=80, deadline=None)
@given(data=messages)
def test_whole_messages_are_read_as_protobuf_reads_them(data):
    assert_rows_are_protobufs(data)


@native
@settings(max_examples=300, deadline=None)
@given(data=messages, changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
@example(data=predict_request(x=np.ones((1, 3), np.float32)).SerializeToString(), changes=[])
def test_damaged_messages_are_read_as_protobuf_reads_them(data, changes):
    damaged = bytearray(data)
    for place, byte in changes:
        if damaged:
            damaged[int(place * len(damaged))] = byte
    assert_rows_are_protobufs(damaged)
    assert_rows_are_protobufs(damaged[: len(damaged) * 2 // 3])


@native
def test_what_differs_in_more_than_its_rows_has_another_key():
    x = np.ones((2, 3), np.float32)
    same = [
        predict_request(x=x),
        predict_request(x=np.zeros((2, 3), np.float32)),
        predict_request(x=np.zeros((5, 3), np.float32)),
    ]
    other = [
        predict_request(name="b", x=x),
        predict_request(signature="negate", x=x),
        predict_request(output_filter=["y"], x=x),
        predict_request(y=x),
        predict_request(x=x, y=x),
        predict_request(x=np.ones((2, 4), np.float32)),
        predict_request(x=np.ones((2, 3, 1), np.float32)),
        predict_request(x=np.ones((2, 3), np.int32)),
    ]
    assert all(assert_rows_are_protobufs(message.SerializeToString()) for message in same + other)
    assert len({key_of(message) for message in same}) == 1
    assert len({key_of(message) for message in same + other}) == 1 + len(other)
    # Strings, requests without rows, and inputs with different numbers of rows cannot share a batch.
    for alone in (
        predict_request(x=np.array([b"a"], object)),
        predict_request(x=x[:0]),
        predict_request(x=x, y=x[:1]),
        predict_request(x=np.float32(1)),
        predict_request(),
    ):
        assert _front.rows_of(alone.SerializeToString()) is None
    # Neither can an input that is given twice, or a request whose key would be long.
    given = predict_request(x=x).SerializeToString()
    assert _front.rows_of(given) is not None
    assert _front.rows_of(given + given[given.index(b"\x12") :]) is None
    assert _front.rows_of(given + b"\x0a\x02\x22\x00" * 300) is None
    assert _front.rows_of(predict_request(x=x, name="v" * 5000).SerializeToString()) is None
    assert _front.rows_of(predict_request(**{"x" * 5000: x}).SerializeToString()) is None
