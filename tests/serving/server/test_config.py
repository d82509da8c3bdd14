"""Settings of the server: which are refused, and with what message."""

import re
from pathlib import Path

import pytest

from serving.protocol import status
from serving.protocol.names import PREDICT
from serving.protocol.status import Code
from serving.protocol.token import NO_TOKEN
from serving.server.config import Limits, ServerConfig
from serving.server.grpc.python_server import SMALL_ANSWER
from tfpipe.errors import UsageError

NATIVE = Path(__file__).parents[3] / "serving" / "native" / "src"


def test_a_path_may_be_text():
    assert ServerConfig(model_base_path="m").model_base_path == "m"
    assert ServerConfig(model_config_file=Path("m")).model_config_file == Path("m")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"port": 99_999}, "port=99999 is out of range; use a whole number, at least 0 and at most 65535"),
        ({"port": -1}, "port=-1 is out of range"),
        ({"rest_api_port": 70_000}, "rest_api_port=70000 is out of range"),
        ({"rest_api_port": -2}, "rest_api_port=-2 is out of range"),
        ({"model_base_path": None}, "give --model_base_path or --model_config_file"),
        ({"model_base_path": ""}, "give --model_base_path or --model_config_file"),
        ({"model_base_path": 5}, "model_base_path=5 has the wrong type"),
        ({"port": 5000, "rest_api_port": 5000}, "--port and --rest_api_port are both 5000"),
        ({"grpc_max_threads": -1}, "grpc_max_threads=-1 is out of range"),
        ({"grpc_channel_arguments": ("grpc.x",)}, "'grpc.x' is not KEY=VALUE; write KEY=VALUE"),
        ({"grpc_channel_arguments": ("a=1", "=5")}, "'=5' is not KEY=VALUE; write KEY=VALUE"),
        ({"rest_api_timeout_in_ms": 2**31}, "is out of range"),
        ({"file_system_poll_wait_seconds": float("inf")}, "is out of range"),
        ({"grpc_front_end": "native", "grpc_channel_arguments": ("a=1",)}, "takes no --grpc_channel_arguments"),
        (
            {
                "tensorflow_session_parallelism": 1,
                "tensorflow_intra_op_parallelism": 1,
                "tensorflow_inter_op_parallelism": 1,
            },
            "not all three",
        ),
        ({"grpc_front_end": "c++"}, "auto, native, python"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, says):
    with pytest.raises(UsageError, match=re.escape(says)) as info:
        ServerConfig(**{"model_base_path": "m", **settings})
    assert "\n" not in str(info.value)


def test_channel_arguments_are_numbers_where_they_can_be():
    given = ("grpc.max_connection_age_ms=2000", "grpc.primary_user_agent=a=b", "grpc.big=4294967296")
    assert ServerConfig(model_base_path="m", grpc_channel_arguments=given).channel_arguments == [
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.primary_user_agent", "a=b"),
        ("grpc.big", "4294967296"),
    ]


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({}, (0, 0)),
        ({"tensorflow_session_parallelism": 3}, (3, 3)),
        ({"tensorflow_intra_op_parallelism": 2}, (2, 0)),
        ({"tensorflow_session_parallelism": 3, "tensorflow_inter_op_parallelism": 1}, (0, 1)),
    ],
)
def test_threads_of_tensorflow_are_chosen_as_in_tensorflow_serving(settings, threads):
    assert ServerConfig(model_base_path="m", **settings).threads == threads


def test_wrong_limits_are_refused():
    with pytest.raises(UsageError, match="rows=0 is out of range"):
        Limits(rows=0)


def test_the_native_server_has_the_same_codes_texts_and_bounds():
    """The Rust sources repeat these values, because they cannot import them."""
    source = "\n".join(path.read_text() for path in NATIVE.glob("*.rs"))
    for text in (PREDICT, NO_TOKEN, status.LATE, status.LEFT, status.QUEUE_FULL):
        assert f'"{text}"' in source
    codes = dict(re.findall(r"pub const (\w+): u32 = (\d+);", source))
    codes = {name: int(number) for name, number in codes.items() if name in Code.__members__}
    assert len(codes) >= 5
    assert codes == {name: Code[name] for name in codes}
    assert re.search(rf"const SMALL_ANSWER: usize = {SMALL_ANSWER};", source)
