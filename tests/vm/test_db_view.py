"""Snapshots of exmapdb on the kernel backend: scans beside changes, and what writers do for their copies."""

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import exmapdb
import numpy as np
import pytest
from view_behaviour import *  # noqa: F403

ROWS = 24_000
STRIDE = 400  # rows that take ten leaves: a fault copies neighbours too, but not of so far away
CHANGED = ROWS // STRIDE


@pytest.fixture
def large() -> Iterator[exmapdb.Database]:
    """A database all of whose pages are resident, beside a snapshot too."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EXMAP_TEST_DIR", "/tmp")) as name:
        path = Path(name) / "t.exdb"
        with exmapdb.open(path, memory="16MiB", backend="kernel", durability="async") as database:
            table = database.create_table("t", {"k": "int64", "v": "text"}, key="k")
            for part in np.array_split(np.arange(ROWS), 4):
                table.insert_many({"k": part, "v": ["x" * 90] * len(part)})
            database.checkpoint()
            yield database


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def test_a_transaction_has_its_leaves_copied_without_a_fault_for_each(large: exmapdb.Database) -> None:
    keys = range(0, ROWS, STRIDE)
    with large.snapshot() as snapshot:
        # page tables that are parked, and memory of Python's
        assert large.table("t").count() == ROWS
        txn = large.begin()
        txn.table("t").insert_many({"k": keys, "v": ["y" * 90] * CHANGED}, replace=True)
        copied, before = snapshot.stats().copied, faults()
        txn.commit()
        copied, faulted = snapshot.stats().copied - copied, faults() - before
        assert snapshot.table("t").get(0) == {"k": 0, "v": "x" * 90}
    assert CHANGED <= copied < CHANGED + 10
    assert faulted < CHANGED / 2
