"""The command `tfpipe serve` takes every flag of tensorflow_model_server."""

import logging
from typing import Any

import pytest
from serving_tools import run_command

from serving.server.config import IGNORED_FLAGS, ServerConfig
from tfpipe.cli.main import main
from tfpipe.errors import ServingError, UsageError

# All flags of tensorflow_model_server (model_servers/main.cc), with a value that is not the default.
STOCK_FLAGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "port": ("9000", {"port": 9000}),
    "grpc_socket_path": ("/tmp/a.sock", {"grpc_socket_path": "/tmp/a.sock"}),
    "rest_api_port": ("9001", {"rest_api_port": 9001}),
    "rest_api_num_threads": ("3", {"rest_api_num_threads": 3}),
    "rest_api_timeout_in_ms": ("5", {"rest_api_timeout_in_ms": 5}),
    "rest_api_enable_cors_support": ("true", {"rest_cors": True}),
    "enable_batching": ("false", {"batching": None}),
    "allow_version_labels_for_unavailable_models": ("true", {"allow_version_labels_for_unavailable_models": True}),
    "batching_parameters_file": (None, {}),  # needs a file: see test_server.py
    "enable_per_model_batching_parameters": ("true", {"enable_per_model_batching_parameters": True}),
    "model_config_file": ("m.config", {"model_config_file": "m.config"}),
    "model_config_file_poll_wait_seconds": ("7", {"model_config_file_poll_wait_seconds": 7.0}),
    "model_name": ("n", {"model_name": "n"}),
    "model_base_path": ("gs://bucket/m", {"model_base_path": "gs://bucket/m"}),
    "max_num_load_retries": ("2", {"max_num_load_retries": 2}),
    "load_retry_interval_micros": ("-1", {"load_retry_interval_micros": -1}),
    "file_system_poll_wait_seconds": ("0", {"file_system_poll_wait_seconds": 0.0}),
    "tensorflow_session_parallelism": ("2", {"tensorflow_session_parallelism": 2}),
    "tensorflow_intra_op_parallelism": ("2", {"tensorflow_intra_op_parallelism": 2}),
    "tensorflow_inter_op_parallelism": ("2", {"tensorflow_inter_op_parallelism": 2}),
    "ssl_config_file": (None, {}),
    "saved_model_tags": ("serve,gpu", {"saved_model_tags": ("serve", "gpu")}),
    "grpc_channel_arguments": ("grpc.a=1,grpc.b=x", {"grpc_channel_arguments": ("grpc.a=1", "grpc.b=x")}),
    "grpc_max_threads": ("1", {"grpc_max_threads": 1}),
    "enable_model_warmup": ("false", {"enable_model_warmup": False}),
    "num_request_iterations_for_warmup": ("4", {"num_request_iterations_for_warmup": 4}),
    "version": (None, {}),
    "monitoring_config_file": (None, {}),
    "enable_serialization_as_tensor_content": ("true", {"tensor_content": True}),
}
IGNORED_VALUES = {bool: "true", int: "2", float: "0.5", str: "x"}


@pytest.fixture
def serve(monkeypatch):
    """Returns a function that runs the command with flags and returns the settings that the server would get."""
    configs = []
    monkeypatch.setattr("serving.server.server.serve", lambda config, *, on_ready: configs.append(config))
    monkeypatch.setattr("serving.server.metrics.configure_logging", lambda log_format: None)

    def run(*flags) -> ServerConfig:
        assert run_command("serve", *flags) == 0
        return configs.pop()

    return run


def test_all_flags_of_the_stock_server_are_known():
    assert len(STOCK_FLAGS) + len(IGNORED_FLAGS) == 48


@pytest.mark.parametrize("flag", [name for name, (value, _) in STOCK_FLAGS.items() if value is not None])
def test_a_flag_becomes_a_setting(serve, flag):
    value, wanted = STOCK_FLAGS[flag]
    config = serve("--model_base_path=m", f"--{flag}={value}")
    assert {name: getattr(config, name) for name in wanted} == wanted


def test_flags_without_a_meaning_and_unknown_ones_are_noted_in_one_line(serve, caplog):
    flags = [f"--{name}={IGNORED_VALUES[kind]}" for name, kind in IGNORED_FLAGS.items()]
    with caplog.at_level(logging.WARNING):
        config = serve(*flags, "--new_flag", "--other", "5", "--model_base_path=m", "--more=a\nb")
    assert config == ServerConfig(model_base_path="m")
    [record] = caplog.records
    message = record.getMessage()
    assert "\n" not in message
    for name in IGNORED_FLAGS:
        assert f"--{name}," in message
    assert message.endswith("--new_flag (unknown), --other (unknown), --more (unknown)")


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (["--rest_api_enable_cors_support"], True),
        (["--rest_api_enable_cors_support=true"], True),
        (["--rest_api_enable_cors_support=1"], True),
        (["--rest_api_enable_cors_support=false"], False),
        (["--rest_api_enable_cors_support=0"], False),
        (["--rest_api_enable_cors_support=false", "--rest_api_enable_cors_support"], True),  # the last one counts
        (["--rest_api_enable_cors_support", "--rest-api-enable-cors-support=0"], False),
    ],
)
def test_truth_values_are_written_as_for_the_stock_server(serve, typed, value):
    assert serve("--model_base_path", "m", *typed).rest_cors is value


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["stray"], "unrecognized arguments: stray"),
        (["--port=x"], "'x' is not a whole number"),
        (["--num_load_threads=x"], "invalid int value: 'x'"),
        (["--flush_filesystem_caches=maybe"], "'maybe' is not true or false"),
        (["--rest_api_enable_cors_support=maybe"], "'maybe' is not true or false"),
    ],
)
def test_arguments_and_malformed_values_are_refused(capsys, typed, says):
    assert main(["serve", "--model_base_path=m", *typed]) == 2
    assert says in capsys.readouterr().err


def test_a_flag_that_is_given_twice_has_its_last_value(serve):
    assert serve("--model_base_path=a", "--port=1", "--port=2", "--model_base_path=b").port == 2


def test_contradictory_flags_are_refused(serve):
    with pytest.raises(UsageError, match="both 7000"):
        serve("--model_base_path=m", "--port=7000", "--rest_api_port=7000")
    with pytest.raises(UsageError, match="without setting --enable_batching to true"):
        serve("--model_base_path=m", "--enable_batching=false", "--batching_parameters_file=f")
    with pytest.raises(UsageError, match="give --model_base_path or --model_config_file"):
        serve("--model_base_path=m", "--model_base_path=")


def test_a_file_flag_may_be_empty_as_for_the_stock_server(serve):
    names = ("batching_parameters_file", "ssl_config_file", "monitoring_config_file", "auth_token_file")
    config = serve("--model_base_path=m", *(f"--{name}=" for name in names))
    assert (config.tls, config.metrics_path, config.token) == (None, None, None)


def test_a_rest_timeout_of_zero_or_less_is_none(serve):
    for value in (0, -1):
        assert serve("--model_base_path=m", f"--rest_api_timeout_in_ms={value}").rest_api_timeout_in_ms == value


def test_the_token_is_read_from_its_file(serve, tmp_path):
    path = tmp_path / "token"
    path.write_text("abc\n")
    path.chmod(0o600)
    assert serve("--model_base_path=m", f"--auth_token_file={path}").token.value == "abc"
    assert serve("--model_base_path=m").token is None
    path.write_text("")
    with pytest.raises(UsageError, match="holds no token"):
        serve("--model_base_path=m", f"--auth_token_file={path}")
    with pytest.raises(ServingError, match="the token cannot be read"):
        serve("--model_base_path=m", "--auth_token_file=nowhere")


def test_version_prints_two_lines_and_needs_no_model(capsys):
    assert main(["serve", "--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("TensorFlow ModelServer: tfpipe ")
    assert second.startswith("TensorFlow Library: 2.")


def test_the_help_says_what_differs_from_the_stock_server(capsys):
    assert main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("stock") >= 4
    assert "--xla_cpu_compilation_enabled" in text
    assert "--ignored_flag" not in text
