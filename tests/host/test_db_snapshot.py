"""Tables as they were at one moment. Posix backend."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest

ROWS = 4000
OPTIONS: Any = {"memory": "256KiB", "backend": "posix", "durability": "async", "log": "1MiB"}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", **OPTIONS) as database:
        table = database.create_table("t", {"k": "int64", "v": "text"}, key="k")
        for part in np.array_split(np.arange(ROWS), 8):
            table.insert_many({"k": part, "v": [f"{i:080}" for i in part]})
        yield database


def rows(table: exmapdb.Table, **options: Any) -> list[tuple[int, str]]:
    return [row for batch in table.scan(**options) for row in batch.to_rows()]


def test_a_snapshot_shows_all_rows_as_they_were_whatever_happens(db: exmapdb.Database) -> None:
    expected = [(i, f"{i:080}") for i in range(ROWS)]
    table = db.table("t")
    with db.snapshot() as snapshot:
        old = snapshot.table("t")
        assert snapshot.stats().pages < db.stats().allocated_pages - 50
        for turn in range(3):
            for part in np.array_split(np.arange(ROWS), 8):
                table.insert_many({"k": part, "v": [f"{turn}"] * len(part)}, replace=True)
            # old blocks would be used again now
            db.checkpoint()
        table.delete_many({"k": np.arange(0, ROWS, 2)})
        db.create_table("u", {"k": "int64"}, key="k")
        assert rows(old) == expected
        assert rows(old, reverse=True) == expected[::-1]
        assert old.get(7) == {"k": 7, "v": f"{7:080}"}
        assert old.get(ROWS) is None
        assert snapshot.tables() == ["t"]
    assert rows(table) == [(i, "2") for i in range(1, ROWS, 2)]


def test_snapshots_are_taken_between_transactions(db: exmapdb.Database) -> None:
    table = db.create_table("pairs", {"k": "int64", "v": "int64", "pad": "text"}, key="k")
    pairs = 300
    table.insert_many({"k": range(2 * pairs), "v": [0] * 2 * pairs, "pad": ["p" * 200] * 2 * pairs})
    done = threading.Event()
    problems: list[object] = []

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not done.is_set():
            pair, value = int(rng.integers(pairs)), int(rng.integers(1 << 30))
            both = {"k": [pair, pair + pairs], "v": [value, value], "pad": ["p" * 200] * 2}
            table.insert_many(both, replace=True)

    def read() -> None:
        while not done.is_set():
            for k in range(0, pairs, 7):
                if db.table("t").get(k) is None:
                    problems.append(k)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for _ in range(25):
        with db.snapshot() as snapshot:
            for _ in range(2):
                found = {k: v for k, v, _ in rows(snapshot.table("pairs"))}
                problems += [k for k in range(pairs) if found[k] != found[k + pairs]]
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_snapshot_cannot_be_changed_or_used_after_its_end(db: exmapdb.Database) -> None:
    with db.snapshot() as snapshot:
        table = snapshot.table("t")
        for change in (lambda: table.delete(1), lambda: table.upsert({"k": 1, "v": ""})):
            with pytest.raises(exmapdb.SnapshotWriteError):
                change()
        with pytest.raises(exmapdb.NoSuchTableError):
            snapshot.table("absent")
    with pytest.raises(ValueError, match="closed"):
        table.get(1)
    assert db.table("t").count() == ROWS


def test_blocks_are_free_again_after_a_snapshot(db: exmapdb.Database) -> None:
    def change() -> int:
        db.table("t").insert_many({"k": range(ROWS), "v": ["x" * 80] * ROWS}, replace=True)
        db.checkpoint()
        db.checkpoint()
        return db.stats().free_blocks

    change()
    before = change()
    with db.snapshot():
        assert change() < before - 50
    change()
    assert change() > before - 20


def test_a_long_reader_holds_back_neither_new_snapshots_nor_writers(db: exmapdb.Database) -> None:
    table = db.table("t")
    with db.snapshot() as oldest:
        batches = oldest.table("t").scan(batch_rows=100)
        first = next(batches)
        for turn in range(5):
            table.insert_many({"k": range(ROWS), "v": [f"{turn}"] * ROWS}, replace=True)
            db.checkpoint()
            with db.snapshot() as newer:
                assert {v for _, v in rows(newer.table("t"))} == {f"{turn}"}
        seen = [row for batch in (first, *batches) for row in batch.to_rows()]
    assert seen == [(i, f"{i:080}") for i in range(ROWS)]


def test_blocks_stay_as_long_as_the_oldest_snapshot_needs_them(db: exmapdb.Database) -> None:
    old = db.snapshot()
    with db.snapshot():
        db.table("t").insert_many({"k": range(ROWS), "v": ["x" * 80] * ROWS}, replace=True)
    for _ in range(3):
        db.checkpoint()
        db.table("t").insert_many({"k": range(ROWS), "v": ["y" * 80] * ROWS}, replace=True)
    assert rows(old.table("t")) == [(i, f"{i:080}") for i in range(ROWS)]
    old.close()


def test_readers_share_the_newest_snapshot_while_it_is_fresh(db: exmapdb.Database) -> None:
    one = db.snapshot(max_age=60)
    db.table("t").delete(1)
    with db.snapshot(max_age=60) as two, db.snapshot() as own:
        one.close()
        one.close()
        assert two.table("t").get(1) is not None
        assert own.table("t").get(1) is None
        with pytest.raises(ValueError, match="closed"):
            one.table("t").get(1)
        with db.snapshot(max_age=1e-9) as newer:
            assert newer.table("t").get(1) is None
        assert two.table("t").get(1) is not None
    with db.snapshot(max_age=60) as last:
        assert last.table("t").get(1) is None
    with pytest.raises(ValueError, match="max_age"):
        db.snapshot(max_age=-1)


def test_a_scan_reads_ahead_what_is_not_resident(db: exmapdb.Database) -> None:
    with db.snapshot() as snapshot:
        table = snapshot.table("t")
        assert rows(table, prefetch=64) == rows(table, prefetch=0) == [(i, f"{i:080}") for i in range(ROWS)]
        # beside another scan, which uses the same places
        both = zip(table.scan(batch_rows=50), table.scan(batch_rows=50, reverse=True), strict=True)
        ahead, back = ([row for batch in side for row in batch.to_rows()] for side in zip(*both, strict=True))
        assert ahead == back[::-1] == [(i, f"{i:080}") for i in range(ROWS)]
