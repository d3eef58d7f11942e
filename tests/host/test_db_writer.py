"""Table.insert: the short way, for values of Python's own types, and the long way, write the same."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from exmapdb.workers import address_of
from test_db_reader import TYPES, VALUES, same

COLUMNS = {name: f"{kind}?" for name, kind in TYPES.items()}
SCHEMA = {"k": "int64", **COLUMNS}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", memory="1MiB", backend="posix", durability="async") as db:
        yield db


def short(table: exmapdb.Table, row: Any, replace: bool = False) -> Any:
    with table._session() as (worker, txn):
        return table.layout.write(worker.address, address_of(txn), row, replace)


def test_values_of_every_type_and_nulls_are_written_as_by_the_long_way(db: exmapdb.Database) -> None:
    table = db.create_table("t", SCHEMA, key="k")
    for n, values in enumerate([*VALUES, dict.fromkeys(VALUES[0]), {}]):
        row = {"k": 2 * n, **values}
        assert short(table, row) == 0
        table.insert_many({name: [value] for name, value in (row | {"k": 2 * n + 1}).items()})
        one, other = table.get(2 * n), table.get(2 * n + 1)
        assert one is not None
        assert other is not None
        assert same(one, other | {"k": 2 * n})


@pytest.mark.parametrize("kind", TYPES)
def test_keys_of_every_type(db: exmapdb.Database, kind: str) -> None:
    table = db.create_table("t", {"k": TYPES[kind], "n": "int64"}, key="k")
    for n, values in enumerate(VALUES):
        assert short(table, {"k": values[kind], "n": n}) == 0
    assert [table.get(values[kind]) for values in VALUES] == [
        {"k": values[kind], "n": n} for n, values in enumerate(VALUES)
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"k": np.int64(1)},
        {"k": True},
        {"k": 1, "i": 1 << 31},
        {"k": 1 << 63},
        {"k": 1, "b": 1},
        {"k": 1, "f": 1},
        {"k": 1, "t": b"x"},
        {"k": 1, "t": "\ud800"},
        {"k": 1, "y": bytearray(b"x")},
        {"k": 1, "m": 0.5},
        {"k": 1, "d": "1970-01-01"},
        {"k": None},
        {"t": "x"},
        {},
        {"k": 1, "unknown": 2},
        [("k", 1)],
    ],
)
def test_what_is_not_known_is_left_to_the_long_way(db: exmapdb.Database, row: Any) -> None:
    table = db.create_table("t", SCHEMA, key="k")
    assert short(table, row) is NotImplemented
    assert table.count() == 0


def test_the_long_way_converts_or_refuses(db: exmapdb.Database) -> None:
    table = db.create_table("t", SCHEMA, key="k")
    table.insert({"k": np.int64(1), "f": 1, "y": bytearray(b"x")})
    assert table.get(1) == dict.fromkeys(SCHEMA) | {"k": 1, "f": 1.0, "y": b"x"}
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"k": 2, "i": 1 << 31}, exmapdb.InvalidValueError),
        ({"k": None}, exmapdb.NullViolationError),
        ({"t": "x"}, exmapdb.NullViolationError),
        ({"k": 2, "unknown": 2}, exmapdb.SchemaError),
    ]
    for row, error in wrong:
        with pytest.raises(error):
            table.insert(row)
    assert table.count() == 1


def test_errors_are_those_of_the_long_way(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "float64", "t": "text", "u": "int64?"}, key="k")
    db.create_index("t", "by_u", "u", unique=True)
    table.insert({"k": 1.0, "t": "x", "u": 1})
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"k": 1.0, "t": "y"}, exmapdb.DuplicateKeyError),
        ({"k": 2.0, "t": "y", "u": 1}, exmapdb.UniqueError),
        ({"k": float("nan"), "t": "y"}, exmapdb.InvalidValueError),
    ]
    for row, error in wrong:
        with pytest.raises(error) as short_way:
            table.insert(row)
        with pytest.raises(error) as long_way:
            table.insert_many({name: [value] for name, value in row.items()})
        assert str(short_way.value) == str(long_way.value)
    assert table.count() == 1


def test_columns_that_change_are_seen(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64"}, key="k")
    other = db.table("t")
    db.add_column("t", "v", "int32?")
    other.insert({"k": 1, "v": 2})
    table.insert({"k": 2, "v": 3})
    db.drop_column("t", "v")
    with pytest.raises(exmapdb.SchemaError, match="v"):
        other.insert({"k": 3, "v": 4})
    table.insert({"k": 3})
    assert table.count() == 3


def test_a_transaction_keeps_what_it_writes_to_itself(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
    txn = db.begin()
    txn.table("t").insert({"k": 1, "v": "x"})
    assert table.get(1) is None
    txn.rollback()
    assert table.get(1) is None
    with pytest.raises(exmapdb.TransactionEndedError):
        txn.table("t").insert({"k": 1, "v": "x"})
    with db.begin() as txn:
        txn.table("t").insert({"k": 1, "v": "x"})
    assert table.get(1) == {"k": 1, "v": "x"}


def test_a_snapshot_is_not_written(db: exmapdb.Database) -> None:
    db.create_table("t", {"k": "int64"}, key="k")
    with db.snapshot() as snapshot, pytest.raises(exmapdb.SnapshotWriteError):
        snapshot.table("t").insert({"k": 1})


def test_values_are_let_go_of(db: exmapdb.Database) -> None:
    table = db.create_table("t", SCHEMA, key="k")
    row = {"k": 7, "t": "a text of its own" * 2, "y": b"bytes of their own" * 2, "s": VALUES[0]["s"]}
    before = [sys.getrefcount(value) for value in row.values()]
    for wrong in ({}, {"i": 1 << 40}, {"f": 1}, {"d": 1}):
        short(table, row | wrong, True)
    assert [sys.getrefcount(value) for value in row.values()] == before


def test_threads_change_a_dict_while_it_is_written(db: exmapdb.Database) -> None:
    # dates and decimals are converted by Python's code, which lets other threads in
    table = db.create_table("t", {"k": "int64", "a": "date", "m": "decimal(9,2)", "t": "text"}, key="k")
    row = {"k": 1, "a": VALUES[0]["d"], "m": VALUES[0]["m"], "t": ""}
    done = threading.Event()

    def change() -> None:
        n = 0
        while not done.is_set():
            n += 1
            row["t"] = str(n % 10) * 300

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for n in range(2000):
            table.upsert(row)
            if n % 50 == 0:
                found = table.get(1)
                assert found is not None
                assert len(set(found["t"])) <= 1
    finally:
        done.set()
        thread.join()
