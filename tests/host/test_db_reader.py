"""Table.get: the short way, for rows whose pages are resident, and the long way, say the same."""

import datetime as dt
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import exmapdb
import exmapdb.layout
import numpy as np
import pytest

TYPES = {
    "b": "bool",
    "i": "int32",
    "l": "int64",
    "f": "float64",
    "m": "decimal(9,2)",
    "t": "text",
    "y": "bytes",
    "d": "date",
    "s": "timestamp",
}
VALUES: list[dict[str, Any]] = [
    {
        "b": True,
        "i": -(1 << 31),
        "l": (1 << 63) - 1,
        "f": -0.5,
        "m": Decimal("-1.25"),
        "t": "grüße\0",
        "y": b"\0\xff",
        "d": dt.date(1969, 12, 31),
        "s": dt.datetime(2026, 1, 2, 3, 4, 5, 6),
    },
    {
        "b": False,
        "i": 0,
        "l": -1,
        "f": 1e300,
        "m": Decimal("0.00"),
        "t": "",
        "y": b"",
        "d": dt.date(2026, 2, 28),
        "s": dt.datetime(1969, 1, 1),
    },
]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", memory="1MiB", backend="posix") as db:
        yield db


def short(table: exmapdb.Table, key: object) -> Any:
    return table.layout.read(key)


def by_the_long_way(db: exmapdb.Database, key: Any) -> Any:
    with db.snapshot() as snapshot:
        return snapshot.table("t").get(key)


def same(a: Any, b: Any) -> bool:
    return bool(a == b and list(map(type, a.values())) == list(map(type, b.values())))


@pytest.mark.parametrize("kind", TYPES)
def test_keys_of_every_type_find_their_row(db: exmapdb.Database, kind: str) -> None:
    table = db.create_table("t", {"k": TYPES[kind], "n": "int64"}, key="k")
    for n, values in enumerate(VALUES):
        table.insert({"k": values[kind], "n": n})
    for values in VALUES:
        row = table.get(values[kind])
        assert row is not None
        assert same(row, by_the_long_way(db, values[kind]))
        # those that C does not know are Python's
        if kind not in "mds":
            assert same(row, short(table, values[kind]))


def test_rows_of_every_type_with_nulls_are_the_same_on_both_ways(db: exmapdb.Database) -> None:
    columns = {name: f"{kind}?" for name, kind in TYPES.items()}
    table = db.create_table("t", {"k": "int64", "u": "text", **columns}, key=("k", "u"))
    for n, values in enumerate(VALUES):
        table.insert({"k": n, "u": "x", **values})
        table.insert({"k": n, "u": "y", **dict.fromkeys(values)})
    for n in range(len(VALUES)):
        for text in "xy":
            assert same(short(table, (n, text)), by_the_long_way(db, (n, text)))
    assert short(table, (0, "z")) is None


def test_other_keys_go_the_long_way(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int32", "u": "text"}, key=("k", "u"))
    table.insert({"k": 1, "u": "a"})
    for key in [
        (np.int64(1), "a"),
        (True, "a"),
        (1 << 40, "a"),
        (1 << 80, "a"),
        (1, "\ud800"),
        (1,),
        1,
        (1, b"a"),
    ]:
        assert short(table, key) is NotImplemented
    assert table.get((np.int64(1), "a")) == {"k": 1, "u": "a"}
    for key in [(1 << 40, "a"), (1 << 80, "a"), (1,), 1, (1, b"a")]:
        with pytest.raises(exmapdb.InvalidValueError):
            table.get(key)


def long_table(db: exmapdb.Database) -> exmapdb.Table:
    """Make a table that is larger than the cache."""
    table = db.create_table("t", {"k": "int64", "d": "date", "v": "text"}, key="k")
    days = np.arange(9000).astype("datetime64[D]")
    table.insert_many({"k": range(9000), "d": days, "v": [f"{i:080}" for i in range(9000)]})
    return table


def long_row(key: int) -> dict[str, Any]:
    return {"k": key, "d": dt.date(1970, 1, 1) + dt.timedelta(key), "v": f"{key:080}"}


def test_reading_from_the_disk_takes_no_detour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def detour(*_: object) -> None:
        raise AssertionError

    with exmapdb.open(tmp_path / "t.exdb", memory="256KiB", backend="posix") as db:
        table = long_table(db)
        monkeypatch.setattr(exmapdb.layout.Layout, "buffer", detour)
        before = db.stats().misses
        for key in np.random.default_rng(2).permutation(9000)[:300].tolist():
            assert table.get(key) == long_row(key)
        assert table.get(9000) is None
        with db.begin() as txn:
            assert txn.table("t").get(5) == long_row(5)
        assert db.stats().misses > before + 100


def test_threads_that_read_from_the_disk_do_not_share_memory(tmp_path: Path) -> None:
    with exmapdb.open(tmp_path / "t.exdb", memory="256KiB", backend="posix") as db:
        table = long_table(db)
        wrong: list[Any] = []

        def read(seed: int) -> None:
            keys = np.random.default_rng(seed).integers(0, 9000, 400).tolist()
            wrong.extend(key for key in keys if table.get(key) != long_row(key))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_lookups_read_ahead_what_is_not_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with exmapdb.open(tmp_path / "t.exdb", memory="512KiB", backend="posix") as db:
        table = long_table(db)
        table.lookup({"k": np.arange(64)})
        before = db.stats()
        for _ in range(10):
            keys = rng.integers(0, 9100, 256)
            rows, found = table.lookup({"k": keys})
            assert found.tolist() == (keys < 9000).tolist()
            assert rows["v"].to_pylist() == [f"{key:080}" for key in keys if key < 9000]
        after = db.stats()
        assert after.prefetched - before.prefetched > 10 * (after.misses - before.misses) > 0
    with exmapdb.open(tmp_path / "t.exdb", memory="8MiB", backend="posix") as db:
        assert db.table("t").count() == 9000
        before = db.stats()
        table = db.table("t")
        table.lookup({"k": rng.integers(0, 9000, 256)})
        # all of it is there
        assert db.stats().hits - before.hits < 256 * 4
        assert db.stats().prefetched == before.prefetched


def test_a_page_that_is_not_resident_is_read_the_long_way(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    with exmapdb.open(path, memory="256KiB", backend="posix") as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": range(9000), "v": [f"{i:080}" for i in range(9000)]})
        ways = {"short": 0, "long": 0}
        for key in np.random.default_rng(2).permutation(9000).tolist():
            before = db.stats().misses
            row = short(table, key)
            assert db.stats().misses == before
            ways["long" if row is NotImplemented else "short"] += 1
            assert table.get(key) == {"k": key, "v": f"{key:080}"}
            # now it is there
            assert short(table, key) == {"k": key, "v": f"{key:080}"}
            if sum(ways.values()) == 300:
                break
        assert ways["long"] > 100


def test_columns_that_change_are_seen(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "v": "text?"}, key="k")
    table.insert({"k": 1, "v": "x"})
    layout = table.layout
    db.add_column("t", "w", "int32?")
    assert layout.read(1) is NotImplemented
    assert table.get(1) == {"k": 1, "v": "x", "w": None}
    assert short(table, 1) == {"k": 1, "v": "x", "w": None}
    db.drop_column("t", "v")
    assert table.get(1) == {"k": 1, "w": None}


def test_what_a_transaction_has_not_committed_is_not_seen(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "v": "int64"}, key="k")
    table.insert({"k": 1, "v": 1})
    with db.begin() as txn:
        mine = txn.table("t")
        mine.upsert({"k": 1, "v": 2})
        assert mine.get(1) == {"k": 1, "v": 2}
        assert txn.read(mine.layout, 1) == {"k": 1, "v": 2}
        assert table.get(1) == {"k": 1, "v": 1}
    assert table.get(1) == {"k": 1, "v": 2}


def test_what_a_transaction_reads_the_short_way_counts(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "v": "int64"}, key="k")
    table.insert({"k": 1, "v": 1})
    for key in (1, 2):  # one that is there, and one that is not
        txn = db.begin()
        assert txn.read(txn.table("t").layout, key) is not NotImplemented
        txn.table("t").upsert({"k": 3, "v": key})
        table.upsert({"k": key, "v": 5})
        with pytest.raises(exmapdb.ConflictError):
            txn.commit()
    assert table.get(3) is None


def test_a_transaction_that_has_ended_reads_nothing(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "v": "int64"}, key="k")
    with db.begin() as txn:
        mine = txn.table("t")
    assert txn.read(table.layout, 1) is NotImplemented
    with pytest.raises(exmapdb.TransactionEndedError):
        mine.get(1)


def test_a_closed_database_is_not_read(tmp_path: Path) -> None:
    with exmapdb.open(tmp_path / "t.exdb", memory="256KiB", backend="posix") as db:
        table = db.create_table("t", {"k": "int64"}, key="k")
        table.insert({"k": 1})
        assert table.get(1) == {"k": 1}
    assert short(table, 1) is NotImplemented
    with pytest.raises(exmapdb.DatabaseClosedError):
        table.get(1)


def test_threads_read_whole_rows_beside_a_writer(db: exmapdb.Database) -> None:
    # a date is made by Python's code, which lets other threads in
    table = db.create_table("t", {"k": "int64", "a": "int64", "d": "date", "b": "text"}, key="k")

    def row(key: int, n: int) -> dict[str, Any]:
        return {"k": key, "a": n, "d": dt.date(1970, 1, 1) + dt.timedelta(n), "b": str(n)}

    table.insert_many({name: [row(k, k)[name] for k in range(64)] for name in "kadb"})
    done = threading.Event()
    wrong: list[Any] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not done.is_set():
            key = int(rng.integers(64))
            found = table.get(key)
            if found is None or found != row(key, found["a"]):
                wrong.append(found)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for n in range(200):
        table.upsert(row(n % 64, n))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
