"""`import tfpipe as tp`: which names there are, and that importing them loads nothing heavy."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tfpipe as tp

NAMES = [
    *("AugmentConfig", "Client", "FeatureSpec", "PreprocessConfig", "ServerConfig", "TrainConfig"),
    *(
        "errors",
        "evaluate",
        "export",
        "export_networks",
        "inspect",
        "load",
        "log_mel",
        "make_dataset",
        "preprocess",
        "read",
        "report",
        "run",
        "score",
        "serve",
    ),
    *("train", "train_vocoder", "verify"),
]


def test_these_are_the_public_names():
    assert tp.__all__ == sorted(NAMES, key=lambda name: (name.islower(), name))
    assert {name for name in dir(tp) if not name.startswith("__")} == set(NAMES)


def test_each_name_is_documented_and_comes_from_where_the_type_checker_looks():
    tree = ast.parse(Path(tp.__file__).read_text())
    declared = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == tp._HOMES
    for name, module in tp._HOMES.items():
        value = getattr(tp, name)
        assert value is getattr(importlib.import_module(module), name)
        assert (value.__doc__ or "").strip(), name


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, tfpipe as tp\n"
        "tp.preprocess, tp.train, tp.serve, tp.export_networks, tp.errors.TfpipeError\n"
        "tp.TrainConfig, tp.ServerConfig, tp.Client\n"
        "print(sorted({'tensorflow', 'keras', 'apache_beam', 'librosa', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = tp.trian


@pytest.mark.parametrize(
    "call",
    [
        lambda: tp.preprocess("in", "out", semitonse=(1,)),
        lambda: tp.train("data", "run", latnet=4),
        lambda: tp.score("recordings", "run", batch=1),
        lambda: tp.serve("models", prot=1),
    ],
)
def test_a_setting_that_is_not_there_is_wrong_usage_and_names_those_that_are(call):
    with pytest.raises(tp.errors.UsageError, match=r"no such setting; use "):
        call()


def test_a_missing_or_impossible_path_is_wrong_usage():
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
        (tp.PreprocessConfig, (), {"inputs": "recordings"}),
        (tp.preprocess, (3, "out"), {}),
        (tp.score, (None, "run"), {}),
    ]
    for call, arguments, settings in calls:
        with pytest.raises(tp.errors.UsageError, match=r"; give "):
            call(*arguments, **settings)


def test_paths_may_be_text_or_paths(tmp_path):
    for data in (tmp_path, str(tmp_path)):
        for call in (
            tp.verify,
            tp.inspect,
            lambda data: tp.evaluate(data, tmp_path),
            lambda data: tp.train(data, data),
        ):
            with pytest.raises(tp.errors.DatasetError, match=r"dataset\.json"):
                call(data)
    with pytest.raises(tp.errors.RunError):
        tp.export(str(tmp_path), tmp_path / "models")
