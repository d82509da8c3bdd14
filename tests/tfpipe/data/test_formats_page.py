"""The program on the page on formats reads what the job writes, and finds damage."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dataset_tools import example, write_dataset

SHARD = "train-00000-of-00001.tfrecord"

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")


def _read(folder: Path) -> subprocess.CompletedProcess[str]:
    page = Path(__file__).parents[3] / "docs" / "FORMATS.md"
    (program,) = re.findall(r"^```js\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    (folder / "read.mjs").write_text(program)
    return subprocess.run(["node", "read.mjs", SHARD], cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_program_reads_a_shard(tmp_path):
    examples = [example(number, label=number % 2, variant="shift+4") for number in (0, 7, 300)]
    write_dataset(tmp_path, {SHARD: examples})
    done = _read(tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "key": row.key,
            "label": row.label,
            "ref_db": row.ref_db,
            "mel": row.mel.ravel()[:4].tolist(),
            "bytes": row.mel.size,
        }
        for row in examples
    ]


@pytest.mark.parametrize("place", [3, 40])
def test_the_program_finds_damage(place, tmp_path):
    write_dataset(tmp_path, {SHARD: [example(1)]})
    data = bytearray((tmp_path / SHARD).read_bytes())
    data[place] ^= 1
    (tmp_path / SHARD).write_bytes(data)
    done = _read(tmp_path)
    assert done.returncode != 0
    assert "damaged at byte 0" in done.stderr
