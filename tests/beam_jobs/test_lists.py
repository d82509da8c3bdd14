"""Lists of recordings: what they give, and the line that is wrong."""

import json

import pytest
from job_tools import write_wav

from beam_jobs.corpus import discover
from tfpipe.errors import TfpipeError


def test_lists_give_label_and_group(tmp_path):
    for name in ("x/a.wav", "x/b, c.wav", "y/d.wav", "z/free.wav", "x/\u00fc\n.wav"):
        write_wav(tmp_path / name)
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
        ("x/a.wav", "L"),  # the list wins over the folder's name
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
        (
            "a.csv",
            "path,label\nx.wav,A\nx.wav,A\n./x.wav,B\n",
            r"a.csv:4: .*x.wav has another label, group or split .* a.csv:2",
        ),
        ("a.csv", "path,label\nx\0.wav,A\n", r"a.csv:2: "),
        ("a.jsonl", '{"path": "x.wav", "label": "A"}\n{"path": \n', r"a.jsonl:2: not JSON"),
        ("a.jsonl", "[" * 9999, r"a.jsonl:1: not JSON"),
        ("a.jsonl", '["x.wav", "A"]\n', r"a.jsonl:1: not an object"),
        ("a.jsonl", '{"path": "x.wav", "label": 3}\n', r"a.jsonl:1: no text for 'label'"),
        ("a.jsonl", '{"path": "\\ud800.wav", "label": "A"}\n', r"a.jsonl:1: holds a character"),
        ("a.csv", "path,label\n", r"no audio files here"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(name, text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "x.wav")
    (tmp_path / name).write_text(text)
    with pytest.raises(TfpipeError, match=words) as caught:
        discover([name])
    assert "\n" not in str(caught.value)


def test_a_groups_file_sets_groups_and_must_fit_the_input(tmp_path):
    for name in ("in/A/1.wav", "in/A/2.wav", "in/B/3.wav"):
        write_wav(tmp_path / name)
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


def test_a_list_chooses_splits_for_files_of_folders(tmp_path):
    paths = [write_wav(tmp_path / "in" / "Piano" / f"{name}.wav") for name in "abc"]
    (tmp_path / "splits.csv").write_text("path,split\nin/Piano/b.wav,test\nin/Piano/c.wav,train\n")
    found = discover([str(tmp_path / "in")], splits_from=str(tmp_path / "splits.csv"))
    assert [file.split for file in found.files] == ["", "test", "train"]
    assert [file.path for file in found.files] == [str(path) for path in paths]


def test_an_unknown_split_and_two_splits_of_a_group_are_refused_with_the_fix(tmp_path):
    for name in "ab":
        write_wav(tmp_path / f"{name}.wav")
    (tmp_path / "list.csv").write_text("path,label,group,split\na.wav,L,g,train\nb.wav,L,g,val\n")
    with pytest.raises(TfpipeError, match=r"list.csv:3: split 'val' is unknown; use train, validation, test"):
        discover([str(tmp_path / "list.csv")])
    (tmp_path / "list.csv").write_text("path,label,group,split\na.wav,L,g,train\nb.wav,L,g,test\n")
    with pytest.raises(TfpipeError, match=r"group 'g' is in the split 'train'.* give all files of a group one split"):
        discover([str(tmp_path / "list.csv")])
