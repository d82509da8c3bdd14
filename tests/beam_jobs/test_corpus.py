import json
import os
import shutil

import pytest
import soundfile
from job_tools import note

from beam_jobs.corpus import discover
from tfpipe.errors import TfpipeError


def wav(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, note(220, 1, 8000), 8000, format="WAV")
    return path


def names(corpus):
    return [file.name for file in corpus.files]


def test_labels_are_parent_folders_and_order_does_not_matter(tmp_path):
    for name in ("Piano/b.wav", "Piano/a.wav", "Human/x/c.wav"):
        wav(tmp_path / name)
    found = discover([str(tmp_path)])
    assert [(file.name, file.label) for file in found.files] == [
        ("Human/x/c.wav", "x"),
        ("Piano/a.wav", "Piano"),
        ("Piano/b.wav", "Piano"),
    ]
    parts = [str(tmp_path / "Piano"), str(tmp_path / "Human"), str(tmp_path / "Piano")]
    assert discover(parts).files == discover(parts[::-1]).files == found.files


def test_content_decides_not_the_name(tmp_path):
    wav(tmp_path / "L" / "recording.txt")
    (tmp_path / "L" / "README.md").write_text("# notes")
    (tmp_path / "L" / "cover.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    (tmp_path / "L" / "labels.csv").write_text("a,b\n")
    (tmp_path / "L" / "empty").touch()
    (tmp_path / "L" / "lie.wav").write_text("not audio")
    wav(tmp_path / "L" / ".hidden.wav")
    wav(tmp_path / ".cache" / "old.wav")
    assert names(discover([str(tmp_path)])) == ["L/lie.wav", "L/recording.txt"]


def test_single_files_and_globs(tmp_path):
    for name in ("Piano/a.wav", "Piano/b.wav", "Human/c.wav"):
        wav(tmp_path / name)
    assert names(discover([str(tmp_path / "Piano" / "a.wav")])) == ["a.wav"]
    assert names(discover([str(tmp_path / "*" / "[ac].wav")])) == ["Human/c.wav", "Piano/a.wav"]
    wav(tmp_path / "odd[1]" / "d.wav")
    assert names(discover([str(tmp_path / "odd[1]")])) == ["d.wav"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    wav(tmp_path / "real" / "Piano" / "a.wav")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "real" / "Piano", tmp_path / "in" / "Piano")
    os.symlink(tmp_path / "in", tmp_path / "real" / "Piano" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "in" / "gone.wav")
    found = discover([str(tmp_path / "in")])
    assert names(found) == ["Piano/a.wav"]
    assert [(row.path, row.code) for row in found.skipped] == [("gone.wav", "unreadable")]


def test_only_regular_files_are_opened(tmp_path):
    wav(tmp_path / "L" / "a.wav")
    os.mkfifo(tmp_path / "L" / "pipe.wav")
    os.mkfifo(tmp_path / "L" / "pipe")
    (tmp_path / "L" / "folder.wav").mkdir()
    wav(tmp_path / "L" / "full.wav" / "inside.wav")
    found = discover([str(tmp_path)])
    assert names(found) == ["L/a.wav", "L/full.wav/inside.wav"]
    assert [(row.path, row.code) for row in found.skipped] == [
        ("L/folder.wav", "not_a_file"),
        ("L/pipe.wav", "not_a_file"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_reported(tmp_path):
    wav(tmp_path / "L" / "a.wav")
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
    shutil.rmtree(tmp_path)


def test_lists_give_label_and_group(tmp_path):
    for name in ("x/a.wav", "x/b, c.wav", "y/d.wav", "z/free.wav", "x/\u00fc\n.wav"):
        wav(tmp_path / name)
    (tmp_path / "list.csv").write_text(
        'path,note,label,group\nx/a.wav,,Piano,p1\n"x/b, c.wav",hi,Human,\n'
        '"x/\u00fc\n.wav",,Piano,p1\nx/gone.wav,,Piano,\n',
        encoding="utf-8-sig",
    )
    rows = [
        {"path": "../y/d.wav", "label": "Human"},
        {"path": str(tmp_path / "x" / "a.wav"), "label": "L", "group": None},
    ]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.JSONL").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = discover([str(tmp_path / "list.csv")])
    assert found.base == str(tmp_path)
    assert [(file.name, file.label, file.group) for file in found.files] == [
        ("x/a.wav", "Piano", "p1"),
        ("x/b, c.wav", "Human", ""),
        ("x/\u00fc\n.wav", "Piano", "p1"),
    ]
    (row,) = found.skipped
    assert (row.path, row.code) == ("x/gone.wav", "missing")
    assert "list.csv:6 names" in row.message
    found = discover([str(tmp_path / "lists" / "list.JSONL"), str(tmp_path / "z"), str(tmp_path / "x")])
    assert {(file.name, file.label) for file in found.files} == {
        ("x/a.wav", "L"),  # the list rules over the folder
        ("x/b, c.wav", "x"),
        ("x/\u00fc\n.wav", "x"),
        ("y/d.wav", "Human"),
        ("z/free.wav", "z"),
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", r"a.csv:1: no column 'path'"),
        ("a.csv", "path,kind\nx.wav,Piano\n", r"a.csv:1: no column 'label'"),
        ("a.csv", "path,label\nx.wav,Piano\nx.wav\n", r"a.csv:3: no text for 'label'"),
        ("a.csv", "path,label\n,Piano\n", r"a.csv:2: no text for 'path'"),
        ("a.csv", "path,label\nb, c.wav,Piano\n", r"a.csv:2: more values than columns"),
        ("a.csv", 'path,label\n"x.wav,Piano\n', r"a.csv:2: not CSV"),
        ("a.csv", "path,label\nx.wav,A\nx.wav,A\n./x.wav,B\n", r"a.csv:4: .*x.wav has another label .* a.csv:2"),
        ("a.csv", "path,label\nx\0.wav,A\n", r"a.csv:2: "),
        ("a.jsonl", '{"path": "x.wav", "label": "A"}\n{"path": \n', r"a.jsonl:2: not JSON"),
        ("a.jsonl", "[" * 9999, r"a.jsonl:1: not JSON"),
        ("a.jsonl", '["x.wav", "A"]\n', r"a.jsonl:1: not an object"),
        ("a.jsonl", '{"path": "x.wav", "label": 3}\n', r"a.jsonl:1: no text for 'label'"),
        ("a.jsonl", '{"path": "\\ud800.wav", "label": "A"}\n', r"a.jsonl:1: holds a character"),
        ("a.csv", "path,label\n", r"no audio files here"),
    ],
)
def test_a_wrong_list_says_where(name, text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav(tmp_path / "x.wav")
    (tmp_path / name).write_text(text)
    with pytest.raises(TfpipeError, match=words) as caught:
        discover([name])
    assert "\n" not in str(caught.value)


def test_groups_file(tmp_path):
    for name in ("in/A/1.wav", "in/A/2.wav", "in/B/3.wav"):
        wav(tmp_path / name)
    (tmp_path / "groups.csv").write_text("path,group\nin/A/1.wav,anna\nin/B/3.wav,anna\n")
    found = discover([str(tmp_path / "in")], groups=str(tmp_path / "groups.csv"))
    assert [(file.name, file.group) for file in found.files] == [
        ("A/1.wav", "anna"),
        ("A/2.wav", ""),
        ("B/3.wav", "anna"),
    ]
    (tmp_path / "groups.csv").write_text("path,group\nin/A/1.wav,anna\nin/A/33.wav,anna\n")
    with pytest.raises(TfpipeError, match=r"groups.csv:3: .*33.wav is not among"):
        discover([str(tmp_path / "in")], groups=str(tmp_path / "groups.csv"))
    for name, words in (("gone.csv", "no such file"), ("in/A/1.wav", "not a list")):
        with pytest.raises(TfpipeError, match=words):
            discover([str(tmp_path / "in")], groups=str(tmp_path / name))
