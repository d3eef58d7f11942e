"""Scans of a snapshot, which read pages where they are as long as those stay what they were.

Collected by tests/host on the posix backend, and by tests/vm on kernel.
"""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from backends import BACKENDS

ROWS = 3000
OPTIONS: Any = {"memory": "256KiB", "backend": BACKENDS[-1], "durability": "async", "log": "1MiB"}
Row = tuple[int, str]
both_ways = pytest.mark.parametrize("reverse", [False, True])


def value(key: int) -> str:
    return f"{key:060}"


EXPECTED = [(key, value(key)) for key in range(ROWS)]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", **OPTIONS) as database:
        table = database.create_table("t", {"k": "int64", "v": "text"}, key="k")
        for part in np.array_split(np.arange(ROWS), 6):
            table.insert_many({"k": part, "v": [value(key) for key in part]})
        database.checkpoint()
        yield database
        database.check()


def put(table: exmapdb.Table, keys: Any, text: str) -> None:
    for part in np.array_split(np.asarray(keys), 4):
        table.insert_many({"k": part, "v": [text] * len(part)}, replace=True)


def flatten(batches: Iterator[exmapdb.Batch]) -> list[Row]:
    return [row for batch in batches for row in batch.to_rows()]


def rows(table: exmapdb.Table, **options: Any) -> list[Row]:
    return flatten(table.scan(**options))


def in_order(reverse: bool) -> list[Row]:
    return EXPECTED[::-1] if reverse else EXPECTED


@both_ways
def test_a_scan_goes_on_while_the_leaves_ahead_of_it_split_and_merge(
    db: exmapdb.Database, reverse: bool
) -> None:
    table = db.table("t")
    with db.snapshot() as snapshot:
        batches = snapshot.table("t").scan(reverse=reverse, batch_rows=60)
        seen = flatten(itertools.islice(batches, 1))
        put(table, range(ROWS), "w" * 300)
        split = db.stats().allocated_pages
        seen += flatten(itertools.islice(batches, 4))
        assert table.delete_many({"k": [key for key in range(ROWS) if key % 40]}) == ROWS - ROWS // 40
        merged = db.stats().free_pages
        seen += flatten(itertools.islice(batches, 8))
        put(table, range(ROWS), "x")
        seen += flatten(batches)
    assert seen == in_order(reverse)
    assert split > 2 * ROWS // 60
    assert merged > split / 2


@both_ways
@pytest.mark.parametrize("background", [False, True])
def test_leaves_that_changed_and_leaves_that_did_not_make_one_scan(
    db: exmapdb.Database, reverse: bool, background: bool
) -> None:
    table = db.table("t")
    with db.snapshot(background=background) as snapshot:
        old = snapshot.table("t")
        # every third leaf or so, so that neither those that changed nor those that did not are neighbours
        for start in (0, 60, 120):
            put(table, range(start, ROWS, 180), "y")
            for prefetch, size in ((64, 4096), (5, 70), (0, 33)):
                assert rows(old, reverse=reverse, prefetch=prefetch, batch_rows=size) == in_order(reverse)


@both_ways
def test_pages_that_were_evicted_after_the_freeze_are_what_they_were(
    db: exmapdb.Database, reverse: bool
) -> None:
    table = db.table("t")
    other = db.create_table("other", {"k": "int64", "v": "text"}, key="k")
    with db.snapshot() as snapshot:
        old = snapshot.table("t")
        before = db.stats().evicted
        # all pages of t go: those that had been resident, with and without a change, and those that had not
        put(table, range(0, ROWS, 100), "z")
        put(other, range(ROWS), "o" * 60)
        db.checkpoint()
        assert db.stats().evicted - before > db.stats().pool_pages
        assert rows(old, reverse=reverse) == in_order(reverse)
        # and come back
        assert table.count() == ROWS
        assert rows(old, reverse=reverse) == in_order(reverse)
        put(table, range(0, ROWS, 50), "zz")
        assert rows(old, reverse=reverse) == in_order(reverse)


def test_a_scan_of_an_index_goes_on_when_it_is_dropped_and_its_pages_are_used_again(
    db: exmapdb.Database,
) -> None:
    db.create_index("t", "by_v", "v")
    with db.snapshot() as snapshot:
        batches = snapshot.table("t").scan(index="by_v", batch_rows=50)
        seen = flatten(itertools.islice(batches, 1))
        allocated = db.stats().allocated_pages
        db.drop_index("t", "by_v")
        free = db.stats().free_pages
        assert free > 15
        seen += flatten(itertools.islice(batches, 2))
        other = db.create_table("other", {"k": "int64", "v": "text"}, key="k")
        put(other, range(ROWS // 4), "o" * 60)
        assert db.stats().free_pages < free - 10
        assert db.stats().allocated_pages == allocated
        seen += flatten(batches)
        assert [row["k"] for row in snapshot.table("t").find("by_v", value(7))] == [7]
    assert seen == EXPECTED


def test_rows_of_a_table_whose_pages_all_went_to_another_one_are_there(db: exmapdb.Database) -> None:
    with db.snapshot() as snapshot:
        batches = snapshot.table("t").scan(reverse=True, batch_rows=50)
        seen = flatten(itertools.islice(batches, 3))
        db.table("t").delete_many({"k": range(ROWS)})
        put(db.create_table("other", {"k": "int64", "v": "text"}, key="k"), range(ROWS), "o" * 60)
        seen += flatten(batches)
        assert [snapshot.table("t").get(key) for key in (0, ROWS - 1)] == [
            {"k": 0, "v": value(0)},
            {"k": ROWS - 1, "v": value(ROWS - 1)},
        ]
    assert seen == EXPECTED[::-1]


def test_a_column_that_was_dropped_is_there_in_the_snapshot(db: exmapdb.Database) -> None:
    with db.snapshot() as snapshot:
        db.drop_column("t", "v")
        db.add_column("t", "n", "int32?")
        db.table("t").insert_many({"k": range(ROWS), "n": range(ROWS)}, replace=True)
        assert rows(snapshot.table("t")) == EXPECTED
    assert rows(db.table("t"), low=5, high=6) == [(5, 5)]


@pytest.mark.parametrize("background", [False, True])
def test_snapshots_are_scanned_both_ways_beside_threads_that_split_and_merge(
    db: exmapdb.Database, background: bool
) -> None:
    table = db.table("t")
    done = threading.Event()
    problems: list[object] = []

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not done.is_set():
                start = int(rng.integers(ROWS - 200))
                keys = np.arange(start, start + 200)
                if rng.integers(3):
                    put(table, keys, "ab"[seed] * int(rng.integers(1, 400)))
                else:
                    table.delete_many({"k": keys})
        except BaseException as error:
            problems.append(error)

    def read(snapshot: exmapdb.Snapshot, reverse: bool) -> list[Row]:
        found = rows(snapshot.table("t"), reverse=reverse, batch_rows=97)
        return found[::-1] if reverse else found

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            with db.snapshot(background=background) as snapshot:
                first = read(snapshot, False)
                for reverse in (True, False, True):
                    again = read(snapshot, reverse)
                    if again != first:
                        problems.append(set(first) ^ set(again))
                problems += [
                    key
                    for key, text in first[:: len(first) // 20 or 1]
                    if snapshot.table("t").get(key) != {"k": key, "v": text}
                ]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert problems == []


def least_priorities() -> int:
    """Count the threads of this process that have the least priority."""
    stats = []
    for path in Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            stats.append(path.read_text().rpartition(")")[2].split()[16])
    return stats.count("19")


def test_a_scan_in_the_background_has_the_least_priority_and_whoever_asks_keeps_his(
    db: exmapdb.Database,
) -> None:
    seen, mine, done = threading.Event(), [], threading.Event()

    def scan(background: bool) -> None:
        with db.snapshot(background=background) as snapshot:
            while not done.is_set():
                assert snapshot.table("t").count() == ROWS
        mine.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def watch(background: bool, seconds: float) -> None:
        done.clear()
        reader = threading.Thread(target=scan, args=(background,))
        reader.start()
        end = time.monotonic() + seconds
        while not seen.is_set() and time.monotonic() < end:
            if least_priorities():
                seen.set()
        done.set()
        reader.join()

    watch(False, 0.3)
    assert not seen.is_set()
    watch(True, 60)
    assert seen.is_set()
    assert mine == [os.getpriority(os.PRIO_PROCESS, 0)] * 2
