"""A client of the published exmap ABI runs unmodified."""

import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "c"


def test_client_of_the_published_header_runs_unmodified(tmp_path: Path) -> None:
    program = tmp_path / "published"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["gcc", *flags, str(SOURCES / "published.c"), "-o", str(program)], check=True)
    backing = tmp_path / "backing"
    backing.write_bytes(b"".join(bytes([page]) * 4096 for page in range(64)))
    done = subprocess.run([str(program), str(backing)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("published: ok\n")
