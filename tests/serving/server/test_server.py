"""Starting and stopping the server, and the command `tfpipe serve`."""

import gc
import json
import os
import signal
import threading
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from serving_tools import ROWS, Caller, run_command, serving, steps

from serving.protocol.names import PREDICT
from serving.server.config import ServerConfig
from serving.server.server import Server, serve
from tfpipe.errors import ServingError, UsageError


# waitress leaves a socket open when it cannot bind its port.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_missing_folder_and_taken_ports_are_one_line(exported, tmp_path, server):
    folder = exported.path.parent
    for settings in (
        {"model_base_path": tmp_path / "nowhere"},
        {"model_base_path": folder, "port": server.port},
        {"model_base_path": folder, "port": 0, "rest_api_port": server.rest_port},
        {"model_base_path": folder, "port": 0, "host": "203.0.113.1"},
    ):
        with pytest.raises(ServingError) as info:
            Server(ServerConfig(**settings))
        assert "\n" not in str(info.value)
    del info
    gc.collect()


@pytest.mark.parametrize(
    ("within", "given", "base"),
    [(".", "my models/2/", "'my models'"), ("my models", "2", "."), ("my models/2", ".", "'{}/my models'")],
)
def test_the_folder_of_a_version_is_refused_with_the_folder_to_use(within, given, base, tmp_path, monkeypatch):
    (tmp_path / "my models" / "2").mkdir(parents=True)
    (tmp_path / "my models" / "2" / "saved_model.pb").touch()
    monkeypatch.chdir(tmp_path / within)
    with pytest.raises(ServingError) as refused:
        Server(ServerConfig(model_base_path=given, port=0, rest_api_port=-1))
    wanted = f"is a version; use --model_base_path {base.format(tmp_path)}"
    assert str(refused.value) == f"{given.rstrip('/')}: {wanted}"


def test_serve_command_reports_its_ports_and_finishes_requests_on_sigterm(toy, capsys, monkeypatch, restored_signals):
    ports: list[int] = []
    answers = []

    def ask_and_end():
        with Caller(ports[0]) as caller:
            answer = caller.future("slow", x=steps(20_000))
            caller.predict("double", x=steps(1))
            os.kill(os.getpid(), signal.SIGTERM)
            answers.append(answer.result())

    thread = threading.Thread(target=ask_and_end)

    def serve_and_ask(config, *, on_ready):
        def ready(running):
            on_ready(running)
            ports.append(running.port)
            thread.start()

        serve(config, on_ready=ready)

    monkeypatch.setattr("serving.server.server.serve", serve_and_ask)
    code = run_command("serve", "--model_base_path", toy, "--port", 0, "--rest_api_port", 0, "--json")
    thread.join()
    assert code == 0
    assert len(answers) == 1
    out, log = capsys.readouterr()
    assert (json.loads(out)["versions"], json.loads(out)["port"]) == ([1], ports[0])
    assert f"ready: model vae, version 1, gRPC 127.0.0.1:{ports[0]}, REST" in log


@pytest.fixture
def restored_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("flags", [[], ["--enable_batching=false"]])
def test_a_batching_file_needs_its_flag(tmp_path, flags):
    path = tmp_path / "batching.config"
    path.write_text("")
    with pytest.raises(UsageError, match="batching_parameters_file is set without setting --enable_batching to true"):
        run_command("serve", "--model_base_path", tmp_path, "--batching_parameters_file", path, *flags)
    path.write_text("max_batch_size: 5")
    with pytest.raises(ServingError, match=r"batching\.config: Error parsing text-format"):
        run_command("serve", "--model_base_path", tmp_path, "--batching_parameters_file", path, "--enable_batching")


def test_a_config_file_makes_the_base_path_superfluous(tmp_path, caplog):
    path = tmp_path / "models.config"
    path.write_text("model_config_list {}")
    with Server(ServerConfig(model_config_file=path, model_base_path="nowhere", port=0, rest_api_port=-1)) as server:
        server.start()
        assert server.catalog.versions() == {}
    assert "--model_base_path and --model_name are ignored" in caplog.text


@pytest.mark.parametrize("front_end", ["auto", "python"])
def test_a_unix_socket_is_answered_too(toy, tmp_path, front_end):
    path = tmp_path / "a 50% socket"
    for _ in range(2):  # a socket that a server has left is replaced
        with (
            serving(toy, grpc_socket_path=str(path), grpc_front_end=front_end, enable_model_warmup=False),
            grpc.insecure_channel(f"unix:{quote(str(path))}") as channel,
        ):
            assert channel.unary_unary(PREDICT)(ROWS, timeout=60)


def test_a_socket_that_cannot_be_bound_is_one_line(toy, tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere" / "a.sock", tmp_path / "file", tmp_path / ("a" * 120), tmp_path, "/proc/a.sock"):
        with pytest.raises(ServingError, match="--grpc_socket_path") as info:
            Server(ServerConfig(model_base_path=toy, port=0, rest_api_port=-1, grpc_socket_path=str(path)))
        assert "\n" not in str(info.value)
    assert (tmp_path / "file").read_text() == "x"


def test_a_single_thread_answers_requests_one_after_another(toy, front_end):
    settings = {"grpc_max_threads": 1, "rest_api_num_threads": 1, "grpc_front_end": front_end, "batching": None}
    with serving(toy, enable_model_warmup=False, **settings) as (_, caller):
        waiting = [caller.future("double", x=steps(number)) for number in range(20)]
        assert all(one.result() for one in waiting)


def test_arguments_of_the_grpc_server_are_used(toy):
    arguments = ("grpc.max_receive_message_length=1000", "grpc.max_connection_age_ms=600000")
    with serving(toy, enable_model_warmup=False, grpc_channel_arguments=arguments) as (_, caller):
        caller.predict("double", x=steps(1))
        code, says = caller.refusal("double", x=np.ones((100, 3), np.float32))
    assert (code, "1000" in says) == ("RESOURCE_EXHAUSTED", True)
