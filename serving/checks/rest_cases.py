"""Checks of the REST API: answers against those of gRPC, and refusals with the right status."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial

import numpy as np

from serving.checks.probe import NO_VERSION, Case, Probe, close, require, rest_refused
from serving.protocol.names import WAV_SIGNATURES

# Bytes of a WAV file before its samples.
_HEADER = 44


def rest_cases(probe: Probe) -> Iterator[Case]:
    """Yields the checks of the REST API."""
    yield "REST: rows, columns and gRPC give the same", partial(_predict, probe)
    yield "REST: several outputs are objects by row", partial(_objects, probe)
    yield "REST: status and metadata", partial(_status, probe)
    if probe.signatures.keys() >= set(WAV_SIGNATURES):
        yield "REST: WAV files are base64", partial(_wav, probe)
    model = f"/v1/models/{probe.target.model}"
    rows = [probe.z[0].tolist()]
    for name, verb, path, body, code, says in (
        ("an unknown model", "POST", "/v1/models/nope:predict", {"instances": rows}, 404, "Latest(nope)"),
        ("an unknown version", "POST", f"{model}/versions/{NO_VERSION}:predict", {"instances": rows}, 404, "Specific"),
        ("an unknown label", "POST", f"{model}/labels/nope:predict", {"instances": rows}, 400, "version label: nope"),
        (
            "an unknown signature",
            "POST",
            f"{model}:predict",
            {"signature_name": "nope", "instances": rows},
            400,
            'Serving signature name: "nope" not found in signature def',
        ),
        ("neither rows nor columns", "POST", f"{model}:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("rows and columns", "POST", f"{model}:predict", {"inputs": rows, "instances": rows}, 400, "only one of"),
        ("no rows", "POST", f"{model}:predict", {"instances": []}, 400, "No values in 'instances' array"),
        ("a body that is not JSON", "POST", f"{model}:predict", "{", 400, "JSON"),
        (
            "ragged rows",
            "POST",
            f"{model}:predict",
            {"signature_name": "decode", "instances": [rows[0], rows[0][1:]]},
            400,
            "",
        ),
        ("an unknown path", "GET", "/v1/nope", None, 400, "Malformed request: GET /v1/nope"),
        ("the status of an unknown model", "GET", "/v1/models/nope", None, 404, "Could not find any versions of model"),
    ):
        yield (
            f"REST refuses {name}",
            partial(rest_refused, partial(probe.rest, verb, path, body), code, says),
        )


def _predict(probe: Probe) -> None:
    path, expected = f"/v1/models/{probe.target.model}:predict", probe.outputs(probe.request(inputs={"z": probe.z}))
    for key, answer in (("instances", "predictions"), ("inputs", "outputs")):
        status, body = probe.rest("POST", path, {"signature_name": "decode", key: probe.z.tolist()})
        require(status == 200 and answer in body, f"{key}: status {status}, {str(body)[:200]}")
        close(np.asarray(body[answer], np.float32), expected["mel"], key)


def _objects(probe: Probe) -> None:
    columns = {alias: values.tolist() for alias, values in probe.draw([1, 2]).items()}
    instances = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    body = {"signature_name": "generate", "instances": instances}
    status, answer = probe.rest("POST", f"/v1/models/{probe.target.model}:predict", body)
    rows = answer.get("predictions", [])
    require(status == 200 and [set(row) for row in rows] == [{"z", "mel"}] * 2, f"status {status}, {str(answer)[:200]}")
    close(np.array([row["z"] for row in rows]), probe.client.generate([1, 2]).z, "the latents")


def _wav(probe: Probe) -> None:
    body = {"signature_name": "decode_wav", "instances": [{"z": probe.z[0].tolist(), "ref_db": 9.0}]}
    status, answer = probe.rest("POST", f"/v1/models/{probe.target.model}:predict", body)
    require(status == 200, f"status {status}, {str(answer)[:200]}")
    wav = answer["predictions"][0]["b64"]
    other = probe.client.decode_wav(probe.z[:1], [9.0])[0]
    found = base64.b64decode(wav)
    require((len(found), found[:_HEADER]) == (len(other), other[:_HEADER]), "another file than gRPC's")
    body = {"signature_name": "reconstruct_wav", "instances": [{"b64": wav}]}
    status, answer = probe.rest("POST", f"/v1/models/{probe.target.model}:predict", body)
    require(status == 200 and base64.b64decode(answer["predictions"][0]["b64"]).startswith(b"RIFF"), f"{status}")


def _status(probe: Probe) -> None:
    path = f"/v1/models/{probe.target.model}"
    status, body = probe.rest("GET", path)
    states = {entry["version"]: entry["state"] for entry in body.get("model_version_status", [])}
    require(status == 200 and states.get(str(probe.version)) == "AVAILABLE", f"status {status}, {str(body)[:200]}")
    status, body = probe.rest("GET", f"{path}/metadata")
    named = set(body.get("metadata", {}).get("signature_def", {}).get("signature_def", {}))
    require(status == 200 and named >= set(probe.signatures), f"metadata: status {status}, signatures {sorted(named)}")
