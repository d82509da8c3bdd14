"""Sound that the model makes while the client listens."""

import contextlib
import http.client
import io
import json
import threading
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from serving_tools import eventually

from serving.protocol.status import Code, StatusError
from serving.server.rest.streams import MOST_STREAMS, Client, Stream, Streams

PATH = "/v1/models/vae/stream"


@contextlib.contextmanager
def listening(server, path, *, version=11):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=120)
    connection._http_vsn_str = f"HTTP/{version // 10}.{version % 10}"  # type: ignore[attr-defined]
    with contextlib.closing(connection):
        connection.request("GET", path)
        with contextlib.closing(connection.getresponse()) as response:
            yield response


def refusal(server, path):
    with listening(server, path) as response:
        assert response.getheader("Content-Type") == "application/json"
        return response.status, json.loads(response.read())["error"]


def playing(server):
    return server._rest._streams._playing


def test_a_stream_of_some_seconds_is_the_sound_of_generate(prior_server, prior_client):
    with listening(prior_server, f"{PATH}?label=Piano&seed=5&seconds=2.5&temperature=0.5") as response:
        assert (response.status, response.getheader("Content-Type")) == (200, "audio/wav")
        assert response.getheader("Transfer-Encoding") == "chunked"
        found, rate = soundfile.read(io.BytesIO(response.read()))
    expected = prior_client.generate(seconds=2.5, seed=5, label="Piano", temperature=0.5)
    assert (len(found), rate) == (len(expected), 22_050)
    inner = slice(500, -500)
    difference = found[inner] - expected[inner].clip(-1, 1)
    assert np.sum(np.square(difference)) < 0.1 * np.sum(np.square(expected[inner]))
    eventually(lambda: playing(prior_server) == 0)


def test_a_stream_goes_on_until_the_client_leaves(prior_server):
    with listening(prior_server, "/stream") as response:
        head = response.read(44)
        assert head[40:] == b"\xff" * 4
        assert len(response.read(4 * 2 * 22_050)) == 4 * 2 * 22_050, "four windows"
        assert playing(prior_server) == 1
    eventually(lambda: playing(prior_server) == 0)
    with listening(prior_server, f"{PATH}?seconds=0.1", version=10) as response:
        assert response.getheader("Transfer-Encoding") is None
        assert len(response.read()) == 44 + 2 * 2205


def test_only_a_few_streams_play_at_a_time(prior_server):
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_STREAMS):
            assert stack.enter_context(listening(prior_server, "/stream")).status == 200
        with listening(prior_server, PATH) as response:
            assert (response.status, response.getheader("Retry-After")) == (503, "10")
        assert refusal(prior_server, PATH)[1].startswith(f"{MOST_STREAMS} streams are playing")
    eventually(lambda: playing(prior_server) == 0)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("label=Violin", "label 'Violin' is not one of the model's, which are Human, Piano"),
        ("temperature=hot", "temperature='hot' is not allowed; use a number from 0 to 10"),
        ("temperature=nan", "use a number from 0 to 10"),
        ("temperature=11", "use a number from 0 to 10"),
        ("seconds=0", "use a number from 0.001 to 86400"),
        ("seconds=inf", "use a number from 0.001 to 86400"),
        ("seed=1.5", "seed='1.5' is not allowed; use a whole number"),
        ("seed=99999999999999999999", "use a whole number"),
        ("seed=", "use a whole number"),
        (f"seed={quote('٣')}", "use a whole number"),
        ("seeds=1", "'seeds' is unknown; give each of label, seed, temperature, seconds at most once"),
        ("seed=1&seed=2", "a parameter is given twice"),
        ("label=%ff", "cannot be read"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(prior_server, query, words):
    status, error = refusal(prior_server, f"{PATH}?{query}")
    assert status == 400
    assert words in error
    assert "\n" not in error
    assert playing(prior_server) == 0


def test_models_that_cannot_play_are_refused(server, native_server, prior_server):
    status, error = refusal(server, PATH)
    assert status == 400
    assert "no learned prior; train it with `--prior flow` and export it" in error
    assert refusal(native_server, "/stream") == (
        400,
        "vae: /stream needs a model of `tfpipe export` with a learned prior",
    )
    assert refusal(prior_server, "/v1/models/other/stream")[0] == 404
    assert refusal(prior_server, "/v1/models/vae/versions/9/stream")[0] == 404
    assert refusal(prior_server, "/v1/models/vae/versions/1/stream?seed=x")[0] == 400


class _Names:
    def __init__(self, *names):
        self._names = names

    def versions(self):
        return {name: [1] for name in self._names}


def test_with_several_models_a_stream_must_name_one():
    assert Streams(_Names("a")).only_model() == "a"  # type: ignore[arg-type]
    for names in ((), ("a", "b")):
        with pytest.raises(StatusError, match="Name the model") as info:
            Streams(_Names(*names)).only_model()  # type: ignore[arg-type]
        assert info.value.code == Code.INVALID_ARGUMENT


def test_a_stream_makes_its_sound_only_shortly_before_it_is_heard():
    made: list[int] = []
    unsent = [0]
    stopped = threading.Event()

    def pieces():
        for number in range(1000):
            made.append(number)
            yield bytes(1000)

    client = Client(has_left=lambda: False, unsent=lambda: unsent[0])
    stream = Stream(pieces(), bytes_per_s=1000, client=client, stopped=stopped, on_close=lambda: None)
    sent = iter(stream)
    for _ in range(11):
        next(sent)
    assert len(made) == 11, "ten seconds ahead"
    threading.Timer(0.1, stopped.set).start()
    assert next(sent, None) is None
    assert len(made) == 11
    unsent[0] = 1 << 40
    stopped.clear()
    threading.Timer(0.1, stopped.set).start()
    assert len(list(iter(stream))) == 1, "nothing more is made while the client does not read"
