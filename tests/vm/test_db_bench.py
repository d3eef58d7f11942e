"""The bench of exmapdb in a guest: LMDB with a bounded page cache, and exmapdb on a whole disk."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from exmapdb.bench.bounded import BoundedLmdb, PeerFailedError, can_bound
from exmapdb.bench.engines import Setup
from exmapdb.bench.ycsb import WORKLOADS, prepare

CACHE = 4 << 20
ROWS = 100_000
GROUP = Path("/sys/fs/cgroup") / f"exmapdb-bench-{os.getpid()}"


@pytest.fixture
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    if not can_bound():
        pytest.skip("no cgroup v2 with a memory controller at /sys/fs/cgroup")
    folder = Path(os.environ["EXMAP_TEST_DIR"]) / "bounded"
    folder.mkdir()
    yield Setup(folder, CACHE, False, "kernel")
    subprocess.run(["rm", "-r", folder], check=True)


def stat(name: str) -> int:
    lines = (GROUP / "memory.stat").read_text().splitlines()
    return int(dict(line.split() for line in lines)[name])


def test_lmdb_has_no_more_page_cache_than_was_given(setup: Setup) -> None:
    with BoundedLmdb(setup) as lmdb:
        lmdb.load(ROWS)
        assert (setup.folder / "lmdb/data.mdb").stat().st_size > 2 * CACHE
        found = lmdb.run([prepare(WORKLOADS["ycsb-c"], ROWS, 3000, 1)], batched=False)
        assert found.rate > 0
        assert CACHE / 2 < stat("file") < 1.5 * CACHE
    assert not GROUP.exists()


def test_lmdb_whose_process_ends_is_reported(setup: Setup) -> None:
    with contextlib.ExitStack() as stack:
        lmdb = stack.enter_context(BoundedLmdb(setup))
        lmdb.load(1000)
        for pid in (GROUP / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        with pytest.raises(PeerFailedError, match="-9"):
            lmdb.run([prepare(WORKLOADS["ycsb-c"], 1000, 300, 1)], batched=False)
    assert not GROUP.exists()


def test_bench_has_its_database_on_a_disk(setup: Setup) -> None:
    command = [sys.executable, "-m", "exmapdb", "bench", "--rows", "2000", "--operations", "512"]
    command += ["--workloads", "ycsb-b", "--peers", "lmdb", "--data", "4x", "--rounds", "1", "--json"]
    command += ["--device", os.environ["EXMAP_TEST_BLOCK"], "--folder", str(setup.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rates = [r for r in json.loads(done.stdout) if r["metric"] == "ops_per_s"]
    assert {r["baseline"] for r in rates} == {"lmdb"}
    assert all(r["value"] > 0 for r in rates)
