"""Pages of the REST port for people and load balancers: what is served, whether it answers, and the API in OpenAPI.

`/` lists the models, `/healthz` answers while the process does, `/readyz` answers with 200 while every model does, and
`/openapi.json` describes the REST API of the models. None of them waits for a model or takes the place of a request.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from serving.protocol import protos, tensors
from serving.protocol.names import CLASSIFY, DEFAULT_SIGNATURE, REGRESS
from serving.protocol.status import Code, StatusError
from serving.server.models.catalog import Catalog

# These pages need no token.
HEALTH_PAGES = ("/healthz", "/readyz")
# An example request is shown if it has at most this many numbers.
_SHOWN = 64
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"
_KINDS = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "V": "number", "O": "string"}
_STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;vertical-align:top;
border-bottom:1px solid #8884}pre{overflow-x:auto;padding:.6rem;background:#8882}code{overflow-wrap:anywhere}"""


class Page(NamedTuple):
    """The answer to a GET request: the status, the content type and the body."""

    code: Code
    kind: str
    body: bytes


class Pages:
    """The pages of one server.

    Args:
        catalog: the models being served.
        is_serving: tells whether every model can answer.
        metrics_path: path of the Prometheus page, to link to it; None means no page.
        asks_token: clients must send a token.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        is_serving: Callable[[], bool],
        metrics_path: str | None = None,
        asks_token: bool = False,
    ) -> None:
        self._catalog, self._is_serving, self._metrics_path = catalog, is_serving, metrics_path
        self._asks_token = asks_token

    def get(self, path: str, *, host: str) -> Page | None:
        """Returns the page of a path, or None if there is no such page.

        Args:
            path: of the request.
            host: `HOST:PORT` that the client asked, for the examples.
        """
        if path == "/healthz":
            return Page(Code.OK, _TEXT, b"ok\n")
        if path == "/readyz":
            ready = self._is_serving()
            return Page(Code.OK if ready else Code.UNAVAILABLE, _TEXT, b"ok\n" if ready else b"not ready\n")
        if path == "/openapi.json":
            return Page(Code.OK, _JSON, json.dumps(self._openapi()).encode())
        if path == "/":
            return Page(Code.OK, "text/html; charset=utf-8", self._listing(host).encode())
        return None

    def _models(self) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
        """Yields each model's name, its versions, newest first, and the SignatureDefs of the newest."""
        for name, versions in sorted(self._catalog.versions().items()):
            try:
                with self._catalog.use(name, None) as model:
                    yield name, versions, {key: one.definition for key, one in sorted(model.signatures.items())}
            except StatusError:  # it has no version yet, or was removed meanwhile
                yield name, versions, {}

    def _listing(self, host: str) -> str:
        links = {"health": "/healthz", "readiness": "/readyz", "OpenAPI": "/openapi.json"}
        if self._metrics_path:
            links["metrics"] = self._metrics_path
        parts = [f'<a href="{html.escape(path)}">{name}</a>' for name, path in links.items()]
        body = [f"<h1>tfpipe serve</h1><p>{' · '.join(parts)}</p>"]
        for name, versions, signatures in self._models():
            body.append(_model(name, versions, signatures, _command(host, name, asks_token=self._asks_token)))
        if len(body) == 1:
            body.append("<p>No model is served yet.</p>")
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tfpipe serve</title>'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
        )

    def _openapi(self) -> dict[str, Any]:
        paths: dict[str, Any] = {}
        for name, _, signatures in self._models():
            model = f"/v1/models/{name}"
            bodies = [_body_schema(key, signature) for key, signature in signatures.items()]
            answer = {"type": "object", "properties": {"predictions": {"type": "array"}, "outputs": {}}}
            paths[f"{model}:predict"] = {
                "post": {
                    "summary": f"Runs a signature of {name}",
                    "requestBody": {"required": True, "content": {_JSON: {"schema": {"anyOf": bodies}}}},
                    "responses": {"200": _answer("The outputs", answer), "default": _answer("Refused", _ERROR)},
                }
            }
            paths |= _example_operations(model, signatures)
            for path, summary in ((model, "State of each version"), (f"{model}/metadata", "The signatures")):
                paths[path] = {
                    "get": {
                        "summary": f"{summary} of {name}",
                        "responses": {"200": _answer(summary, {"type": "object"}), "default": _answer("None", _ERROR)},
                    }
                }
            if "continue" in signatures:
                paths[f"{model}/stream"] = {"get": _stream_operation(name)}
        info = {"title": "Models of this server", "version": "1", "description": "The REST API of TensorFlow Serving."}
        described: dict[str, Any] = {"openapi": "3.1.0", "info": info, "paths": paths}
        if self._asks_token:
            described["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
            described["security"] = [{"token": []}]
        return described


_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}


def _example_operations(model: str, signatures: dict[str, Any]) -> dict[str, Any]:
    """Returns `:classify` and `:regress` of a model, each if the model has signatures of that kind."""
    feature = {"description": "A value, or a list of values, of one type"}
    example = {"type": "object", "additionalProperties": feature}
    found: dict[str, Any] = {}
    for verb, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        names = [key for key, signature in signatures.items() if signature.method_name == method]
        if not names:
            continue
        body = {
            "type": "object",
            "properties": {
                "signature_name": {"enum": names},
                "context": example,
                "examples": {"type": "array", "minItems": 1, "items": example},
            },
            "required": ["examples"] if DEFAULT_SIGNATURE in names else ["signature_name", "examples"],
        }
        answer = {"type": "object", "properties": {"results": {"type": "array"}}}
        found[f"{model}:{verb}"] = {
            "post": {
                "summary": f"Runs a signature on tf.Example messages ({verb})",
                "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
                "responses": {
                    "200": _answer("A result for each example", answer),
                    "default": _answer("Refused", _ERROR),
                },
            }
        }
    return found


def _stream_operation(name: str) -> dict[str, Any]:
    kinds = {"label": "string", "seed": "integer", "temperature": "number", "seconds": "number"}
    sound = {"description": "A wav", "content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}}
    return {
        "summary": f"Plays new sound of {name}, without an end unless seconds is given",
        "parameters": [{"name": key, "in": "query", "schema": {"type": kind}} for key, kind in kinds.items()],
        "responses": {"200": sound, "default": _answer("Refused", _ERROR)},
    }


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _body_schema(name: str, signature: Any) -> dict[str, Any]:
    """Returns the JSON schema of a body in the row format."""
    row = {
        "type": "object",
        "properties": {alias: _row_schema(info) for alias, info in sorted(signature.inputs.items())},
        "required": sorted(signature.inputs),
    }
    return {
        "title": name,
        "type": "object",
        "properties": {"signature_name": {"const": name}, "instances": {"type": "array", "items": row}},
        "required": ["instances"] if name == DEFAULT_SIGNATURE else ["signature_name", "instances"],
    }


def _row_schema(info: Any) -> dict[str, Any]:
    try:
        kind = tensors.dtype_of(info.dtype).kind
    except tensors.TensorError:
        return {}
    schema: dict[str, Any] = {"type": _KINDS[kind]} if kind in _KINDS else {}
    if kind == "O":
        encoded = {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"]}
        schema = {"anyOf": [schema, encoded]}
    if info.tensor_shape.unknown_rank:
        return {}
    for size in reversed([dim.size for dim in info.tensor_shape.dim][1:]):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _command(host: str, name: str, *, asks_token: bool) -> str:
    """Returns the beginning of a shell command that asks a model."""
    token = '-H "Authorization: Bearer $TOKEN" ' if asks_token else ""
    return f"curl {token}http://{host}/v1/models/{name}:predict"


def _model(name: str, versions: list[int], signatures: dict[str, Any], command: str) -> str:
    path = f"/v1/models/{html.escape(name)}"
    numbers = ", ".join(map(str, versions)) or "none is ready"
    rows = "".join(
        f"<tr><td><code>{html.escape(key)}</code></td><td>{_tensors(signature.inputs)}</td>"
        f"<td>{_tensors(signature.outputs)}</td></tr>"
        for key, signature in signatures.items()
    )
    bodies = filter(None, (_example(key, signature) for key, signature in signatures.items()))
    commands = [html.escape(f"{command} -d '{body}'") for body in bodies]
    examples = "".join(f"<pre>{text}</pre>" for text in commands)
    # A model with a learned prior can play (`serving.server.rest.streams`).
    player = f'<p><audio controls preload="none" src="{path}/stream"></audio></p>' if "continue" in signatures else ""
    shown = f"<p>Examples of short requests:</p>{examples}" if examples else ""
    return (
        f'<h2>{html.escape(name)}</h2><p>Versions: {numbers}. <a href="{path}">State</a>, '
        f'<a href="{path}/metadata">metadata</a>.</p><table><thead><tr><th>signature</th><th>inputs</th>'
        f"<th>outputs</th></tr></thead><tbody>{rows}</tbody></table>{player}{shown}"
    )


def _tensors(infos: Any) -> str:
    """Returns names, types and shapes of inputs or outputs as HTML."""
    lines = []
    for alias, info in sorted(infos.items()):
        sizes = ", ".join("n" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)
        shape = "any shape" if info.tensor_shape.unknown_rank else f"[{sizes}]"
        kind = protos.data_type_name(info.dtype).removeprefix("DT_").lower()
        lines.append(f"<code>{html.escape(alias)}</code> {kind} {shape}")
    return "<br>".join(lines)


def _example(name: str, signature: Any) -> str:
    """Returns a body that the signature answers, or an empty text if it would be long or its type is not a number's."""
    row = {}
    for alias, info in signature.inputs.items():
        sizes = [dim.size for dim in info.tensor_shape.dim][1:]
        try:
            kind = _KINDS.get(tensors.dtype_of(info.dtype).kind)
        except tensors.TensorError:  # a type that cannot be sent
            return ""
        value: Any = {"number": 0.5, "integer": 1}.get(kind or "")
        if value is None or info.tensor_shape.unknown_rank or not info.tensor_shape.dim:
            return ""
        for size in reversed(sizes):
            value = [value] * max(1, size)
        row[alias] = value
    text = json.dumps({"signature_name": name, "instances": [row]})
    return text if text.count(",") <= _SHOWN and row else ""
