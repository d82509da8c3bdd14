"""The script with which a shell completes the command line."""

import subprocess
import sys

import pytest

from tfpipe.cli.main import main


def test_without_shtab_the_fix_is_named_and_everything_else_works(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "install it with `pip install shtab`" in capsys.readouterr().err
    assert main(["completion", "--help"]) == 0


def test_another_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "choose from 'bash', 'zsh', 'fish'" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_knows_commands_and_options(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for words in ("train-vocoder", "learning-rate", "model_base_path", "interpolate"):
        assert words in script
    assert "ignored_flag" not in script


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("tfpipe trai", "train train-vocoder"), ("tfpipe train --epo", "--epochs"), ("tfpipe client gen", "generate")],
)
def test_bash_completes(typed, completed, tmp_path, capsys):
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    words = typed.split()
    asked = f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _shtab_tfpipe; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == completed
