"""Settings of the server: which are refused, and with what message."""

import re
from pathlib import Path

import pytest

from serving.protocol import status
from serving.protocol.names import PREDICT
from serving.protocol.status import Code
from serving.server.config import Limits, ServerConfig
from serving.server.config_files import Tls
from serving.server.grpc_python import SMALL_ANSWER
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
        ({"model_base_path": None}, "one of the two"),
        ({"model_config_file": "x"}, "one of the two"),
        ({"model_base_path": 5}, "model_base_path=5 has the wrong type"),
        ({"grpc_max_threads": 8}, "use 9 or more"),
        ({"grpc_front_end": "c++"}, "auto, native, python"),
        ({"grpc_front_end": "native", "tls": Tls(key=b"", certificate=b"")}, "has no TLS"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, says):
    with pytest.raises(UsageError, match=re.escape(says)) as info:
        ServerConfig(**{"model_base_path": "m", **settings})
    assert "\n" not in str(info.value)


def test_wrong_limits_are_refused():
    with pytest.raises(UsageError, match="rows=0 is out of range"):
        Limits(rows=0)


def test_the_native_server_has_the_same_codes_texts_and_bounds():
    """The Rust sources repeat these values, because they cannot import them."""
    source = "\n".join(path.read_text() for path in NATIVE.glob("*.rs"))
    for text in (PREDICT, status.LATE, status.LEFT, status.QUEUE_FULL):
        assert f'"{text}"' in source
    codes = dict(re.findall(r"pub const (\w+): u32 = (\d+);", source))
    codes = {name: int(number) for name, number in codes.items() if name in Code.__members__}
    assert len(codes) >= 5
    assert codes == {name: Code[name] for name in codes}
    assert re.search(rf"const SMALL_ANSWER: usize = {SMALL_ANSWER};", source)
