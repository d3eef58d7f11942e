"""A C program on libexmap, as a user builds it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("sanitize", ["", "address,undefined", "thread"])
def test_c_program_builds_against_the_installed_library_and_runs(tmp_path: Path, sanitize: str) -> None:
    prefix = tmp_path / "usr"
    make = ["make", "-s", "-C", str(ROOT / "libexmap"), "install", f"PREFIX={prefix}", f"OUT={tmp_path}/out"]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-pthread"]
    if sanitize:
        make.append(f"SANITIZE={sanitize}")
        flags.append(f"-fsanitize={sanitize}")
    subprocess.run(make, check=True)
    program = tmp_path / "library"
    paths = [f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib"]
    source = ROOT / "tests/c/library.c"
    subprocess.run(["gcc", *flags, *paths, str(source), "-lexmap", "-o", str(program)], check=True)
    backing = tmp_path / "backing"
    backing.write_bytes(b"".join(bytes([page]) * 4096 for page in range(16)))
    command = [str(program), "posix", str(backing)]
    if sanitize == "thread" and shutil.which("setarch"):
        # its shadow memory and a randomised layout do not always get on
        command = ["setarch", os.uname().machine, "-R", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "library: ok\n"


def test_library_exports_nothing_but_its_api(tmp_path: Path) -> None:
    make = ["make", "-s", "-C", str(ROOT / "libexmap"), f"OUT={tmp_path}"]
    subprocess.run(make, check=True)
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(tmp_path / "libexmap.so")],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}
    assert "exmap_open" in names
    assert not {name for name in names if not name.startswith("exmap_")} - {"LIBEXMAP_0"}
    assert "exmap_posix_open" not in names
