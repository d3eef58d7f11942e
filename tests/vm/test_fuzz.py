"""Random calls of the whole ABI: see tests/c/fuzz/main.c. The kernel's log is the judge."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# of a kernel that watches itself: ci/debug
DEBUG = Path("/proc/lockdep").exists()
LONG = 120
HALF_AN_HOUR = 1800
KCOV = Path("/sys/kernel/debug/kcov")


@pytest.fixture(scope="module")
def program(c_program: Callable[[str], Path]) -> Path:
    return c_program("fuzz")


def fuzz(program: Path, seconds: int, seed: int) -> dict[str, int]:
    done = subprocess.run(
        [str(program), str(seconds), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=seconds * 2 + 60,
    )
    assert done.returncode == 0, done.stdout
    found = {key: int(value) for key, value in (field.split("=") for field in done.stdout.split())}
    # wrong ones, and right ones
    assert 0 < found["successes"] < found["calls"]
    assert (found["edges"] > 0) == KCOV.exists()
    # one process at a time can have the controller: it takes a while until one does, and opens a queue
    assert found["queues"] > 0 or seconds < LONG or "EXMAP_NVME" not in os.environ
    return found


def test_random_calls_harm_nobody(program: Path) -> None:
    found = fuzz(program, LONG if DEBUG else 8, 1)
    assert found["kills"] > 0
    # what nobody had reached before guides what comes next
    assert (found["kept"] > 0) == KCOV.exists()


@pytest.mark.slow
def test_half_an_hour_of_random_calls(program: Path) -> None:
    assert fuzz(program, HALF_AN_HOUR, 10_000)["kills"] > 0
