"""Buckets that are missing, refuse or do not answer: one line says what is wrong and what to do."""

import socket
import subprocess
import sys
import time

import pytest
import requests
from botocore.config import Config
from helpers import ROOT
from job_tools import config_for, last_line

from beam_jobs.corpus import discover
from beam_jobs.scan import scan_track
from tfpipe.cli.main import main
from tfpipe.errors import TfpipeError
from tfpipe.files import remote, s3


def test_missing_bucket_and_wrong_credentials(endpoint, store, job_corpus, tmp_path, capsys):
    out = ["--output", "s3://nobucket/out"]
    assert main(["preprocess", str(job_corpus), *out]) == 1
    assert "s3://nobucket: no such bucket; check its name" in last_line(capsys)
    assert main(["preprocess", "s3://nobucket/in", "--output", str(tmp_path / "out")]) == 1
    assert "s3://nobucket: no such bucket; check its name" in last_line(capsys)
    for command in ("verify", "inspect"):
        assert main([command, store.url("data")]) == 1
        assert "no complete dataset here" in last_line(capsys)
    # From now on the server checks credentials, and no user exists.
    requests.post(f"{endpoint}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
    try:
        s3._answered.clear()
        assert main(["preprocess", str(job_corpus), "--output", store.url("out")]) == 1
        assert "access denied (InvalidAccessKeyId); check the AWS_* credentials" in last_line(capsys)
    finally:
        requests.post(f"{endpoint}/moto-api/reset-auth", data=b"1e9", timeout=10)


def test_no_credentials(no_store, capsys):
    assert main(["verify", "s3://bucket/data"]) == 1
    assert "no credentials" in (line := last_line(capsys))
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://127.0.0.1:{}", "nonsense"])
def test_an_endpoint_that_does_not_answer(address, keys, monkeypatch, capsys):
    monkeypatch.setattr(s3, "_QUICK", s3._QUICK.merge(Config(read_timeout=0.2)))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        address = address.format(silent.getsockname()[1])
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        started = time.monotonic()
        assert main(["verify", "s3://bucket/data"]) == 1
    assert time.monotonic() - started < 20
    assert "s3://bucket: out of reach" in (line := last_line(capsys))
    assert address in line
    assert "AWS_ENDPOINT_URL" in line


@pytest.mark.slow
def test_a_missing_package_is_named_with_its_fix(job_corpus, tmp_path):
    absent = ("boto3", "botocore", "apache_beam.io.gcp.gcsio")
    fixes = {
        "s3://bucket/data": "pip install 'tfpipe[aws]'",
        "gs://bucket/data": "pip install 'tfpipe[gcp]'",
        "ftp://host/data": "use s3://, gs:// or a local path",
    }
    commands = [["preprocess", url, "--output", str(tmp_path / "out")] for url in fixes]
    commands += [["preprocess", str(job_corpus), "--output", url] for url in fixes] + [["verify", url] for url in fixes]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from tfpipe.cli.main import main\n"
    code += f"print({{main(command) for command in {commands}}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "{1}\n"
    lines = done.stderr.splitlines()
    assert len(lines) == len(commands)
    for line, (url, fix) in zip(lines, 3 * [*fixes.items()], strict=True):
        assert line.startswith(f"tfpipe: {url}")
        assert line.endswith(f"is not installed; {fix}")


def test_invalid_beam_options_are_wrong_usage(job_corpus, tmp_path, capsys):
    assert main(["preprocess", str(job_corpus), "--output", str(tmp_path / "out"), "--", "--s3_endpoint_url"]) == 2
    assert last_line(capsys) == "tfpipe: options for Beam: argument --s3_endpoint_url: expected one argument"


def test_a_store_that_is_gone_ends_the_job_instead_of_skipping_its_files(store, job_corpus, monkeypatch):
    """Beam would retry for minutes before it fails; here the first attempt fails."""
    url = store.put_folder(job_corpus, "in")
    files_there = discover([url]).files

    def gone(path):
        raise OSError(None, "Could not connect to the endpoint URL", path)

    monkeypatch.setattr(remote, "stamp", gone)
    with pytest.raises(TfpipeError, match=r"Could not connect.* run the same command again"):
        scan_track(files_there[0], config_for(url, store.url("out")))
