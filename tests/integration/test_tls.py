"""TLS and mutual TLS, with certificates made for the test."""

import datetime
import ipaddress

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from serving_tools import Caller, run_command, start_server

from serving.client.client import Client
from serving.client.connection import ClientTls
from serving.server.config_files import read_tls
from tfpipe.errors import ServingError, UsageError

ROWS = np.ones((1, 3), np.float32)


def issue(folder, name, *, by=None):
    """Writes `NAME.pem` and `NAME.key`, signed by the pair `by` or by itself; returns the new pair."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, issuer_key = by or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return subject, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    authority = issue(folder, "authority")
    for name in ("server", "client"):
        issue(folder, name, by=authority)
    issue(folder, "stranger", by=issue(folder, "other"))
    return folder


def ssl_config(certificates, tmp_path, *, verify):
    def quoted(name):
        return '"' + (certificates / name).read_text().replace("\n", "\\n") + '"'

    path = tmp_path / "ssl.config"
    path.write_text(
        f"server_key: {quoted('server.key')} server_cert: {quoted('server.pem')} "
        f"custom_ca: {quoted('authority.pem')} client_verify: {'true' if verify else 'false'}"
    )
    return path


@pytest.mark.parametrize("verify", [False, True])
def test_tls_and_mutual_tls(toy, certificates, tmp_path, verify):
    tls = read_tls(ssl_config(certificates, tmp_path, verify=verify))
    server = start_server(toy, tls=tls, enable_model_warmup=False)
    ca = certificates / "authority.pem"
    try:
        for settings, answered in (
            ({"ca": ca}, not verify),
            ({"ca": ca, "cert": certificates / "client.pem", "key": certificates / "client.key"}, True),
            ({"ca": ca, "cert": certificates / "stranger.pem", "key": certificates / "stranger.key"}, not verify),
            ({"ca": certificates / "other.pem"}, False),
            (None, False),
        ):
            client_tls = ClientTls(**settings) if settings else None
            timeout_s = 60 if answered else 1.0
            with Client(f"127.0.0.1:{server.port}", tls=client_tls, timeout_s=timeout_s) as client:
                if answered:
                    assert client._run("double", {"x": ROWS})["y"].tolist() == (2 * ROWS).tolist()
                else:
                    with pytest.raises(ServingError):
                        client._run("double", {"x": ROWS})
        credentials = grpc.ssl_channel_credentials(
            ca.read_bytes(), (certificates / "client.key").read_bytes(), (certificates / "client.pem").read_bytes()
        )
        with Caller(server.port, credentials=credentials) as caller:
            caller.predict("double", x=ROWS)
    finally:
        server.stop(grace_s=5)


def test_command_line_of_the_client(toy, certificates, tmp_path, capsys):
    server = start_server(toy, tls=read_tls(ssl_config(certificates, tmp_path, verify=True)))
    where = ["--server", f"127.0.0.1:{server.port}", "--timeout-s", "60", "--json"]
    own = ["--tls-cert", certificates / "client.pem", "--tls-key", certificates / "client.key"]
    assert server.rest_port is None, "REST would answer those whom gRPC refuses"
    assert server.config.reload_is_allowed
    try:
        run_command("client", "status", *where, "--tls-ca", certificates / "authority.pem", *own)
        assert '"AVAILABLE"' in capsys.readouterr().out
        with pytest.raises(UsageError, match="need --tls-ca"):
            run_command("client", "status", *where, *own)
        with pytest.raises(UsageError, match="both or neither"):
            run_command("client", "status", *where, "--tls-ca", certificates / "authority.pem", *own[:2])
    finally:
        server.stop(grace_s=5)


def test_certificates_that_do_not_fit_are_one_line(toy, certificates, tmp_path):
    path = ssl_config(certificates, tmp_path, verify=False)
    path.write_text(path.read_text().replace("BEGIN", "BEGUN"))
    with pytest.raises(ServingError, match="ssl_config_file") as info:
        start_server(toy, tls=read_tls(path))
    assert "\n" not in str(info.value)
