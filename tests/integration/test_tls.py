"""TLS and mutual TLS, with certificates made for the test."""

import contextlib
import datetime
import ipaddress
import resource
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from http2_frames import PREFACE, SETTINGS, frame
from quick_server import ROW, quick_server
from serving_tools import Caller, run_command, start_server

from serving.client.client import Client
from serving.client.connection import ClientTls
from serving.server.config_files import read_tls
from serving.server.grpc import native_server
from serving.server.grpc.native_server import NativeGrpcServer, is_built
from serving.server.grpc.python_server import PythonGrpcServer
from tfpipe.errors import ServingError, UsageError

ROWS = np.ones((1, 3), np.float32)


@pytest.fixture(params=["native", "python"])
def front_end(request):
    if request.param == "native" and not is_built():
        pytest.skip("the native front end is not built; install Rust and run scripts/setup")
    return request.param


def issue(folder, name, *, by=None, days=1):
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
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
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
    issue(folder, "expired", by=authority, days=-1)
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


def credentials_of(certificates, name=None):
    """Returns a client's credentials, with the certificate of this name."""
    own = [(certificates / f"{name}.{kind}").read_bytes() for kind in ("key", "pem")] if name else [None, None]
    return grpc.ssl_channel_credentials((certificates / "authority.pem").read_bytes(), *own)


@contextlib.contextmanager
def tls_server(certificates, tmp_path, monkeypatch, *, verify=False, **settings):
    """Yields a server with TLS whose model doubles rows, and a `Caller` of it that has a certificate."""
    tls = read_tls(ssl_config(certificates, tmp_path, verify=verify))
    with (
        quick_server(tmp_path, monkeypatch, tls=tls, **settings) as (server, _),
        Caller(server.port, credentials=credentials_of(certificates, "client")) as caller,
    ):
        yield server, caller


def is_closed(raw):
    """Waits until the server has closed a connection; before that, the server may send the reason."""
    try:
        while raw.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def silent(port, data=b""):
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    raw.sendall(data)
    return raw


def client_hello():
    """Returns the first message of a TLS handshake."""
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("verify", [False, True])
def test_tls_and_mutual_tls(toy, certificates, tmp_path, verify, front_end):
    tls = read_tls(ssl_config(certificates, tmp_path, verify=verify))
    server = start_server(toy, tls=tls, enable_model_warmup=False, grpc_front_end=front_end)
    ca = certificates / "authority.pem"
    try:
        for settings, answered in (
            ({"ca": ca}, not verify),
            ({"ca": ca, "cert": certificates / "client.pem", "key": certificates / "client.key"}, True),
            ({"ca": ca, "cert": certificates / "stranger.pem", "key": certificates / "stranger.key"}, not verify),
            ({"ca": ca, "cert": certificates / "expired.pem", "key": certificates / "expired.key"}, not verify),
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
        with Caller(server.port, credentials=credentials_of(certificates, "client")) as caller:
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


@pytest.mark.parametrize("wrong", ["no PEM", "another key"])
def test_certificates_that_do_not_fit_are_one_line(certificates, tmp_path, wrong, front_end):
    path = ssl_config(certificates, tmp_path, verify=False)
    text = path.read_text()
    if wrong == "no PEM":
        text = text.replace("BEGIN", "BEGUN")
    else:
        ours, other = ((certificates / name).read_text().replace("\n", "\\n") for name in ("server.key", "client.key"))
        text = text.replace(ours, other)
    path.write_text(text)
    with pytest.raises(ServingError, match="ssl_config_file") as info:
        start_server(tmp_path, tls=read_tls(path), grpc_front_end=front_end)
    assert "\n" not in str(info.value)


@pytest.mark.skipif(not is_built(), reason="the native front end is not built")
def test_the_native_front_end_answers_with_tls_unless_it_cannot_read_the_certificates(
    certificates, tmp_path, monkeypatch
):
    with tls_server(certificates, tmp_path, monkeypatch) as (server, _):
        assert isinstance(server._grpc, NativeGrpcServer)

    def refuse(*_, **__):
        raise native_server.CertificatesError("--ssl_config_file: an old kind")

    monkeypatch.setattr("serving.server.server.NativeGrpcServer.__init__", refuse)
    with tls_server(certificates, tmp_path, monkeypatch) as (server, caller):
        assert isinstance(server._grpc, PythonGrpcServer)
        np.testing.assert_array_equal(caller.predict("double", x=ROW)["y"], 2 * ROW)


def test_handshakes_that_are_never_finished_are_ended(certificates, tmp_path, monkeypatch, front_end):
    settings = {"grpc_front_end": front_end}
    if front_end == "python":
        settings["grpc_channel_arguments"] = ("grpc.server_handshake_timeout_ms=500",)
    monkeypatch.setattr(native_server, "UNREAD_TIMEOUT_S", 0.5)
    with (
        tls_server(certificates, tmp_path, monkeypatch, **settings) as (server, caller),
        contextlib.ExitStack() as kept,
    ):
        hello = client_hello()
        opened = [kept.enter_context(silent(server.port, data)) for data in (b"", hello[:1], hello[:-1], hello)]
        np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)
        assert all(is_closed(raw) for raw in opened)
        np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)


def test_plain_text_is_not_answered(certificates, tmp_path, monkeypatch, front_end):
    with tls_server(certificates, tmp_path, monkeypatch, grpc_front_end=front_end) as (server, caller):
        for data in (PREFACE + frame(SETTINGS, 0, 0), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", bytes(range(256)) * 64):
            with silent(server.port, data) as raw:
                assert is_closed(raw)
        np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)


@pytest.mark.skipif(not is_built(), reason="the native front end is not built")
def test_unfinished_handshakes_leave_room_for_others(certificates, tmp_path, monkeypatch):
    """The server takes 100 connections. 150 strangers connect and say nothing, or have no certificate."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    try:
        context = tls_server(certificates, tmp_path, monkeypatch, verify=True, grpc_front_end="native")
        server, caller = context.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with contextlib.ExitStack() as kept:
        kept.push(context)
        data = client_hello()
        opened = [kept.enter_context(silent(server.port, data if number % 2 else b"")) for number in range(150)]
        np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)
        assert is_closed(opened[0]), "the oldest has made room"


def test_many_connections_get_their_own_answers(certificates, tmp_path, monkeypatch, front_end):
    def ask(number):
        rows = np.full((1 + number % 3, 3), number, np.float32)
        with Caller(server.port, credentials=credentials_of(certificates, "client")) as own:
            answers = [own.predict("double", x=rows + again, timeout=60)["y"] for again in range(5)]
        return all((answer == 2 * (rows + again)).all() for again, answer in enumerate(answers))

    with (
        tls_server(certificates, tmp_path, monkeypatch, verify=True, grpc_front_end=front_end) as (server, _),
        ThreadPoolExecutor(8) as pool,
    ):
        assert all(pool.map(ask, range(40)))


def test_large_messages_pass_whole(certificates, tmp_path, monkeypatch, front_end):
    rows, wide = np.arange(3000, dtype=np.float32).reshape(1000, 3), np.arange(1 << 20, dtype=np.float32)
    with tls_server(
        certificates,
        tmp_path,
        monkeypatch,
        grpc_front_end=front_end,
        run=lambda inputs: {"y": np.repeat(inputs["x"], 300, axis=1)},
    ) as (_, caller):
        np.testing.assert_array_equal(caller.predict("double", x=rows)["y"], np.repeat(rows, 300, axis=1))
        np.testing.assert_array_equal(caller.predict("any", x=wide[::-1])["y"], wide[-1:])
