import numpy as np
import pytest

from serving.protocol import protos, tensors

LIMIT = 1 << 20


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "i4", "u1", "i2", "i1", "i8", "?", "u2", "u4", "u8", "f2", "c8", "c16", "bfloat16"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_round_trip(dtype, shape):
    import ml_dtypes  # noqa: F401  NumPy then knows bfloat16 by name

    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    proto = tensors.to_proto(array)
    assert proto.tensor_content == array.tobytes()
    back = tensors.from_proto(protos.TensorProto.FromString(proto.SerializeToString()), max_bytes=LIMIT)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_an_answer_is_written_as_protobuf_writes_it():
    outputs = {
        "mel": np.arange(60_000, dtype=np.float32).reshape(3, -1, 5).transpose(0, 2, 1),
        "big": np.array([1, 2], ">i8"),
        "none": np.zeros((0, 4), np.float64),
        "scalar": np.float32(1.5).reshape(()),
        "flags": np.array([True, False]),
        "complex": np.array([1 + 2j, 3], np.complex64),
        "small": np.array([-1, 2], np.int8),
        "text": np.array([[b"a", b"\xff"]], object),
    }
    expected = protos.PredictResponse()
    expected.model_spec.name = "vae"
    for typed in (True, False):
        expected.ClearField("outputs")
        ours = protos.PredictResponse.FromString(b"".join(tensors.response_parts(expected, outputs, typed=typed)))
        for alias, array in outputs.items():
            tensors.write(expected.outputs[alias], array, typed=typed)
        assert ours == expected


@pytest.mark.parametrize("many", [3, 100])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "bfloat16", "c8", "c16", "i4", "u1", "i2", "i8", "?", "u4", "u8"])
def test_typed_fields_are_read_and_written_as_tensorflow_does(dtype, many):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    kind = tf.bfloat16.as_numpy_dtype if dtype == "bfloat16" else dtype
    array = np.resize(np.arange(7), (many, 2)).astype(kind)
    proto = protos.TensorProto()
    tensors.write(proto, array, typed=True)
    assert not proto.tensor_content
    np.testing.assert_array_equal(tf.make_ndarray(tensor_pb2.TensorProto.FromString(proto.SerializeToString())), array)
    back = tensors.from_proto(proto, max_bytes=LIMIT)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    content = tensors.from_proto(tensors.to_proto(array), max_bytes=LIMIT)
    np.testing.assert_array_equal(content, array)


def test_a_repeated_value_takes_no_memory():
    proto = _proto(dims=(256, 1000), float_val=[1.5])
    array = tensors.from_proto(proto, max_bytes=LIMIT)
    assert (array.shape, array.strides, float(array[9, 9])) == ((256, 1000), (0, 0), 1.5)


def test_strings_round_trip():
    back = tensors.from_proto(tensors.to_proto(np.array([[b"a", b"\xff\x00"]], object)), max_bytes=LIMIT)
    assert back.tolist() == [[b"a", b"\xff\x00"]]


def test_transposed_and_big_endian_arrays_keep_their_values():
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    np.testing.assert_array_equal(tensors.from_proto(tensors.to_proto(array), max_bytes=LIMIT), array)


def test_agrees_with_tensorflow_both_ways():
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    arrays: list[np.ndarray] = [
        np.array([[1, 2.5]], np.float32),
        np.array([-1, 5], np.int64),
        np.array([True, False]),
        np.array([b"x", b""], object),
    ]
    for array in arrays:
        theirs = protos.TensorProto.FromString(tf.make_tensor_proto(array).SerializeToString())
        np.testing.assert_array_equal(tensors.from_proto(theirs, max_bytes=LIMIT), array)
        mine = tensor_pb2.TensorProto.FromString(tensors.to_proto(array).SerializeToString())
        np.testing.assert_array_equal(tf.make_ndarray(mine), array)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "complex64", "complex128"])
def test_typed_halves_and_complex_numbers_are_read_as_tensorflow_writes_them(name):
    import tensorflow as tf

    array = np.array([[1.5, -2.0], [0.25, 3.0]]).astype(tf.as_dtype(name).as_numpy_dtype)
    array = array * 1j if array.dtype.kind == "c" else array
    theirs = tf.make_tensor_proto(array)
    typed = protos.TensorProto.FromString(theirs.SerializeToString())
    for field in ("tensor_content", "scomplex_val", "dcomplex_val", "half_val"):
        typed.ClearField(field)
    if array.dtype.kind == "c":
        parts = [part for value in array.flat for part in (value.real, value.imag)]
        (typed.scomplex_val if name == "complex64" else typed.dcomplex_val).extend(parts)
    else:
        typed.half_val.extend(array.view(np.uint16).flat)
    back = tensors.from_proto(typed, max_bytes=LIMIT)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(tf.make_ndarray(theirs), back)


def test_an_odd_number_of_values_is_no_complex_tensor():
    with pytest.raises(tensors.TensorError, match="pairs"):
        tensors.from_proto(_proto(dtype=8, dims=(2,), scomplex_val=[1.0]), max_bytes=LIMIT)


def test_typed_fields_repeat_the_last_value_and_default_to_zero():
    proto = protos.TensorProto(dtype=1, float_val=[1.0, 2.0])
    proto.tensor_shape.dim.add(size=4)
    assert tensors.from_proto(proto, max_bytes=LIMIT).tolist() == [1, 2, 2, 2]
    del proto.float_val[:]
    assert tensors.from_proto(proto, max_bytes=LIMIT).tolist() == [0, 0, 0, 0]


def _proto(*, dtype=1, dims=(2,), **fields):
    proto = protos.TensorProto(dtype=dtype, **fields)
    for size in dims:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (_proto(dims=(1 << 40, 1 << 40)), "would take more than"),
        (_proto(dims=(0, 1 << 40, 1 << 40)), "would take more than"),
        (_proto(dims=(-1,)), "not fully known"),
        (_proto(dims=(1,) * 40), "40 dimensions"),
        (_proto(tensor_content=b"123"), "holds 3 bytes"),
        (_proto(float_val=[1, 2, 3]), "do not fit"),
        (_proto(dtype=3, int_val=[1, 2], dims=(2,), tensor_content=b"1"), "holds 1 bytes"),
        (_proto(dtype=6, int_val=[300, 1]), "do not fit"),
        (_proto(dtype=7, tensor_content=b"ab"), "string_val"),
        (_proto(dtype=20), "DT_RESOURCE"),
        (_proto(dtype=19, half_val=[-1, 70_000]), "do not fit"),
        (_proto(dtype=8, scomplex_val=[1, 2, 3]), "pairs"),
        (_proto(dtype=0), "DT_INVALID"),
        (_proto(dtype=9999), "9999"),
    ],
)
def test_impossible_tensors_are_refused(proto, says):
    with pytest.raises(tensors.TensorError, match=says):
        tensors.from_proto(proto, max_bytes=LIMIT)
