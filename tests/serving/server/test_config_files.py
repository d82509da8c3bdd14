"""Configuration files: what is read from them, and tensorflow_model_server's refusals."""

from pathlib import Path

import pytest

from serving.server.config_files import (
    METRICS_PATH,
    Batching,
    Policy,
    read_batching,
    read_metrics_path,
    read_models,
    read_tls,
)
from tfpipe.errors import ServingError


def written(tmp_path, text):
    path = tmp_path / "file.config"
    path.write_text(text)
    return path


def test_batching_parameters(tmp_path):
    text = """
    max_batch_size { value: 64 }
    batch_timeout_micros { value: 500 }
    num_batch_threads { value: 2 }
    thread_pool_name { value: "pool" }
    allowed_batch_sizes: 16
    allowed_batch_sizes: 64
    pad_variable_length_inputs: true  # ignored
    """
    assert read_batching(written(tmp_path, text)) == Batching(
        max_batch_size=64, batch_timeout_micros=500, num_batch_threads=2, allowed_batch_sizes=(16, 64)
    )
    assert read_batching(written(tmp_path, "")) == Batching()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("max_batch_size { value: 64 } max_execution_batch_size { value: 8 }", 64),
        (
            "max_batch_size { value: 64 } max_execution_batch_size { value: 8 } "
            "enable_large_batch_splitting { value: true } allowed_batch_sizes: 8",
            8,
        ),
        ("max_execution_batch_size { value: 8 } enable_large_batch_splitting { value: true }", 8),
    ],
)
def test_split_batches_have_the_size_of_an_execution(tmp_path, text, size):
    assert read_batching(written(tmp_path, text)).max_batch_size == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size=0 is out of range; use a whole number, at least 1"),
        ("num_batch_threads { value: 0 }", "num_batch_threads=0 is out of range"),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches=-1 is out of range"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros=-1 is out of range"),
        ("allowed_batch_sizes: 8 allowed_batch_sizes: 4", "increasing order"),
        ("allowed_batch_sizes: 0 allowed_batch_sizes: 16", "increasing order"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        ("max_batch_size: 8", "Error parsing text-format tensorflow.serving.BatchingParameters"),
        ("what: 1", "Error parsing text-format"),
    ],
)
def test_wrong_batching_parameters(tmp_path, text, says):
    with pytest.raises(ServingError, match=says) as info:
        read_batching(written(tmp_path, text))
    assert "\n" not in str(info.value)
    assert "file.config" in str(info.value)


def model(name="a", *, base_path="/models/a", more='model_platform: "tensorflow"'):
    return f'config {{ name: "{name}" base_path: "{base_path}" {more} }}'


def test_models(tmp_path):
    more = 'model_platform: "tensorflow" '
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 } '
    text = f"""model_config_list {{
        {model("a")}
        {model("b", more=more + "model_version_policy { latest { num_versions: 3 } }")}
        {model("c", more=more + "model_version_policy { all {} }")}
        {model("d", more=more + labels + "model_version_policy { specific { versions: 1 versions: 2 } }")}
    }}"""
    a, b, c, d = read_models(written(tmp_path, text)) or ()
    assert (a.name, str(a.base_path), a.policy, a.labels) == ("a", "/models/a", Policy(), {})
    assert (b.policy, c.policy) == (Policy(latest=3), Policy(latest=0))
    assert (d.policy, d.labels) == (Policy(specific=frozenset({1, 2})), {"stable": 1, "canary": 2})
    assert read_models(written(tmp_path, "model_config_list {}")) == ()
    assert read_models(written(tmp_path, "# nothing")) is None


def test_a_model_may_have_the_older_field_for_its_platform_and_a_url(tmp_path):
    text = f"model_config_list {{ {model(base_path='gs://bucket/a', more='model_type: TENSORFLOW')} }}"
    [found] = read_models(written(tmp_path, text)) or ()
    assert found.base_path == "gs://bucket/a"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([model(base_path="models/a")], "absolute path"),
        ([model(more="")], "model_platform"),
        ([model(more='model_platform: "caffe"')], "platform caffe"),
        ([model(more="model_type: OTHER")], "of the model_type 2"),
        ([model(more='model_type: TENSORFLOW model_platform: "tensorflow"')], "setting both"),
        ([model(base_path="bucket:a")], "absolute path"),
        ([model(""), model()], "has no name"),
        ([model(), model()], "model a multiple times"),
        ([model(base_path="/" + "a" * 5000)], "not a valid path"),
        ([model(base_path=r"/\000")], "not a valid path"),
        ([model(str(number)) for number in range(1001)], "has 1001 models; this server takes 1000"),
        ([model(more='model_platform: "tensorflow" model_version_policy { specific {} }')], "lists no version"),
        (["config { nme: 1 }"], "Error parsing text-format"),
        (["config {"], "Error parsing text-format"),
    ],
)
def test_wrong_models(tmp_path, entries, says):
    with pytest.raises(ServingError, match=says) as info:
        read_models(written(tmp_path, f"model_config_list {{ {' '.join(entries)} }}"))
    assert "\n" not in str(info.value)


def test_monitoring(tmp_path):
    assert read_metrics_path(written(tmp_path, "prometheus_config { enable: true }")) == METRICS_PATH
    assert read_metrics_path(written(tmp_path, 'prometheus_config { enable: true path: "/m" }')) == "/m"
    assert read_metrics_path(written(tmp_path, 'prometheus_config { path: "/m" }')) is None
    with pytest.raises(ServingError, match="must begin with /"):
        read_metrics_path(written(tmp_path, 'prometheus_config { enable: true path: "m" }'))


def test_tls_needs_key_and_certificate_and_an_authority_to_verify_with(tmp_path):
    tls = read_tls(written(tmp_path, r'server_key: "k\n" server_cert: "c" custom_ca: "a" client_verify: true'))
    assert (tls.key, tls.certificate, tls.client_ca, tls.client_verify) == (b"k\n", b"c", b"a", True)
    assert "k\\n" not in repr(tls)
    for text, says in (
        ('server_key: "k"', "server_cert are needed"),
        ('server_key: "k" server_cert: "c" client_verify: true', "needs custom_ca"),
    ):
        with pytest.raises(ServingError, match=says):
            read_tls(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(ServingError, match="cannot be read"):
        read_models(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ServingError, match="Error parsing"):
        read_models(tmp_path / "binary")
    with pytest.raises(ServingError, match="cannot be read"):
        read_models(tmp_path)
    with pytest.raises(ServingError, match="larger than 16 MiB"):
        read_models(Path("/dev/zero"))


@pytest.mark.parametrize(
    "text",
    [
        "model_config_list { config { " * 5000,
        "custom_model_config { [type.googleapis.com/google.protobuf.Any] { " * 5000,
        "model_config_list { config { model_version_policy { specific { versions: 99999999999999999999 } } } }",
        'model_config_list { config { name: "\\xff" } }',
        "model_config_list { config { version_labels { key: 5 } } }",
        "\0" * 100,
    ],
)
def test_hostile_models_are_one_line(tmp_path, text):
    with pytest.raises(ServingError) as info:
        read_models(written(tmp_path, text))
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 2000


@pytest.mark.parametrize("read", [read_batching, read_tls, read_metrics_path])
@pytest.mark.parametrize("data", [b"\0" * 100, b"a {" * 100_000, b"\xff\xfe", b'a: "' + b"x" * 100_000, b"[a.b/c] {}"])
def test_hostile_files_of_every_kind_are_one_line(tmp_path, read, data):
    path = tmp_path / "hostile.config"
    path.write_bytes(data)
    with pytest.raises(ServingError, match=r"hostile\.config: Error parsing") as info:
        read(path)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 2000
