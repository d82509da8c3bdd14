"""Files that are whole or absent, folder locks, checksums."""

import errno
import os
import subprocess
import sys

import pytest

from tfpipe.errors import TfpipeError
from tfpipe.files import storage


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_in_a_folder_that_is_made(tmp_path):
    storage.write_bytes(tmp_path / "new" / "a.bin", b"one")
    storage.write_bytes(str(tmp_path / "new" / "a.bin"), b"two")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"two"
    assert names(tmp_path / "new") == ["a.bin"]


def test_nobody_sees_a_file_before_it_is_whole(tmp_path):
    with storage.atomic_write(tmp_path / "a") as file:
        file.write(b"123")
        file.seek(0)
        file.write(b"x")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"x23"


def test_nobody_sees_a_folder_before_it_is_whole(tmp_path):
    for content in (b"one", b"two"):
        with storage.atomic_folder(tmp_path / "in" / "new") as folder:
            (folder / "a").write_bytes(content)
            assert folder != tmp_path / "in" / "new"
        assert (tmp_path / "in" / "new" / "a").read_bytes() == content
    with pytest.raises(TfpipeError, match="disk full"), storage.atomic_folder(tmp_path / "in" / "new"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "in" / "new" / "a").read_bytes() == b"two"
    assert names(tmp_path / "in") == ["new"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_content(error, tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    def write_half():
        with storage.atomic_write(tmp_path / "a") as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_two_writers_of_one_name_do_not_disturb_each_other(tmp_path):
    with storage.atomic_write(tmp_path / "a") as first:
        first.write(b"first")
        storage.write_bytes(tmp_path / "a", b"second")
        assert (tmp_path / "a").read_bytes() == b"second"
    assert (tmp_path / "a").read_bytes() == b"first"


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(TfpipeError, match=r"/folder: is a folder, a file was expected"):
        storage.write_bytes(tmp_path / "folder", b"")
    with pytest.raises(TfpipeError, match=r"/n{256}: name too long"):
        storage.write_bytes(tmp_path / ("n" * 256), b"")
    with pytest.raises(TfpipeError, match=r"gone: no such file"), storage.atomic_write(tmp_path / "b"):
        (tmp_path / "gone").read_bytes()
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("name", ["n" * 255, "\u00fc" * 127, os.fsdecode(b"\xff" * 255)])
def test_the_longest_names_can_be_written(name, tmp_path):
    storage.write_bytes(tmp_path / name, b"")
    assert names(tmp_path) == [name]


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    for name in (".a.tmp-01234567", ".lock", "a.tmp-1", "b"):
        (tmp_path / name).write_bytes(b"")
    storage.remove_leftovers(tmp_path)
    assert names(tmp_path) == [".lock", "a.tmp-1", "b"]


def test_json_is_read_back_as_it_was_written(tmp_path):
    value = {"b": [1, 2.5, None], "a": "\u00fc"}
    storage.write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text().startswith('{\n  "a": "\u00fc",\n  "b"')
    assert storage.read_json(str(tmp_path / "a.json")) == value


def test_what_is_not_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(TfpipeError, match=r"a\.json: not valid JSON .* the file is damaged"):
        storage.read_json(tmp_path / "a.json")
    with pytest.raises(TfpipeError, match=r"b\.json: no such file or folder"):
        storage.read_json(tmp_path / "b.json")


def test_a_locked_folder_is_refused_and_the_holder_is_named(tmp_path):
    with storage.folder_lock(tmp_path / "new", what="tfpipe train"):
        assert storage.is_locked(tmp_path / "new")
        refused = pytest.raises(TfpipeError, match=rf"another tfpipe train \(process {os.getpid()}\) is working here")
        with refused, storage.folder_lock(tmp_path / "new", what="tfpipe train"):
            pass
    assert not storage.is_locked(tmp_path / "new")
    with storage.folder_lock(str(tmp_path / "new"), what="tfpipe train"):
        pass


def test_a_folder_without_a_lock_file_is_not_locked(tmp_path):
    assert not storage.is_locked(tmp_path)


def test_who_waits_for_a_lock_gets_it_when_the_holder_dies(tmp_path):
    (tmp_path / ".lock").touch()
    hold = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        waited = []

        def on_wait():
            waited.append(True)
            holder.kill()

        with storage.folder_lock(tmp_path, what="job", on_wait=on_wait):
            assert waited == [True]


def test_a_folder_replaces_another(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    storage.replace_folder(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old" / "which").read_text() == "new"


def test_digests_follow_the_content(tmp_path):
    assert storage.digest({"a": 1, "b": 2}) == storage.digest({"b": 2, "a": 1}) != storage.digest({"a": 1, "b": 3})
    assert len(storage.digest("\udcff")) == 16  # a file name that is not UTF-8
    (tmp_path / "a").write_bytes(b"abc")
    assert storage.sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")
