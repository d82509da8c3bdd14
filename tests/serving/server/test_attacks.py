"""What an attacker may try, and that the server lives on: access, absurd versions, memory, and room for others."""

import logging
import os
import signal
import struct
import threading

import grpc
import pytest
from serving_tools import copy_version, serving, states, steps

from serving.protocol import protos
from serving.protocol.names import RELOAD
from serving.protocol.status import reason_of
from serving.server.config import ServerConfig
from serving.server.config_files import Tls
from serving.server.metrics import configure_logging
from serving.server.models.versions import LOADING_S
from serving.server.server import serve
from tfpipe.data.records import masked_crc


def reload_request(**model):
    request = protos.ReloadConfigRequest()
    request.config.model_config_list.config.add(model_platform="tensorflow", **model)
    return request.SerializeToString()


def refusal(method, message, **options):
    with pytest.raises(grpc.RpcError) as info:
        method(message, timeout=60, **options)
    return info.value.code().name, info.value.details()


def test_reload_is_refused_unless_a_flag_allows_it(toy_server, caller):
    code, why = refusal(caller.channel.unary_unary(RELOAD), reload_request(name="mine", base_path="/tmp"))
    assert (code, "--allow_reload" in why) == ("PERMISSION_DENIED", True)
    assert toy_server.catalog.versions() == {"vae": [1]}


def test_reload_is_allowed_to_clients_with_certificates():
    tls = Tls(key=b"", certificate=b"", client_ca=b"", client_verify=True)
    assert ServerConfig(model_base_path="/", tls=tls).reload_is_allowed
    assert not ServerConfig(model_base_path="/", tls=Tls(key=b"", certificate=b"")).reload_is_allowed


def test_a_name_cannot_add_lines_to_the_log(capsys):
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        configure_logging("text")
        logging.getLogger("serving").error("model %s", "a\nERROR forged\r\x1b[2J")
    finally:
        root.handlers = before
    assert capsys.readouterr().err == "ERROR model a\\nERROR forged\\r\\x1b[2J\n"


def absurd_graph(version):
    with open(version / "saved_model.pb", "r+b") as file:
        file.truncate(60 << 30)


def absurd_warmup(version):
    length = struct.pack("<Q", 59 << 30)
    with open(warmup(version), "wb") as file:
        file.write(length + masked_crc(length))  # one record of 59 GB
        file.truncate(60 << 30)


def piped_warmup(version):
    os.mkfifo(warmup(version))


def piped_variables(version):
    [data] = (version / "variables").glob("*.data-*")
    data.unlink()
    os.mkfifo(data)


def device_as_graph(version):
    (version / "saved_model.pb").unlink()
    (version / "saved_model.pb").symlink_to("/dev/zero")


def warmup(version):
    (version / "assets.extra").mkdir(exist_ok=True)
    return version / "assets.extra" / "tf_serving_warmup_requests"


@pytest.mark.parametrize("damage", [absurd_graph, absurd_warmup, piped_warmup, piped_variables, device_as_graph])
def test_an_absurd_version_is_reported_and_another_one_served(tmp_path, toy, damage):
    copy_version(toy / "1", tmp_path, 1)
    damage(copy_version(toy / "1", tmp_path, 2))
    with serving(tmp_path, enable_model_warmup=True, file_system_poll_wait_seconds=0.1) as (_, caller):
        assert caller.predict("double", x=steps(1))["y"].shape == (1, 3)
        [(number, state, why), other] = states(caller, "vae")
        assert (number, state, other) == (2, "END", (1, "AVAILABLE", ""))
        assert str(tmp_path / "2") in why


def test_any_error_of_a_version_leaves_the_others_alone(tmp_path, toy, monkeypatch):
    from serving.server.models import loaded_model

    load = loaded_model.LoadedModel.load

    def fails(path, **settings):
        if settings["version"] == 2:
            raise MemoryError
        return load(path, **settings)

    monkeypatch.setattr(loaded_model.LoadedModel, "load", fails)
    for version in (1, 2):
        copy_version(toy / "1", tmp_path, version)
    with serving(tmp_path) as (server, caller):
        assert server.versions == [1]
        assert "MemoryError" in states(caller, "vae")[0][2]


def test_a_version_that_never_loads_does_not_keep_the_process(tmp_path, toy, monkeypatch):
    """SIGTERM ends the server while its only version is being loaded."""
    from serving.server import server
    from serving.server.models import loaded_model, versions

    copy_version(toy / "1", tmp_path, 1)
    loading, freed, kept = threading.Event(), threading.Event(), []

    def hangs(*_, **__):
        loading.set()
        freed.wait(60)
        raise RuntimeError("too late")

    def end():
        loading.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loaded_model.LoadedModel, "load", hangs)
    for module in (server, versions):
        monkeypatch.setattr(module, "LOADING_S", 0.1)
        monkeypatch.setattr(module, "skip_cleanup", lambda: kept.append(True))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    killer = threading.Thread(target=end)
    killer.start()
    try:
        config = ServerConfig(model_base_path=tmp_path, port=0, rest_api_port=-1)
        serve(config, on_ready=lambda _: pytest.fail("it is not ready"))
    finally:
        freed.set()
        killer.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert kept
    assert LOADING_S < 10


def test_the_reason_of_a_failed_load_says_what_failed():
    class GraphError(Exception):
        error_code = 5
        message = (
            "Graph execution error:\n\nDetected at node save/RestoreV2 defined at (most recent call last):\n"
            "<stack traces unavailable>\nKey rows not found in checkpoint\n\t [[{{node save/RestoreV2}}]]\n\n"
            "Original stack trace for 'save/RestoreV2':\n  File \"a.py\", line 1, in run\n    secret()\n"
        )

    assert reason_of(GraphError()) == "Key rows not found in checkpoint"
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(ValueError()) == "ValueError"
