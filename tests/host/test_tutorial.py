"""The tutorial does what it says, on the posix backend."""

import subprocess
from pathlib import Path

import pytest
from tutorial import BLOCKS, COMMANDS, EXPECTED, run_script

ROOT = Path(__file__).resolve().parents[2]


def test_each_block_of_python_is_followed_by_what_it_prints() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds == ["sh", *["python", "text"] * 8, "sh", "text"]


def test_the_script_prints_what_the_tutorial_shows(tmp_path: Path) -> None:
    assert run_script(tmp_path) == EXPECTED


@pytest.mark.slow
def test_the_commands_that_install_it_do(tmp_path: Path) -> None:
    clone = tmp_path / "exmap"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run(["sh", "-e", "-c", COMMANDS[0]], cwd=clone, check=True, timeout=900)
    assert run_script(tmp_path, str(clone / "venv/bin/python"), "bank.py") == EXPECTED
