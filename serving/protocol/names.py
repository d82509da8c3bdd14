"""Names that client and server, or export and client, share: gRPC methods, signatures, files of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
HEALTH_SERVICE = "grpc.health.v1.Health"
PREDICT = f"/{PREDICTION_SERVICE}/Predict"
RELOAD = f"/{MODEL_SERVICE}/HandleReloadConfigRequest"
# A request without a signature name means this one.
DEFAULT_SIGNATURE = "serving_default"
# `method_name` of a signature that answers Predict, Classify or Regress.
PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
# Inside a version's folder: the requests that the server runs before it serves the version.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# Path of the Prometheus page on the REST port, unless the monitoring file names another.
METRICS_PATH = "/monitoring/prometheus/metrics"

# The name under which a model is served and called, unless another one is given.
MODEL_NAME = "vae"
# gRPC refuses messages of more than 4 MiB (37 spectrograms) unless these options are set.
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# Largest tensor that clients accept in an answer, in bytes: protobuf's limit on a message.
MAX_TENSOR_BYTES = 2**31


def is_version(name: str) -> bool:
    """Tells whether a folder's name is a version of a model: a whole number of at most 18 digits."""
    return name.isascii() and name.isdigit() and len(name) < 19


class SignatureNames(NamedTuple):
    """Names of the inputs and outputs of a signature; the first dimension of each is the batch."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


# The signatures that `tfpipe export` writes and clients call. In REST's JSON an output whose name ends in `_bytes` is
# base64.
SIGNATURES = {
    "encode": SignatureNames(("mel",), ("z_mean", "z_log_var")),
    "encode_audio": SignatureNames(("audio",), ("z_mean", "z_log_var", "mel", "ref_db")),
    "decode": SignatureNames(("z",), ("mel",)),
    "decode_audio": SignatureNames(("z", "ref_db"), ("audio",)),
    "decode_wav": SignatureNames(("z", "ref_db"), ("wav_bytes",)),
    "reconstruct": SignatureNames(("mel",), ("mel",)),
    "reconstruct_wav": SignatureNames(("wav_bytes",), ("wav_bytes",)),
    DEFAULT_SIGNATURE: SignatureNames(("mel",), ("mel",)),
    "generate": SignatureNames(("seed", "temperature"), ("z", "mel")),
    "generate_wav": SignatureNames(("seed", "temperature", "ref_db"), ("wav_bytes",)),
    "spec": SignatureNames(("index",), ("json",)),
}
# Signatures of a model with a learned prior: these replace those above, or are added to them.
PRIOR_SIGNATURES = {
    "generate": SignatureNames(("seed", "temperature", "label"), ("z", "mel")),
    "generate_wav": SignatureNames(("seed", "temperature", "label", "ref_db"), ("wav_bytes",)),
    "continue": SignatureNames(("z", "seed", "temperature", "label"), ("z", "mel")),
    "vary": SignatureNames(("z", "amount", "seed", "label"), ("z", "mel")),
}
# Models that were exported before these signatures existed lack them.
WAV_SIGNATURES = ("decode_wav", "reconstruct_wav", "generate_wav")
# The `label` of a request that asks for no label in particular.
ANY_LABEL = -1
# Level of what is drawn, unless another is asked for, dB. The median of 36 five-second windows of pianos and voices was
# 8.7 dB (90 % between 6 and 12).
REF_DB = 9.0
# The smallest and the largest spread of a draw.
TEMPERATURES = 0.0, 10.0


def signatures_of(description: Mapping[str, Any]) -> dict[str, SignatureNames]:
    """Returns the signatures of a model by what its signature `spec` answers."""
    if "prior" not in description:
        return {name: names for name, names in SIGNATURES.items() if name not in WAV_SIGNATURES}
    return {**SIGNATURES, **(PRIOR_SIGNATURES if description["prior"] else {})}


# Further files of an exported version, beside the warm-up requests: the feature spec, what the signature `spec`
# answers, and a text for people.
SPEC_FILE = WARMUP_FILE.with_name("spec.json")
DESCRIPTION_FILE = WARMUP_FILE.with_name("model.json")
MODEL_CARD_FILE = WARMUP_FILE.with_name("MODEL_CARD.md")
SOURCES_FILE = WARMUP_FILE.with_name("sources.json")
