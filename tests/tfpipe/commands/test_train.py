"""`tfpipe train`: what the command prints."""

from __future__ import annotations

import argparse
import json

import pytest

from tfpipe.commands import train


def test_summary_prints_the_number_of_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    assert train.run(parser.parse_args(["--preset", "notebook", "--summary", "--json"])) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts == {"encoder": 3_926_816, "decoder": 2_857_729, "total": 6_784_545}
