"""Checks of GetModelMetadata and GetModelStatus, and of the methods that a model of `tfpipe export` does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from serving.checks.probe import NO_VERSION, Case, Probe, refused, require
from serving.protocol import protos
from serving.protocol.names import MODEL_SERVICE, PREDICTION_SERVICE


def model_cases(probe: Probe) -> Iterator[Case]:
    """Yields the checks of metadata and status, and of Classify and Regress."""
    yield "GetModelMetadata describes the signatures", partial(_metadata, probe)
    for name, request, code, says in _metadata_refusals(probe):
        yield (
            f"GetModelMetadata refuses {name}",
            partial(refused, partial(_ask_metadata, probe, request), code, says),
        )
    yield "GetModelStatus tells the state of versions", partial(_status, probe)
    for name, model, version, says in (
        ("an unknown model", "no-such-model", None, "Could not find any versions of model no-such-model"),
        (
            "an unknown version",
            probe.target.model,
            NO_VERSION,
            f"Could not find version {NO_VERSION} of model {probe.target.model}",
        ),
    ):
        yield (
            f"GetModelStatus refuses {name}",
            partial(refused, partial(_ask_status, probe, model, version), "NOT_FOUND", says),
        )
    for method, request_class in (
        ("Classify", protos.ClassificationRequest),
        ("Regress", protos.RegressionRequest),
    ):
        yield (
            f"{method} refuses a model without such signatures",
            partial(refused, partial(_classify, probe, method, request_class), "INVALID_ARGUMENT", ""),
        )


def _ask_metadata(probe: Probe, request: Any) -> Any:
    return probe.call(f"/{PREDICTION_SERVICE}/GetModelMetadata", request, protos.GetModelMetadataResponse)


def _metadata(probe: Probe) -> None:
    request = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = probe.target.model
    signatures = protos.SignatureDefMap()
    _ask_metadata(probe, request).metadata["signature_def"].Unpack(signatures)
    missing = set(probe.signatures) - set(signatures.signature_def)
    require(not missing, f"it does not name {', '.join(sorted(missing))}")
    shape = [dim.size for dim in signatures.signature_def["decode"].inputs["z"].tensor_shape.dim]
    require(shape == [-1, probe.latent], f"z of decode has the shape {shape}")


def _metadata_refusals(probe: Probe) -> Iterator[tuple[str, Any, str, str]]:
    none = protos.GetModelMetadataRequest()
    none.model_spec.name = probe.target.model
    other = protos.GetModelMetadataRequest(metadata_field=["nope"])
    other.model_spec.name = probe.target.model
    unknown = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    unknown.model_spec.name = "nope"
    yield "a request for no field", none, "INVALID_ARGUMENT", ""
    yield "an unknown field", other, "INVALID_ARGUMENT", "Metadata field nope is not supported"
    yield "an unknown model", unknown, "NOT_FOUND", "Servable not found for request: Latest(nope)"


def _ask_status(probe: Probe, model: str, version: int | None = None) -> Any:
    request = protos.GetModelStatusRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    return probe.call(f"/{MODEL_SERVICE}/GetModelStatus", request, protos.GetModelStatusResponse)


def _status(probe: Probe) -> None:
    for version in (None, probe.version):
        states = _ask_status(probe, probe.target.model, version).model_version_status
        found = {state.version: state.State.Name(state.state) for state in states}
        require(found.get(probe.version) == "AVAILABLE", f"it says {found}")


def _classify(probe: Probe, method: str, request_class: Any) -> None:
    request = request_class()
    request.model_spec.name = probe.target.model
    request.input.example_list.examples.add()
    probe.call(f"/{PREDICTION_SERVICE}/{method}", request, protos.PredictResponse)
