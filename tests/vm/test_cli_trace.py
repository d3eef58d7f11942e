"""exmapctl trace sees what a region does. Runs as root in the guest."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from exmapctl.app import app
from netlink_behaviour import SnapshotRegion
from typer.testing import CliRunner

import libexmap

pytestmark = pytest.mark.usefixtures("one_cpu")


def trace_while(work: Any, *arguments: str) -> dict[str, Any]:
    """The summary of a trace; `work` runs over and over meanwhile."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            work()
            time.sleep(0.01)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        done = CliRunner().invoke(app, ["trace", "--seconds", "1", "--json", *arguments])
    finally:
        stop.set()
        thread.join()
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_trace_sees_calls_and_flushes_with_their_reasons() -> None:
    with libexmap.Region.open(pages=4096, pool=256, interfaces=1, backend="kernel") as region:

        def work() -> None:
            region[0].alloc(range(64))
            region[0].free(range(32))
            region[0].free(range(32, 64), lazy=True)
            region.barrier()

        seen = trace_while(work)
    ops = {op["op"]: op for op in seen["ops"]}
    assert set(ops) == {"alloc", "free"}
    assert ops["free"]["calls"] > 2
    assert sum(ops["alloc"]["histogram"]) == ops["alloc"]["calls"]
    flushes = {flush["reason"]: flush for flush in seen["flushes"]}
    assert {"free", "barrier"} <= set(flushes)
    assert flushes["free"]["pages"] == 32 * flushes["free"]["ranged"]
    assert flushes["barrier"]["full"] > 1
    assert flushes["barrier"]["mean_us"] > 0
    assert seen["counts"]["drain"] > 0
    assert seen["retired"] >= 32
    assert seen["lost"] == 0
    assert list(Path("/sys/kernel/tracing/instances").iterdir()) == []


def test_trace_sees_what_happens_to_snapshots() -> None:
    region = SnapshotRegion(pages=1024, pool=256)

    def work() -> None:
        region.write(20)
        fd = region.snapshot()
        region.write(10)
        os.close(fd)

    seen = trace_while(work)
    region.close()
    counts = seen["counts"]
    assert min(counts[name] for name in ("freeze", "attach", "copy_out", "snapshot_gone", "fault")) > 1
    assert set(seen["faults"]) >= {"alloc", "copy_out"}
    assert counts["copy_out"] > counts["freeze"]
    assert seen["longest_freeze_us"] > 0
    assert "snapshot" in [flush["reason"] for flush in seen["flushes"]]


def test_trace_of_another_region_sees_nothing() -> None:
    with libexmap.Region.open(pages=4096, pool=256, interfaces=1, backend="kernel") as region:

        def work() -> None:
            region[0].alloc(range(64))
            region[0].free(range(64))

        assert trace_while(work, "--region", "1234567")["events"] == 0
