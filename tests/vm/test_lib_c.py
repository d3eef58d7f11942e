"""A C program on libexmap; tests/host/test_libexmap_c.py builds it in every way that a user may."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from backends import BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_c_program_runs(tmp_path: Path, c_program: Callable[[str], Path], backend: str) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"".join(bytes([page]) * 4096 for page in range(16)))
    command = [str(c_program("library")), backend, str(backing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "library: ok\n"
