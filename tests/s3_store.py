"""A real S3 server on loopback, with a bucket for each test."""

import os
import re
import subprocess
import sys
import time

import pytest


class Store:
    """A bucket of its own for each test, as boto3 and not as our code sees it."""

    def __init__(self, client, bucket):
        self.client, self.bucket = client, bucket
        client.create_bucket(Bucket=bucket)

    def url(self, name):
        return f"s3://{self.bucket}/{name}"

    def put(self, name, data):
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def put_folder(self, folder, name):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return self.url(name)

    def names(self, name=""):
        """The names of the objects below a name."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=name)
        return [entry["Key"].removeprefix(name).lstrip("/") for page in pages for entry in page.get("Contents", [])]

    def get(self, name):
        """The objects below a name, by what follows it."""
        keys = {key: f"{name}/{key}" for key in self.names(f"{name}/")}
        return {key: self.client.get_object(Bucket=self.bucket, Key=keys[key])["Body"].read() for key in keys}


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory):
    """The address of a server that runs as long as the tests."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as file:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stderr=file)
    try:
        end = time.monotonic() + 60
        while (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.05)
        yield found[0]
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def no_store(monkeypatch, tmp_path):
    """Nothing that says where a store is, who we are, or that one has answered."""
    from tfpipe.files import remote, s3

    for name in [name for name in os.environ if name.startswith(("AWS_", "S3_"))]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3, "_answered", set())
    s3._connection.cache_clear()
    remote.use_options([])
    yield
    s3._connection.cache_clear()
    remote.use_options([])


@pytest.fixture
def keys(no_store, monkeypatch):
    for name, value in (("AWS_ACCESS_KEY_ID", "us"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)


@pytest.fixture
def store(endpoint, keys, monkeypatch, request):
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    return Store(client, re.sub("[^a-z0-9]+", "-", request.node.name.lower())[-60:].strip("-"))
