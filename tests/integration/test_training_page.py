"""The Python on the page on training, run as in Jupyter: inside a running event loop."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_python_on_the_page_runs_in_a_notebook(
    repo: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (repo / "docs" / "TRAINING.md").read_text(), re.DOTALL)
    # The prior of the page takes 900 steps.
    snippet = re.sub(r"(?<=epochs=2, )", "prior_steps=10, ", snippet)
    os.symlink(small, tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    async def cell() -> None:
        exec(compile(snippet, "docs/TRAINING.md", "exec"), {})

    asyncio.run(cell())
    assert re.match(r"[12] 0\.0", capsys.readouterr().out)
    assert Path("run/DONE").exists()
    assert Path("run/prior/DONE").exists()
