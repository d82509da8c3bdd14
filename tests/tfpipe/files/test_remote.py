"""Local paths and URLs behind the same functions; tests/integration/test_s3_job.py reads real buckets."""

import pytest

from tfpipe.errors import UsageError
from tfpipe.files import remote


@pytest.mark.parametrize(
    ("path", "expected"), [("s3://a/b", True), ("http://a", True), ("/a://b", False), ("a.wav", False)]
)
def test_a_url_has_a_scheme(path, expected):
    assert remote.is_remote(path) is expected


def test_names_are_joined_to_folders(tmp_path):
    assert remote.join("s3://bucket/data/", "a") == "s3://bucket/data/a"
    assert remote.join(tmp_path, "a") == str(tmp_path / "a")


def test_a_url_is_refused_where_a_local_folder_is_needed(tmp_path):
    remote.require_local(tmp_path, what="--run")
    with pytest.raises(UsageError, match=r"s3://b/run: --run must be a local folder; copy"):
        remote.require_local("s3://b/run", what="--run")


def test_local_files_have_size_and_time(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    assert remote.stamp(str(tmp_path / "a")) == (3, (tmp_path / "a").stat().st_mtime_ns)
    assert remote.sizes(tmp_path) == {"a": 3}
    assert remote.sizes(tmp_path / "gone") == {}
    assert remote.exists(tmp_path / "a")
    assert not remote.exists(tmp_path / "folder")
    with remote.open_read(tmp_path / "a") as file:
        assert file.read() == b"abc"
