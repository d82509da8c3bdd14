"""Versions of a model come and go while requests run."""

import logging
import os
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from serving_tools import (
    copy_version,
    eventually,
    random_rows,
    serving,
    states,
)

from serving.protocol.status import Code, StatusError
from serving.server.config import Limits
from serving.server.config_files import Policy
from serving.server.models.loaded_model import LoadedModel
from serving.server.models.versions import ModelFolder, Retries


def test_a_rollover_under_load_fails_no_request_and_leaves_nothing_behind(tmp_path, toy_versions, front_end):
    copy_version(toy_versions[1], tmp_path, 1)
    ended, failures = threading.Event(), []
    seen: Counter[int] = Counter()
    settings = {"file_system_poll_wait_seconds": 0.1, "grpc_front_end": front_end}
    with serving(tmp_path, **settings) as (server, caller), ThreadPoolExecutor(16) as pool:

        def ask(number):
            while not ended.is_set():
                x = random_rows(number, 1 + number % 3)
                try:
                    name, factor = ("double", 2) if number % 2 else ("negate", -1)
                    if not np.allclose(caller.predict(name, x=x)["y"], factor * x):
                        failures.append("a wrong answer")
                    seen[int(caller.predict("version", index=np.zeros(1, np.int32))["version"][0])] += 1
                except grpc.RpcError as error:
                    failures.append(error.details())

        asking = [pool.submit(ask, number) for number in range(16)]
        try:
            eventually(lambda: seen[1] > 20)
            threads = {}
            for version in (2, 3):
                copy_version(toy_versions[version], tmp_path, version)
                eventually(lambda version=version: seen[version] > 20)
                eventually(lambda version=version: server.versions == [version])
                eventually(lambda: sum(s.state != "END" for s in server.catalog.statuses("vae")) == 1)
                threads[version] = threading_count()
        finally:
            ended.set()
        for one in asking:
            one.result()
    assert failures == []
    assert set(seen) == {1, 2, 3}
    # The threads of the batch queues end with their version; otherwise a dozen would stay for each.
    assert threads[3] <= threads[2] + 4, threads


def threading_count():
    """Returns the number of threads that Python did not start; Python's own pools grow with use."""
    return len(os.listdir("/proc/self/task")) - threading.active_count()


def test_versions_roll_over_under_requests_and_broken_ones_never_serve(toy_versions, tmp_path):
    ended, failures, seen, threads = threading.Event(), [], set(), []
    with serving(tmp_path, file_system_poll_wait_seconds=0.1) as (server, caller):

        def ask():
            while not ended.is_set():
                try:
                    seen.add(int(caller.predict("version", index=np.zeros(1, np.int32))["version"][0]))
                except grpc.RpcError as error:
                    failures.append(error.details())

        try:
            assert caller.refusal("version", index=np.zeros(1, np.int32))[0] == "NOT_FOUND"
            assert not server._is_serving()
            copy_version(toy_versions[1], tmp_path, 1)
            eventually(lambda: server.versions == [1])
            threads += [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            copy_version(toy_versions[2], tmp_path, 2)
            eventually(lambda: 2 in seen)
            eventually(lambda: states(caller, "vae") == [(2, "AVAILABLE", ""), (1, "END", "")])

            (tmp_path / "3" / "variables").mkdir(parents=True)
            shutil.copy(toy_versions[3] / "saved_model.pb", tmp_path / "3")
            eventually(lambda: "no complete SavedModel" in states(caller, "vae")[0][2])
            assert states(caller, "vae")[0][:2] == (3, "END")
            shutil.copytree(toy_versions[3] / "variables", tmp_path / "3" / "variables", dirs_exist_ok=True)
            eventually(lambda: 3 in seen)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert failures == []
    assert seen == {1, 2, 3}


def folder_of(path, load, *, latest=1, **retries):
    return ModelFolder(name="m", base_path=path, policy=Policy(latest=latest), load=load, retries=Retries(**retries))


def loads(*, failing=()):
    """Returns a function that loads a version, or fails as often as `failing` says, and the versions that it loaded."""
    tried, left = [], dict(failing)

    def load(path, version):
        tried.append(version)
        if left.get(version, 0):
            left[version] -= 1
            raise StatusError(Code.DATA_LOSS, "damaged")
        return LoadedModel(version=version, signatures={}, limits=Limits())

    return load, tried


def test_versions_whose_folders_are_removed_are_unloaded(tmp_path):
    for version in (1, 2, 3):
        (tmp_path / "m" / str(version)).mkdir(parents=True)
    load, _ = loads()
    folder = folder_of(tmp_path / "m", load, latest=0)
    folder.start(poll_s=0)
    assert folder.versions == [3, 2, 1]
    for version, left in ((2, [3, 1]), (3, [1]), (1, [])):
        (tmp_path / "m" / str(version)).rmdir()
        folder.poll()
        assert folder.versions == left
    assert {status.state for status in folder.statuses()} == {"END"}
    (tmp_path / "m" / "3").mkdir()
    folder.poll()
    assert folder.versions == [3]
    shutil.rmtree(tmp_path / "m")
    folder.poll()
    assert folder.versions == [3], "as in TensorFlow Serving, a folder that cannot be read changes nothing"


def test_the_last_version_stays_while_the_wanted_one_does_not_load(tmp_path):
    (tmp_path / "1").mkdir()
    load, _ = loads(failing={2: 9})
    folder = folder_of(tmp_path, load)
    folder.start(poll_s=0)
    (tmp_path / "1").rmdir()
    (tmp_path / "2").mkdir()
    folder.poll()
    assert folder.versions == [1]


def test_the_log_says_when_loading_begins_and_how_long_it_took(tmp_path, caplog):
    (tmp_path / "1").mkdir()
    load, _ = loads()
    with caplog.at_level(logging.INFO):
        folder_of(tmp_path, load).start(poll_s=0)
    begun, served = (record.getMessage() for record in caplog.records)
    assert begun == "loading version 1 of model m"
    assert served.startswith("serving version 1 of model m (loaded in ")


@pytest.mark.parametrize(
    ("failures", "most", "tries", "serves"),
    [(2, 2, 3, [1]), (3, 2, 3, []), (1, 0, 1, [])],
)
def test_a_version_that_does_not_load_is_tried_again(tmp_path, failures, most, tries, serves):
    (tmp_path / "1").mkdir()
    load, tried = loads(failing={1: failures})
    folder = folder_of(tmp_path, load, most=most, wait_s=-1)
    folder.start(poll_s=0)
    eventually(lambda: len(tried) == tries)
    folder.poll()
    folder.poll()
    assert tried == [1] * tries
    assert folder.versions == serves
    folder.stop()


def test_a_version_is_not_tried_again_before_its_time_unless_its_files_change(tmp_path):
    (tmp_path / "1").mkdir()
    load, tried = loads(failing={1: 1})
    folder = folder_of(tmp_path, load, most=5, wait_s=3600)
    folder.poll()
    folder.poll()
    assert tried == [1]
    (tmp_path / "1" / "saved_model.pb").touch()
    folder.poll()
    assert folder.versions == [1]
