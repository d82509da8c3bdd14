"""The programs on the page on clients, each run against a real server of a model with a prior."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from serving_tools import serving

PAGE = (Path(__file__).parents[3] / "docs" / "CLIENTS.md").read_text()
# What runs the program of each language; the file is named last.
RUNNERS = {
    "sh": ("bash", "-o", "pipefail", "-e", "program.sh"),
    "python": (sys.executable, "program.py"),
    "js": ("node", "program.mjs"),
    "go": ("go", "run", "program.go"),
}
NEEDS = {"sh": ("curl", "jq"), "python": (), "js": ("node",), "go": ("go",)}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(prior_exported):
    with serving(prior_exported.parent) as (server, _):
        yield f"localhost:{server.rest_port}"


@pytest.mark.parametrize("language", RUNNERS)
def test_the_program_makes_a_sound(language, address, prior_model, tmp_path):
    if missing := [name for name in NEEDS[language] if not shutil.which(name)]:
        pytest.skip(f"needs {', '.join(missing)}")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (program,) = [block for block in blocks if "generated.wav" in block]
    *command, name = RUNNERS[language]
    (tmp_path / name).write_text(program.replace("localhost:8501", address))
    done = subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sound, rate = soundfile.read(tmp_path / "generated.wav")
    assert rate == prior_model.spec.sample_rate
    assert sound.shape == (prior_model.spec.samples,)
    assert abs(sound).max() > 0
