"""Requests of REST: who may send them, what their paths ask for, and the answers about a model.

A match is that of a path, with the groups `name`, `version` and `label`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format

from serving.protocol import protos
from serving.protocol.status import Code, StatusError
from serving.protocol.token import Token
from serving.server.admission import Call
from serving.server.metrics import Entrance
from serving.server.rest.pages import HEALTH_PAGES
from serving.server.service import Api

# What web pages of other sites may do, as TensorFlow Serving says it.
_CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]


def status(api: Api, match: re.Match[str]) -> Any:
    """Returns the state of each version of a model, or of the one that the path names."""
    # As in TensorFlow Serving, a label in the path is ignored: the answer lists all versions.
    return _as_dict(api.status(asked(protos.GetModelStatusRequest(), match), Call()))


def metadata(api: Api, match: re.Match[str]) -> Any:
    """Returns the signatures of a model."""
    with api.use(asked(protos.GetModelMetadataRequest(), match)) as model:
        return {
            "model_spec": {"name": match["name"], "signature_name": "", "version": str(model.version)},
            "metadata": {"signature_def": _as_dict(api.signature_defs(model))},
        }


def _as_dict(message: Any) -> Any:
    """Returns a message as TensorFlow Serving prints it in JSON: with its fields that have no value."""
    # The option has another name since protobuf 5.
    now, before = "always_print_fields_with_no_presence", "including_default_value_fields"
    option = now if now in inspect.signature(json_format.MessageToDict).parameters else before
    return json_format.MessageToDict(message, preserving_proto_field_name=True, **{option: True})


def asked(request: Any, match: re.Match[str]) -> Any:
    """Returns the request, with the model, version and label that a path names in its ModelSpec."""
    request.model_spec.name, version = match["name"] or "", match["version"]
    if match["label"]:
        request.model_spec.version_label = match["label"]
    if version:
        if len(version) > 19 or int(version) >= 1 << 63:  # messages hold 64 bits
            raise StatusError(Code.INVALID_ARGUMENT, f"Failed to convert version: {version[:100]} to numeric.")
        request.model_spec.version.value = int(version)
    return request


def cors_headers(allowed: bool, token: Token | None) -> list[tuple[str, str]]:
    """Returns the headers that tell browsers what web pages of other sites may do."""
    if not allowed or token is None:
        return _CORS if allowed else []
    return [*_CORS[:-1], ("Access-Control-Allow-Headers", "Content-Type, Authorization")]


def gate(token: Token | None, *, cors: bool, entrance: Entrance) -> Callable[[str, str, str | None], bool]:
    """Returns the function that tells whether a request may be answered, by its verb, path and `authorization`.

    It counts and logs the requests that may not. Health needs no token. Browsers ask with OPTIONS, and without the
    token, what web pages of other sites may do.
    """

    def may_ask(verb: str, path: str, authorization: str | None) -> bool:
        is_open = (verb == "GET" and path in HEALTH_PAGES) or (verb == "OPTIONS" and cors)
        if token is None or is_open or token.allows(authorization):
            return True
        entrance.refuse_stranger()
        return False

    return may_ask
