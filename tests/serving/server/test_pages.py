"""Pages of the REST port: a list of models, health, readiness and OpenAPI."""

import contextlib
import html
import http.client
import json
import re
import shlex
from typing import Any

import pytest

from serving.protocol.status import Code
from serving.server.rest.pages import Pages


def get(server, path, *, verb="GET", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    with contextlib.closing(connection):
        connection.request(verb, path, body)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read().decode()


def test_the_list_names_models_versions_and_signatures_and_its_example_works(server):
    status, kind, text = get(server, "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    for word in ("vae", "Versions: 1.", "decode_audio", "float [n, ", "/healthz", "/readyz", "/openapi.json"):
        assert word in text
    examples = [shlex.split(html.unescape(shown)) for shown in re.findall("<pre>(.*?)</pre>", text)]
    named = [json.loads(body)["signature_name"] for _, _, _, body in examples]
    assert {"decode", "encode_audio", "generate"} <= set(named)
    for command, url, option, body in examples:
        assert (command, option) == ("curl", "-d")
        [(host, path)] = re.findall(r"^http://([^/]+)(/.+)$", url)
        assert host == f"127.0.0.1:{server.rest_port}"
        status, _, answer = get(server, path, verb="POST", body=body)
        assert (status, list(json.loads(answer))) == (200, ["predictions"])


def test_a_server_with_a_token_says_so_in_its_pages(server):
    pages = Pages(server.catalog, is_serving=lambda: True, asks_token=True)
    listing, described = (pages.get(path, host="h:1") for path in ("/", "/openapi.json"))
    assert listing is not None
    assert described is not None
    assert (
        html.escape('curl -H "Authorization: Bearer $TOKEN" http://h:1/v1/models/vae:predict') in listing.body.decode()
    )
    found = json.loads(described.body)
    assert found["security"] == [{"token": []}]
    assert found["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}


def test_health_and_readiness(server):
    assert get(server, "/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    assert get(server, "/readyz") == (200, "text/plain; charset=utf-8", "ok\n")
    assert get(server, "/healthz", verb="POST")[0] == 400


def test_openapi_describes_each_signature(server):
    status, kind, text = get(server, "/openapi.json")
    assert (status, kind) == (200, "application/json")
    paths = json.loads(text)["paths"]
    assert set(paths) == {"/v1/models/vae:predict", "/v1/models/vae", "/v1/models/vae/metadata"}
    content = paths["/v1/models/vae:predict"]["post"]["requestBody"]["content"]["application/json"]
    bodies = {body["title"]: body for body in content["schema"]["anyOf"]}
    assert {"encode", "decode", "serving_default"} <= set(bodies)
    mel = bodies["encode"]["properties"]["instances"]["items"]["properties"]["mel"]
    assert mel["items"]["items"] == {"type": "number"}
    assert mel["minItems"] == mel["maxItems"] > 1


class NoModels:
    """A catalog whose only model has no version yet."""

    def versions(self):
        return {"<b>": []}

    def use(self, name, version):
        from serving.protocol.status import StatusError

        raise StatusError(Code.NOT_FOUND, name)


def test_a_server_that_loads_is_healthy_but_not_ready():
    catalog: Any = NoModels()
    pages = Pages(catalog, is_serving=lambda: False, metrics_path="/metrics")
    found = {path: pages.get(path, host="") for path in ("/healthz", "/readyz", "/")}
    assert pages.get("/nope", host="") is None
    answers = {path: page for path, page in found.items() if page is not None}
    assert [page.code for page in answers.values()] == [Code.OK, Code.UNAVAILABLE, Code.OK]
    text = answers["/"].body.decode()
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "none is ready" in text
    assert 'href="/metrics"' in text


@pytest.mark.parametrize("name", ["healthz", "readyz"])
def test_nothing_but_the_whole_path_is_a_page(server, name):
    assert get(server, f"/{name}/")[0] == 400
    assert get(server, f"/v1/{name}")[0] == 400


def test_a_model_with_a_prior_can_be_played_from_the_list(prior_server, server):
    assert '<audio controls preload="none" src="/v1/models/vae/stream">' in get(prior_server, "/")[2]
    paths = json.loads(get(prior_server, "/openapi.json")[2])["paths"]
    assert [one["name"] for one in paths["/v1/models/vae/stream"]["get"]["parameters"]][:2] == ["label", "seed"]
    assert "<audio" not in get(server, "/")[2]
