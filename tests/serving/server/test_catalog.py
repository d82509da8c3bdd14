"""Several models in one server: version policies, labels, and configurations that change while it runs."""

import contextlib
import http.client
import json

import grpc
import numpy as np
import pytest
from serving_tools import Caller, copy_version, eventually, states

from serving.protocol import protos
from serving.server.config import ServerConfig
from serving.server.server import Server
from tfpipe.errors import ServingError

INDEX = np.zeros(1, np.int32)


def entry(name, base_path, *, policy="", labels=None):
    text = f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" '
    if policy:
        text += f"model_version_policy {{ {policy} }} "
    for label, version in (labels or {}).items():
        text += f'version_labels {{ key: "{label}" value: {version} }} '
    return text + "}"


def config_file(tmp_path, *entries):
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    return path


@contextlib.contextmanager
def serving(path, **settings):
    config = ServerConfig(
        **{"model_config_file": path, "port": 0, "rest_api_port": 0, "allow_reload": True, **settings}
    )
    server = Server(config)
    try:
        server.start()
        yield server
    finally:
        server.stop(grace_s=5)


@pytest.fixture
def versions(toy, tmp_path):
    """A folder with versions 1, 2 and 3."""
    folder = tmp_path / "versions"
    folder.mkdir()
    for version in (1, 2, 3):
        copy_version(toy / "1", folder, version)
    return folder


def reload(caller, *entries, raw=None):
    """Asks for a new configuration; returns the status code's name and the message."""
    from google.protobuf import text_format

    request = protos.ReloadConfigRequest()
    text = f"model_config_list {{ {' '.join(entries)} }}" if raw is None else raw
    text_format.Parse(text, request.config)
    method = caller.channel.unary_unary(
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
        response_deserializer=protos.ReloadConfigResponse.FromString,
    )
    try:
        response = method(request.SerializeToString(), timeout=120)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", response.status.error_message


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("latest { num_versions: 2 }", [3, 2]),
        ("all {}", [3, 2, 1]),
        ("specific { versions: 1 versions: 3 versions: 9 }", [3, 1]),
    ],
)
def test_policies(tmp_path, versions, policy, served):
    with (
        serving(config_file(tmp_path, entry("a", versions, policy=policy))) as server,
        Caller(server.port, model="a") as caller,
    ):
        assert server.versions == served
        assert server.catalog.versions() == {"a": served}
        for version in (1, 2, 3):
            if version in served:
                caller.predict("double", x=np.ones((1, 3), np.float32), version=version)
            else:
                code, message = caller.refusal("double", x=np.ones((1, 3), np.float32), version=version)
                assert (code, message) == ("NOT_FOUND", f"Servable not found for request: Specific(a, {version})")


def test_labels_over_grpc_and_rest(tmp_path, versions):
    path = config_file(tmp_path, entry("a", versions, policy="all {}", labels={"stable": 1, "canary": 3}))
    with serving(path) as server, Caller(server.port, model="a") as caller:
        for label, version in (("stable", 1), ("canary", 3)):
            request = caller.request("double", x=np.ones((1, 3), np.float32), label=label)
            assert caller._predict(request, timeout=60).model_spec.version.value == version
        code, message = caller.refusal("double", x=np.ones((1, 3), np.float32), label="old")
        assert (code, message) == ("INVALID_ARGUMENT", "Unrecognized servable version label: old")
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)

        def ask(verb, target, body=None):
            connection.request(verb, f"/v1/models/a/labels/{target}", body and json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        assert ask("POST", "stable:predict", {"instances": [[1, 2, 3]]}) == (200, {"predictions": [[2, 4, 6]]})
        assert ask("GET", "canary/metadata")[1]["model_spec"]["version"] == "3"
        assert ask("POST", "old:predict", {"instances": [[1, 2, 3]]})[0] == 400
        connection.close()


def test_two_models_and_reload_replaces_everything(tmp_path, toy, versions):
    x = np.ones((1, 3), np.float32)
    path = config_file(tmp_path, entry("a", toy), entry("b", versions))
    with serving(path) as server, Caller(server.port, model="a") as a, Caller(server.port, model="b") as b:
        assert server.catalog.versions() == {"a": [1], "b": [3]}
        with server.catalog.use("b") as kept:
            pass
        assert reload(a, entry("b", versions, policy="all {}", labels={"new": 3})) == ("OK", "")
        assert a.refusal("double", x=x) == ("NOT_FOUND", "Servable not found for request: Latest(a)")
        assert states(a, "a") == [(1, "END", "")], "as in TensorFlow Serving, a removed model is listed as ended"
        b.predict("double", x=x, label="new")
        with server.catalog.use("b") as same:
            assert same is kept, "a model that stays the same is not interrupted"
        assert server.catalog.versions() == {"b": [3, 2, 1]}
        assert reload(a, entry("a", toy), entry("b", toy)) == ("OK", "")
        assert server.catalog.versions() == {"a": [1], "b": [1]}
        assert states(a, "a") == [(1, "AVAILABLE", "")]
        a.predict("double", x=x)


def test_reload_refuses_as_tensorflow_serving_does_and_changes_nothing(tmp_path, toy, versions):
    x = np.ones((1, 3), np.float32)
    path = config_file(tmp_path, entry("a", versions, labels={"stable": 3}))
    with serving(path) as server, Caller(server.port, model="a") as caller:
        for code, says, entries in (
            ("INVALID_ARGUMENT", "absolute path", [entry("a", "models/a")]),
            ("INVALID_ARGUMENT", "multiple times", [entry("a", versions), entry("a", toy)]),
            ("INVALID_ARGUMENT", "model_platform", [f'config {{ name: "a" base_path: "{toy}" }}']),
            (
                "FAILED_PRECONDITION",
                "Request to assign label to version 1 of model a, which is not currently available for inference",
                [entry("a", versions, labels={"stable": 3, "old": 1})],
            ),
            ("UNKNOWN", "1 servable(s) did not become available", [entry("a", versions), entry("z", tmp_path / "z")]),
        ):
            actual, message = reload(caller, *entries)
            assert actual == code, message
            assert says in message
            caller.predict("double", x=x, label="stable")
        assert reload(caller, raw="") == ("OK", "")
        assert server.catalog.versions()["a"] == [3]


def test_early_labels_need_their_flag_and_a_new_name(tmp_path, versions):
    path = config_file(tmp_path, entry("a", versions, labels={"stable": 3, "next": 4}))
    with pytest.raises(ServingError, match=r"models.config: Request to assign label to version 4"), serving(path):
        pass
    early = {"allow_version_labels_for_unavailable_models": True}
    with serving(path, **early) as server, Caller(server.port, model="a") as caller:
        code, _ = caller.refusal("double", x=np.ones((1, 3), np.float32), label="next")
        assert code == "NOT_FOUND"
        moved = entry("a", versions, labels={"stable": 5, "next": 4})
        assert reload(caller, moved)[0] == "FAILED_PRECONDITION"


def test_the_configuration_file_is_read_again(tmp_path, toy, versions, caplog):
    path = config_file(tmp_path, entry("a", versions))
    with serving(path, model_config_file_poll_wait_seconds=0.05) as server:
        path.write_text("model_config_list { config { nonsense")
        eventually(lambda: "stays as it was" in caplog.text)
        path.write_text("")
        eventually(lambda: "the file is empty" in caplog.text)
        assert server.catalog.versions() == {"a": [3]}
        config_file(tmp_path, entry("a", versions, policy="specific { versions: 1 }"), entry("b", toy))
        eventually(lambda: server.catalog.versions() == {"a": [1], "b": [1]})
        config_file(tmp_path)
        eventually(lambda: server.catalog.versions() == {})


def test_a_server_may_start_without_models_and_get_them_later(tmp_path, toy):
    with serving(config_file(tmp_path)) as server, Caller(server.port, model="a") as caller:
        assert (server.versions, server.catalog.versions()) == ([], {})
        assert server._is_serving()
        assert caller.refusal("double", x=np.ones((1, 3), np.float32))[0] == "NOT_FOUND"
        assert reload(caller, entry("a", toy)) == ("OK", "")
        assert server.versions == [1]
        caller.predict("double", x=np.ones((1, 3), np.float32))


def test_wrong_configurations_are_refused(tmp_path):
    path = config_file(tmp_path, entry("a", tmp_path / "nowhere"))
    with pytest.raises(ServingError, match=r"1 servable\(s\) did not become available: \{a\}"), serving(path):
        pass
