"""The files for the stock TensorFlow Serving image fit their schemas and each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from helpers import ROOT
from jsonschema import ValidationError
from jsonschema.validators import validator_for
from packaging.version import Version

from tfpipe.lanes import LANES

DEPLOY = ROOT / "serving" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVING = COMPOSE["services"]["serving"]
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
POD = KUBERNETES[0]["spec"]["template"]["spec"]
# What the image's own start script gives the server.
PORTS = {8500, 8501}


def compose_problems(compose) -> list[ValidationError]:
    schema = get_builtin_schema("vendor.compose-spec")
    return list(validator_for(schema)(schema).iter_errors(compose))


def test_compose():
    assert compose_problems(COMPOSE) == []
    assert compose_problems({"services": {"serving": {**SERVING, "commands": []}}})
    published = [port.split(":") for port in SERVING["ports"]]
    assert {host for host, _, _ in published} == {"127.0.0.1"}
    assert {int(inside) for _, _, inside in published} == PORTS
    mounts = [volume.rsplit(":", 2)[:2] for service in COMPOSE["services"].values() for volume in service["volumes"]]
    here = [source for source, _ in mounts if source.startswith("./")]
    assert len(here) == len(mounts) - 1  # MODEL_DIR is the user's
    assert all((DEPLOY / source).is_file() for source in here)


@pytest.mark.parametrize("manifest", KUBERNETES, ids=lambda manifest: manifest["kind"])
@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_kubernetes(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifest, "specs": {}}, version, strict=True)


def test_kubernetes_parts_fit_each_other():
    kinds = {manifest["kind"]: manifest for manifest in KUBERNETES}
    name, template = kinds["Deployment"]["metadata"]["name"], kinds["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["Service"]["spec"]["selector"] == labels
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name
    (container,) = POD["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert set(ports.values()) == PORTS
    assert {(port["targetPort"], port["port"]) for port in kinds["Service"]["spec"]["ports"]} == set(ports.items())
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    assert {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes} == set(ports)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl")
def test_kustomization():
    done = subprocess.run(["kubectl", "kustomize", DEPLOY], capture_output=True, text=True, check=True)
    manifests = list(yaml.safe_load_all(done.stdout))
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.32", strict=True)
    kinds = {manifest["kind"]: manifest for manifest in manifests}
    assert kinds.keys() == {manifest["kind"] for manifest in KUBERNETES} | {"ConfigMap"}
    assert kinds["ConfigMap"]["data"].keys() == {path.name for path in DEPLOY.glob("*.config")}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (config,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert config == kinds["ConfigMap"]["metadata"]["name"]
    assert pod["containers"][0]["image"].startswith("tensorflow/serving:")


def test_both_start_the_server_alike():
    flags = SERVING["command"]
    assert flags == POD["containers"][0]["args"]
    files = {flag.rpartition("/")[2] for flag in flags if "=/config/" in flag}
    assert files == {path.name for path in DEPLOY.glob("*.config")}


def test_images_are_the_lanes():
    lanes = {LANES[lane]["tensorflow-serving-api"] for lane in LANES}
    texts = {path.name: path.read_text() for path in DEPLOY.iterdir() if path.is_file()}
    for name in ("compose.yaml", "kustomization.yaml", "README.md"):
        assert all(version in texts[name] for version in lanes), name
    default = LANES["default"]["tensorflow-serving-api"]
    assert f"TF_SERVING_TAG:-{default}" in texts["compose.yaml"]
    assert yaml.safe_load(texts["kustomization.yaml"])["images"] == [{"name": "tensorflow/serving", "newTag": default}]
    for service in COMPOSE["services"].values():
        tag = re.sub(r"\$\{\w+:-(.+)\}", r"\1", service["image"].partition(":")[2])
        assert Version(tag).release > (0,)


def test_configuration_files_are_what_the_server_reads():
    """By the reader of `tfpipe serve`, which takes the same files."""
    from serving.server import config_files

    (model,) = config_files.read_models(DEPLOY / "models.config") or ()
    probed = POD["containers"][0]["readinessProbe"]["httpGet"]["path"]
    assert probed == f"/v1/models/{model.name}/metadata"
    mounts = {volume.rsplit(":", 2)[-2] for volume in SERVING["volumes"]}
    assert str(model.base_path) in mounts
    assert config_files.read_batching(DEPLOY / "batching.config").max_batch_size == 32
    scrape = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert [job["metrics_path"] for job in scrape] == [config_files.METRICS_PATH]


def test_monitoring():
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == "serving:8501"
    found = re.search(r'path: "(.+)"', (DEPLOY / "monitoring.config").read_text())
    assert found is not None
    path = found[1]
    assert job["metrics_path"] == path
    assert KUBERNETES[0]["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"] == path
    board = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text())["datasources"]
    places = set()
    for panel in board["panels"]:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        places.add((panel["gridPos"]["x"], panel["gridPos"]["y"]))
        for target in panel["targets"]:
            assert re.search(r":tensorflow:serving:[a-z_:]+", target["expr"])
            assert all(target["expr"].count(one) == target["expr"].count(other) for one, other in ("()", "{}", "[]"))
    assert len(places) == len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "provisioning.yaml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/tfpipe.json" in mounted


def test_health_check_asks_as_it_should(tmp_path: Path):
    """The probe of Compose, run by a shell against a server that answers."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Answers(BaseHTTPRequestHandler):
        state = b"AVAILABLE"

        def do_GET(self):
            found = self.path == "/v1/models/vae"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b'{"state": "%b"}' % self.state if found else b"")

        def log_message(self, *_):
            pass

    kind, *command = SERVING["healthcheck"]["test"]
    assert kind == "CMD"
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command[-1] = command[-1].replace("8501", str(server.server_port))
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        Answers.state = b"LOADING"
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0
        server.shutdown()
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
