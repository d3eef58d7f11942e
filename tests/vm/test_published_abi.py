"""A client of the published exmap ABI runs unmodified."""

import subprocess
from collections.abc import Callable
from pathlib import Path


def test_client_of_the_published_header_runs_unmodified(
    tmp_path: Path, c_program: Callable[[str], Path]
) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"".join(bytes([page]) * 4096 for page in range(64)))
    command = [str(c_program("published")), str(backing)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("published: ok\n")
