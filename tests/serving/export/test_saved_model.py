"""The version folder that an export writes, also beside other exports."""

import dataclasses
import fcntl
import json
import os
import signal
import threading

import pytest

from serving.export import saved_model
from serving.protocol.names import DESCRIPTION_FILE, MODEL_CARD_FILE
from tfpipe.errors import ServingError
from tfpipe.model.networks import build


def test_the_model_folder_holds_one_complete_version(exported):
    folder = exported.path.parent
    assert [p.name for p in folder.iterdir()] == ["1"]
    extra = exported.path / "assets.extra"
    assert {p.name for p in extra.iterdir()} == {
        "tf_serving_warmup_requests",
        "spec.json",
        "model.json",
        "MODEL_CARD.md",
    }
    described = json.loads((exported.path / DESCRIPTION_FILE).read_text())
    assert described["labels"] == ["Human", "Piano"]
    assert described["metadata"]["step"] == 7
    assert exported.difference <= saved_model.TOLERANCE


def test_the_name_of_the_model_and_tensorflow_lite_are_as_asked(model, tmp_path, monkeypatch):
    converted = []
    monkeypatch.setattr(saved_model, "_save", lambda model, functions, path: None)
    monkeypatch.setattr(saved_model._ReadBack, "difference", lambda self, functions, inputs: 0.0)
    monkeypatch.setattr(saved_model, "write_tflite", lambda model, functions, folder: converted.append(folder.name))
    done = saved_model.export_model(model, tmp_path / "models", model_name="small", tflite=True)
    assert done.path == tmp_path / "models" / "1"
    assert (done.path / MODEL_CARD_FILE).read_text().startswith("# small\n")
    assert converted == ["assets.extra"]
    assert not (done.path / ".lock").exists()


def test_the_process_that_reads_back_ends_when_the_export_fails(tmp_path):
    with saved_model._ReadBack(tmp_path) as check:
        assert check._child.poll() is None
    assert check._child.returncode == -signal.SIGKILL
    assert not check._reference.parent.exists()


def test_a_model_in_mixed_precision_is_refused(model, spec, tmp_path):
    half = build("tiny", spec, latent=8, policy="mixed_bfloat16")
    with pytest.raises(ServingError, match="bfloat16"):
        saved_model.export_model(dataclasses.replace(model, encoder=half.encoder), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_exports_at_the_same_time_get_different_versions(tmp_path):
    folder = tmp_path / "models"
    (folder / "0007").mkdir(parents=True)
    (folder / "notes").mkdir()
    versions, barrier = [], threading.Barrier(8)

    def publish(index):
        temporary = folder / f".tmp-{index}"
        temporary.mkdir()
        (temporary / "saved_model.pb").write_text(str(index))
        barrier.wait()
        versions.append(saved_model._publish(temporary, folder))

    threads = [threading.Thread(target=publish, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(8, 16))
    assert {(folder / str(v) / "saved_model.pb").read_text() for v in versions} == set("01234567")


def test_folders_of_killed_exports_are_removed_and_those_of_running_ones_stay(exported, tmp_path):
    left, working, young = (tmp_path / f".tmp-{name}" for name in ("left", "working", "young"))
    for folder in (left, working, young):
        folder.mkdir()
        (folder / "saved_model.pb").write_text("")
    for folder in (left, working):
        os.utime(folder, (0, 0))
    with open(working / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(working, (0, 0))
        saved_model._sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-working", ".tmp-young"]
    assert not (exported.path / ".lock").exists()
