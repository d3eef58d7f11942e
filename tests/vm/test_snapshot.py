"""Snapshots under writers, frees, kills and a pool that runs dry: see tests/c/snapshot_stress.c."""

import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "c/snapshot_stress.c"
UAPI = Path(__file__).resolve().parents[2] / "kmod/uapi"
AMPLE = 20000
TIGHT = 3500


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stress") / "snapshot_stress"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{UAPI}"]
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(path)], check=True)
    return path


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
