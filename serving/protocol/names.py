"""Names of the TensorFlow Serving API: services, methods, the default signature, and well-known paths."""

from __future__ import annotations

from pathlib import Path

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
HEALTH_SERVICE = "grpc.health.v1.Health"
PREDICT = f"/{PREDICTION_SERVICE}/Predict"
RELOAD = f"/{MODEL_SERVICE}/HandleReloadConfigRequest"
# A request without a signature name means this one.
DEFAULT_SIGNATURE = "serving_default"
# `method_name` of a signature that answers Classify, or Regress.
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
# Inside a version's folder: the requests that the server runs before it serves the version.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# Path of the Prometheus page on the REST port, unless the monitoring file names another.
METRICS_PATH = "/monitoring/prometheus/metrics"
