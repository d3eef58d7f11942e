"""Snapshots under writers, frees, kills and a pool that runs dry: see tests/c/snapshot_stress.c."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

AMPLE = 20000
TIGHT = 3500


@pytest.fixture(scope="module")
def program(c_program: Callable[[str], Path]) -> Path:
    return c_program("snapshot_stress")


def stress(program: Path, rounds: int, seed: int, pool: int) -> dict[str, int]:
    done = subprocess.run(
        [str(program), str(rounds), str(seed), str(pool)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout}"
    return {key: int(value) for key, value in (field.split("=") for field in done.stdout.split())}


def test_every_snapshot_is_a_moment_of_the_history(program: Path) -> None:
    result = stress(program, rounds=40, seed=1, pool=AMPLE)
    assert result["broken"] == 0
    assert result["kills"] > 0
    assert result["checks"] > 40


def test_a_pool_that_runs_dry_breaks_snapshots_and_nothing_else(program: Path) -> None:
    result = stress(program, rounds=40, seed=2, pool=TIGHT)
    assert result["broken"] > 0
    assert result["checks"] > result["broken"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_thousand_rounds(program: Path, seed: int) -> None:
    stress(program, rounds=100, seed=seed, pool=AMPLE if seed % 2 else TIGHT)
