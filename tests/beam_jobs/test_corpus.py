"""Which files of a folder, a glob or a path are taken, and which are reported."""

import os

import pytest
from job_tools import write_wav

from beam_jobs.corpus import discover
from tfpipe.errors import TfpipeError


def names(corpus):
    return [file.name for file in corpus.files]


def test_labels_are_parent_folders_and_order_does_not_matter(tmp_path):
    for name in ("Piano/b.wav", "Piano/a.wav", "Human/x/c.wav"):
        write_wav(tmp_path / name)
    found = discover([str(tmp_path)])
    assert [(file.name, file.label) for file in found.files] == [
        ("Human/x/c.wav", "x"),
        ("Piano/a.wav", "Piano"),
        ("Piano/b.wav", "Piano"),
    ]
    parts = [str(tmp_path / "Piano"), str(tmp_path / "Human"), str(tmp_path / "Piano")]
    assert discover(parts).files == discover(parts[::-1]).files == found.files


def test_content_decides_instead_of_the_name(tmp_path):
    write_wav(tmp_path / "L" / "recording.txt")
    (tmp_path / "L" / "README.md").write_text("# notes")
    (tmp_path / "L" / "cover.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    (tmp_path / "L" / "labels.csv").write_text("a,b\n")
    (tmp_path / "L" / "empty").touch()
    (tmp_path / "L" / "lie.wav").write_text("not audio")
    write_wav(tmp_path / "L" / ".hidden.wav")
    write_wav(tmp_path / ".cache" / "old.wav")
    assert names(discover([str(tmp_path)])) == ["L/lie.wav", "L/recording.txt"]


def test_single_files_and_globs(tmp_path):
    for name in ("Piano/a.wav", "Piano/b.wav", "Human/c.wav"):
        write_wav(tmp_path / name)
    assert names(discover([str(tmp_path / "Piano" / "a.wav")])) == ["a.wav"]
    assert names(discover([str(tmp_path / "*" / "[ac].wav")])) == ["Human/c.wav", "Piano/a.wav"]
    write_wav(tmp_path / "odd[1]" / "d.wav")
    assert names(discover([str(tmp_path / "odd[1]")])) == ["d.wav"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    write_wav(tmp_path / "real" / "Piano" / "a.wav")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "real" / "Piano", tmp_path / "in" / "Piano")
    os.symlink(tmp_path / "in", tmp_path / "real" / "Piano" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "in" / "gone.wav")
    found = discover([str(tmp_path / "in")])
    assert names(found) == ["Piano/a.wav"]
    assert [(row.path, row.code) for row in found.skipped] == [("gone.wav", "unreadable")]


def test_only_regular_files_are_opened(tmp_path):
    write_wav(tmp_path / "L" / "a.wav")
    os.mkfifo(tmp_path / "L" / "pipe.wav")
    os.mkfifo(tmp_path / "L" / "pipe")
    (tmp_path / "L" / "folder.wav").mkdir()
    write_wav(tmp_path / "L" / "full.wav" / "inside.wav")
    found = discover([str(tmp_path)])
    assert names(found) == ["L/a.wav", "L/full.wav/inside.wav"]
    assert [(row.path, row.code) for row in found.skipped] == [
        ("L/folder.wav", "not_a_file"),
        ("L/pipe.wav", "not_a_file"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_reported(tmp_path):
    write_wav(tmp_path / "L" / "a.wav")
    (tmp_path / "closed").mkdir(mode=0)
    assert [(row.path, row.code) for row in discover([str(tmp_path)]).skipped] == [("closed", "unreadable")]


def test_missing_and_empty_inputs_say_so(tmp_path):
    with pytest.raises(TfpipeError, match=r"gone: no such file or folder"):
        discover([str(tmp_path / "gone")])
    with pytest.raises(TfpipeError, match="nothing matches"):
        discover([str(tmp_path / "*.wav")])
    (tmp_path / "notes.txt").write_text("hello")
    for entry in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(TfpipeError, match="no audio files here"):
            discover([str(entry)])
