"""Secondary and unique indexes, and columns that come and go. Posix backend."""

import math
import random
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import exmapdb
import pytest
from exmapdb._core import ffi
from exmapdb.indexing import fill

OPTIONS: Any = {"memory": "512KiB", "backend": "posix", "durability": "async", "log": "2MiB"}
PEOPLE = {"id": "int64", "name": "text?", "city": "text?", "born": "int32?"}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", **OPTIONS) as database:
        table = database.create_table("people", PEOPLE, key="id")
        table.insert_many(
            {
                "id": range(600),
                "name": [f"n{i % 50}" for i in range(600)],
                "city": [None if i % 7 == 0 else f"c{i % 5}" for i in range(600)],
                "born": [2000 - i % 30 for i in range(600)],
            }
        )
        yield database


def ids(rows: Iterator[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


def scan_ids(table: exmapdb.Table, *bounds: Any, **options: Any) -> list[int]:
    return [row[0] for batch in table.scan(*bounds, columns=["id"], **options) for row in batch.to_rows()]


def test_rows_are_found_by_an_index_made_before_or_after_them(db: exmapdb.Database) -> None:
    table = db.table("people")
    db.create_index("people", "by_name", "name")
    table.insert({"id": 1000, "name": "n3"})
    expected = [i for i in range(600) if i % 50 == 3]
    assert ids(table.find("by_name", "n3")) == [*expected, 1000]
    assert ids(table.find("by_name", "n")) == []
    assert table.indexes == (exmapdb.Index("by_name", ("name",), False, 0),)


def test_entries_follow_their_rows(db: exmapdb.Database) -> None:
    db.create_index("people", "by_city", ("city", "born"))
    table = db.table("people")
    table.update(1, {"city": "x"})
    table.upsert({"id": 2, "city": "x", "born": 1})
    assert ids(table.find("by_city", "x")) == [2, 1]
    assert ids(table.find("by_city", ("x", 1))) == [2]
    table.delete(1)
    assert ids(table.find("by_city", "x")) == [2]
    table.insert_many({"id": [2, 2], "city": ["y", "z"]}, replace=True)
    assert ids(table.find("by_city", "x")) == ids(table.find("by_city", "y")) == []
    assert ids(table.find("by_city", "z")) == [2]
    assert ids(table.find("by_city", None)) == [
        i for _, i in sorted((2000 - i % 30, i) for i in range(0, 600, 7))
    ]


@pytest.mark.parametrize("size", [1, 63, 1000])
def test_scans_go_in_the_order_of_an_index(db: exmapdb.Database, size: int) -> None:
    db.create_index("people", "by_born", "born")
    rows = sorted((2000 - i % 30, i) for i in range(600))
    table = db.table("people")
    assert scan_ids(table, index="by_born", batch_rows=size) == [i for _, i in rows]
    assert scan_ids(table, 1975, 1980, index="by_born", batch_rows=size) == [
        i for born, i in rows if 1975 <= born < 1980
    ]
    assert scan_ids(table, index="by_born", batch_rows=size, reverse=True) == [i for _, i in reversed(rows)]
    with pytest.raises(exmapdb.NoSuchIndexError, match="by_born"):
        table.scan(index="nothing")


def test_a_transaction_sees_its_own_entries_until_it_rolls_back(db: exmapdb.Database) -> None:
    db.create_index("people", "by_born", "born")
    with db.begin() as txn:
        table = txn.table("people")
        savepoint = txn.savepoint()
        table.insert({"id": -1, "born": 1})
        table.update(0, {"born": 0})
        table.delete(30)
        assert scan_ids(table, None, 1972, index="by_born") == [0, -1, *range(29, 600, 30)]
        assert scan_ids(table, None, 1972, index="by_born", reverse=True) == [*range(599, 28, -30), -1, 0]
        assert 30 not in ids(table.find("by_born", 2000))
        assert scan_ids(db.table("people"), None, 1970, index="by_born") == []
        txn.rollback_to(savepoint)
        assert ids(table.find("by_born", 2000)) == list(range(0, 600, 30))


def test_unique_values_are_refused_twice_but_nulls_are_not(db: exmapdb.Database) -> None:
    db.create_table("u", {"id": "int64", "a": "int64?", "b": "bool?"}, key="id")
    db.create_index("u", "ab", ("a", "b"), unique=True)
    table = db.table("u")
    table.insert_many({"id": [1, 2, 3, 4], "a": [1, 1, None, None], "b": [True, False, True, True]})
    with pytest.raises(exmapdb.UniqueError) as error:
        table.insert_many({"id": [5, 6, 7], "a": [2, 1, 3], "b": [True, False, True]})
    assert (error.value.index, error.value.row) == ("ab", 1)
    assert table.count() == 4
    table.delete(2)
    table.insert({"id": 5, "a": 1, "b": False})
    table.upsert({"id": 5, "a": 1, "b": False})
    assert ids(table.find("ab", (1, False))) == [5]
    assert ids(table.find("ab", None)) == [3, 4]
    with pytest.raises(exmapdb.UniqueError), db.begin() as txn:
        txn.table("u").update(1, {"b": False})


def test_one_of_two_transactions_gets_a_unique_value(db: exmapdb.Database) -> None:
    db.create_index("people", "by_born", ("born", "id"), unique=True)
    db.create_table("u", {"id": "int64", "a": "int64"}, key="id")
    db.create_index("u", "a", "a", unique=True)
    one, two = db.begin(), db.begin()
    one.table("u").insert({"id": 1, "a": 7})
    two.table("u").insert({"id": 2, "a": 7})
    one.commit()
    with pytest.raises(exmapdb.ConflictError):
        two.commit()
    assert ids(db.table("u").find("a", 7)) == [1]


def test_an_index_that_cannot_be_leaves_nothing(db: exmapdb.Database) -> None:
    with pytest.raises(exmapdb.UniqueError, match="'n'"):
        db.create_index("people", "n", "name", unique=True)
    for columns in ((), ("name", "name"), ("nothing",)):
        with pytest.raises(exmapdb.SchemaError):
            db.create_index("people", "n", columns)
    db.create_index("people", "n", "name")
    with pytest.raises(exmapdb.SchemaError, match="already"):
        db.create_index("people", "n", "born")
    db.create_table("f", {"id": "int64", "x": "float64", "t": "text"}, key="id")
    db.table("f").insert({"id": 1, "x": math.nan, "t": "x" * 600})
    with pytest.raises(exmapdb.InvalidValueError, match="NaN"):
        db.create_index("f", "x", "x")
    with pytest.raises(exmapdb.RowTooLargeError):
        db.create_index("f", "t", "t")
    assert db.table("f").indexes == ()


def test_a_dropped_index_gives_its_pages_back(db: exmapdb.Database) -> None:
    db.create_index("people", "n", ("name", "city"))
    before = db.check()
    db.drop_index("people", "n")
    after = db.check()
    assert after.rows < before.rows - 600
    assert after.free_pages > before.free_pages
    with pytest.raises(exmapdb.NoSuchIndexError):
        db.drop_index("people", "n")
    db.table("people").delete_many({"id": range(600)})
    db.create_index("people", "n", "name")


def test_indexes_and_columns_are_there_after_reopening(db: exmapdb.Database, tmp_path: Path) -> None:
    db.create_index("people", "n", "name")
    db.add_column("people", "height", "decimal(4,2)?")
    db.table("people").update(3, {"height": Decimal("1.80")})
    copy = tmp_path / "copy.exdb"
    db.checkpoint()
    db.table("people").delete(53)
    db.close()
    copy.write_bytes((tmp_path / "t.exdb").read_bytes())
    with exmapdb.open(copy, **OPTIONS) as database:
        found = list(database.table("people").find("n", "n3"))
        assert [row["id"] for row in found] == [i for i in range(600) if i % 50 == 3 and i != 53]
        assert [row["height"] for row in found] == [Decimal("1.80")] + [None] * 10


def test_a_snapshot_has_the_indexes_and_columns_that_there_were(db: exmapdb.Database) -> None:
    db.create_index("people", "n", "name")
    with db.snapshot() as snapshot:
        db.drop_index("people", "n")
        db.drop_column("people", "city")
        db.table("people").delete_many({"id": range(600)})
        table = snapshot.table("people")
        assert ids(table.find("n", "n3")) == [i for i in range(600) if i % 50 == 3]
        assert table.get(8) == {"id": 8, "name": "n8", "city": "c3", "born": 1992}


def test_columns_come_and_go_and_old_rows_are_read(db: exmapdb.Database) -> None:
    table = db.table("people")
    db.add_column("people", "note", "text?")
    table.insert({"id": 1000, "note": "new"})
    db.drop_column("people", "city")
    assert table.get(1) == {"id": 1, "name": "n1", "born": 1999, "note": None}
    assert table.get(1000) == {"id": 1000, "name": None, "born": None, "note": "new"}
    db.add_column("people", "city", "int32?")
    assert table.get(1) == {"id": 1, "name": "n1", "born": 1999, "note": None, "city": None}
    table.update(1, {"city": 9, "note": "x"})
    assert [row for b in table.scan(0, 3, columns=["city", "note"]) for row in b.to_rows()] == [
        (None, None),
        (9, "x"),
        (None, None),
    ]
    assert table.schema.names == ("id", "name", "born", "note", "city")


def test_changes_of_columns_that_cannot_be_are_refused(db: exmapdb.Database) -> None:
    db.create_index("people", "n", "name")
    for column in ("id", "name", "nothing"):
        with pytest.raises(exmapdb.SchemaError, match=column):
            db.drop_column("people", column)
    for column, kind in (("new", "int32"), ("name", "text?"), ("", "text?"), ("new", "decimal(19,0)?")):
        with pytest.raises(exmapdb.SchemaError):
            db.add_column("people", column, kind)
    with pytest.raises(exmapdb.NoSuchTableError):
        db.add_column("nothing", "new", "int32?")


def test_the_number_of_changes_of_a_tables_columns_is_limited(db: exmapdb.Database) -> None:
    db.create_table("narrow", {"id": "int64"}, key="id")
    for i in range(255):
        (db.drop_column if i % 2 else db.add_column)("narrow", "x", *([] if i % 2 else ["bool?"]))
        db.table("narrow").insert({"id": i})
    with pytest.raises(exmapdb.SchemaError, match="255"):
        db.drop_column("narrow", "x")
    assert db.table("narrow").get(7) == {"id": 7, "x": None}
    assert db.table("narrow").count() == 255


def test_a_transaction_under_way_meets_a_change_of_columns(db: exmapdb.Database) -> None:
    txn = db.begin()
    txn.table("people").insert({"id": 1000, "city": "x"})
    db.drop_column("people", "city")
    with pytest.raises(exmapdb.ConflictError):
        txn.commit()
    assert db.table("people").get(1000) is None


def test_a_change_of_columns_rolls_back_with_its_transaction(db: exmapdb.Database) -> None:
    txn = db.begin()
    txn.add_column("people", "x", "int64?")
    txn.create_index("people", "x", "x")
    txn.table("people").update(5, {"x": 77})
    assert ids(txn.table("people").find("x", 77)) == [5]
    assert "x" not in db.table("people").schema.names
    txn.rollback()
    assert db.table("people").indexes == ()
    assert db.table("people").get(5) == {"id": 5, "name": "n5", "city": "c0", "born": 1995}


def test_a_scan_meets_rows_with_columns_it_does_not_know(db: exmapdb.Database) -> None:
    scan = db.table("people").scan(batch_rows=10, prefetch=0)
    next(scan)
    db.add_column("people", "x", "int64?")
    db.table("people").update(599, {"x": 1})
    with pytest.raises(exmapdb.SchemaChangedError):
        list(scan)


def test_threads_keep_an_index_while_columns_and_indexes_change(tmp_path: Path) -> None:
    with exmapdb.open(tmp_path / "t.exdb", workers=4, **OPTIONS) as db:
        table = db.create_table("t", {"id": "int64", "a": "int64"}, key="id")
        db.create_index("t", "a", "a")
        problems: list[object] = []
        changed = threading.Event()

        def work(start: int) -> None:
            for i in range(start, 1500, 3):
                table.insert({"id": i, "a": i % 10})
                table.update(i, {"a": i % 10 + 100})
                if i % 4 == 0:
                    table.delete(i)
            if not changed.wait(60):
                problems.append("the columns never changed")

        def change() -> None:
            for i in range(6):
                db.add_column("t", f"x{i}", "int32?")
                db.create_index("t", f"i{i}", ("a", f"x{i}"))
            changed.set()

        threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
        threads.append(threading.Thread(target=change))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        expected = sorted((i % 10 + 100, i) for i in range(1500) if i % 4)
        for index in db.table("t").indexes:
            found = [row for b in table.scan(index=index.name, columns=["a", "id"]) for row in b.to_rows()]
            assert found == expected
        # no entry is left of what was deleted: tables, columns, indexes, roots; the rows, and seven indexes
        catalog = 1 + 8 + 13 + 12
        assert db.check().rows == catalog + len(expected) * 8


BIG = 30_000


@pytest.fixture
def big(tmp_path: Path) -> Iterator[exmapdb.Database]:
    """A table whose entries in an index take several times the log."""
    options = OPTIONS | {"log": "256KiB", "workers": 4}
    with exmapdb.open(tmp_path / "big.exdb", **options) as database:
        table = database.create_table("t", {"id": "int64", "v": "text", "n": "int64"}, key="id")
        for first in range(0, BIG, 1000):
            part = range(first, first + 1000)
            table.insert_many({"id": part, "v": [f"{BIG - i:06}" for i in part], "n": [0] * 1000})
        yield database


def by_index(db: exmapdb.Database) -> list[tuple[str, int]]:
    batches = db.table("t").scan(index="by_v", columns=["v", "id"])
    return [row for batch in batches for row in batch.to_rows()]


def by_key(db: exmapdb.Database) -> list[tuple[str, int]]:
    batches = db.table("t").scan(columns=["v", "id"])
    return sorted(row for batch in batches for row in batch.to_rows())


@pytest.mark.parametrize("unique", [False, True])
def test_an_index_may_be_larger_than_the_log(big: exmapdb.Database, unique: bool) -> None:
    big.create_index("t", "by_v", "v", unique=unique)
    assert by_index(big) == by_key(big)
    with pytest.raises(exmapdb.TransactionTooLargeError):
        big.run(lambda txn: txn.create_index("t", "again", "v"))
    assert [index.name for index in big.table("t").indexes] == ["by_v"]
    big.check()


@pytest.mark.parametrize("unique", [False, True])
def test_writers_go_on_while_an_index_is_made(big: exmapdb.Database, unique: bool) -> None:
    done = threading.Event()
    problems: list[BaseException] = []
    changes = [0, 0]

    def write(writer: int) -> None:
        rng = random.Random(writer)
        table = big.table("t")
        try:
            while not done.is_set():
                key = rng.randrange(BIG // 2) * 2 + writer
                if rng.random() < 0.5:
                    table.upsert({"id": key, "v": f"{rng.randrange(10**6):06}w{key}", "n": 1})
                else:
                    table.delete(key)
                changes[writer] += 1
        except BaseException as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in writers:
        thread.start()
    while not all(changes) and not problems:
        time.sleep(0.001)
    before = list(changes)
    big.create_index("t", "by_v", "v", unique=unique)
    done.set()
    for thread in writers:
        thread.join()
    assert problems == []
    assert all(now > then for now, then in zip(changes, before, strict=True))
    assert by_index(big) == by_key(big)
    big.check()


def test_a_large_index_that_cannot_be_leaves_nothing(big: exmapdb.Database) -> None:
    pages = big.check().tree_pages
    big.table("t").update(BIG - 1, {"v": f"{BIG:06}"})
    with pytest.raises(exmapdb.UniqueError):
        big.create_index("t", "by_v", "v", unique=True)
    assert big.table("t").indexes == ()
    assert big.check().tree_pages <= pages + 2
    big.create_index("t", "by_v", "v")
    assert by_index(big) == by_key(big)


def unfinished(db: exmapdb.Database, unique: bool) -> None:
    """Leave an index as a crash while it is made would."""
    db.run(lambda txn: txn.declare_index("t", "by_v", ("v",), unique))
    db.run(lambda txn: fill(txn, "t", "by_v", ffi.new("struct exdb_key *"), 100))


def test_an_unfinished_index_is_kept_by_writers_seen_by_nobody_and_made_again(
    big: exmapdb.Database,
) -> None:
    unfinished(big, unique=False)
    table = big.table("t")
    assert table.indexes == ()
    with pytest.raises(exmapdb.NoSuchIndexError):
        list(table.find("by_v", "000001"))
    table.delete_many({"id": range(50, 150)})
    table.upsert({"id": 7, "v": "seven", "n": 7})
    big.create_index("t", "by_v", "v")
    assert by_index(big) == by_key(big)
    big.drop_index("t", "by_v")
    unfinished(big, unique=False)
    big.drop_index("t", "by_v")
    with pytest.raises(exmapdb.NoSuchIndexError):
        big.drop_index("t", "by_v")


def test_a_row_without_an_entry_does_not_take_anothers_from_an_unfinished_index(
    big: exmapdb.Database,
) -> None:
    # row 200 has no entry yet, and the value of row 3, which has one
    big.table("t").update(200, {"v": f"{BIG - 3:06}"})
    unfinished(big, unique=True)
    big.table("t").delete(200)
    with pytest.raises(exmapdb.UniqueError):
        big.table("t").upsert({"id": 201, "v": f"{BIG - 3:06}", "n": 0})


def test_a_table_that_has_all_indexes_it_may_have_refuses_another_one(db: exmapdb.Database) -> None:
    for number in range(16):
        db.create_index("people", f"i{number}", "born")
    with pytest.raises(exmapdb.SchemaError, match="at most 16"):
        db.create_index("people", "more", "born")
    assert db.table("people").get(1) is not None
