"""Every sentence of uapi/exmap.h: one C case each, see tests/c/abi."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "c/abi"
SKIP = 77
CASES = sorted(
    name
    for path in SOURCES.glob("*.c")
    for name in re.findall(r"^CASE\((\w+)\)", path.read_text(), re.MULTILINE)
)


@pytest.fixture(scope="session")
def program(c_program: Callable[[str], Path]) -> Path:
    return c_program("abi")


def test_every_case_is_in_the_program(program: Path) -> None:
    done = subprocess.run([str(program), "list"], stdout=subprocess.PIPE, text=True, check=True)
    assert sorted(done.stdout.split()) == CASES


@pytest.mark.parametrize("case", CASES)
def test_abi(program: Path, case: str) -> None:
    done = subprocess.run(
        [str(program), "run", case], stdout=subprocess.PIPE, text=True, check=False, timeout=300
    )
    if done.returncode == SKIP:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
