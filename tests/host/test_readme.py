"""The examples of the README do what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def example(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert match is not None
    return match.group(1)


def test_python_example_runs(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(8 * 4096))
    code = example("python").replace('backing="data.bin"', 'backing="data.bin", backend="posix"')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False 8\n"
    assert (tmp_path / "data.bin").read_bytes()[3 * 4096 :][:5] == b"hello"


def test_c_example_builds_with_the_command_given_and_runs(tmp_path: Path) -> None:
    (tmp_path / "example.c").write_text(example("c"))
    command = re.search(r"^    (cc example\.c .*)$", README, re.MULTILINE)
    assert command is not None
    make = [
        "make",
        "-s",
        "-C",
        str(ROOT / "libexmap"),
        "install",
        f"PREFIX={tmp_path}/exmap",
        f"OUT={tmp_path}/o",
    ]
    subprocess.run(make, check=True)
    environment = os.environ | {"HOME": str(tmp_path), "LD_LIBRARY_PATH": f"{tmp_path}/exmap/lib"}
    subprocess.run(["sh", "-c", command.group(1)], cwd=tmp_path, env=environment, check=True)
    if Path("/dev/exmap").exists():
        pytest.skip("AUTO would take the module here")
    subprocess.run([str(tmp_path / "a.out")], env=environment, check=True)


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not dead
