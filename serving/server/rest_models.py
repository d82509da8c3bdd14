"""What REST says about a model: the request that a path makes, the states of versions, and the signatures.

Each function takes the match of a path, which has the groups `name`, `version` and `label`.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from google.protobuf import json_format

from serving.protocol import protos
from serving.protocol.status import Code, StatusError
from serving.server.admission import Call
from serving.server.service import Api


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
