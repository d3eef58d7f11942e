"""Tables that are dropped and renamed: what readers, writers, snapshots and crashes see of it.

Collected by tests/host on the posix backend, and by tests/vm on kernel.
"""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import pytest
from backends import BACKENDS
from db_pages import check_file

ROWS = 2000
SCHEMA = {"k": "int64", "v": "text"}
OPTIONS: Any = {"memory": "256KiB", "backend": BACKENDS[-1], "durability": "async", "log": "4MiB"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.exdb"


@pytest.fixture
def db(path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(path, **OPTIONS) as database:
        yield database
        database.check()
    check_file(path)


def make(db: exmapdb.Database, name: str, rows: int = ROWS) -> exmapdb.Table:
    table = db.create_table(name, SCHEMA, key="k")
    table.insert_many({"k": range(rows), "v": [f"{name}{k:0100}" for k in range(rows)]})
    return table


def used_pages(db: exmapdb.Database) -> int:
    stats = db.stats()
    return stats.allocated_pages - stats.free_pages


def test_a_dropped_table_is_gone_with_its_indexes_and_its_pages_serve_again(db: exmapdb.Database) -> None:
    before = used_pages(db)
    table = make(db, "t")
    db.create_index("t", "by_v", "v")
    used = used_pages(db)
    db.drop_table("t")
    assert db.tables() == []
    # a root for the table, and one for the index
    assert used_pages(db) == before + 2
    for use in (
        lambda: table.get(1),
        lambda: list(table.scan()),
        lambda: table.insert({"k": 1}),
        table.count,
    ):
        with pytest.raises(exmapdb.NoSuchTableError):
            use()
    with pytest.raises(exmapdb.NoSuchTableError):
        db.table("t")
    with pytest.raises(exmapdb.NoSuchTableError):
        db.drop_table("t")
    make(db, "u")
    db.create_index("u", "by_v", "v")
    assert used_pages(db) <= used
    assert db.stats().allocated_pages <= used + 20


def test_a_table_made_anew_under_the_name_is_another_one(db: exmapdb.Database) -> None:
    table = make(db, "t")
    db.drop_table("t")
    db.create_table("t", {"k": "text", "n": "int32?"}, key="k").insert({"k": "a", "n": 1})
    assert table.get("a") == {"k": "a", "n": 1}
    assert table.count() == 1


def test_numbers_and_pages_of_dropped_tables_serve_again(db: exmapdb.Database) -> None:
    make(db, "kept")
    trees, pages = set(), set()
    for _ in range(50):
        trees.add(make(db, "t", rows=300).tree)
        db.drop_table("t")
        pages.add(used_pages(db))
    assert len(trees) == len(pages) == 1
    assert db.table("kept").count() == ROWS


def test_older_snapshots_still_read_a_dropped_table(db: exmapdb.Database) -> None:
    make(db, "t")
    db.create_index("t", "by_v", "v")
    with db.snapshot() as snapshot:
        db.drop_table("t")
        make(db, "t", rows=10)
        make(db, "u")
        table = snapshot.table("t")
        assert snapshot.tables() == ["t"]
        assert [row for batch in table.scan() for row in batch.to_rows()] == [
            (k, f"t{k:0100}") for k in range(ROWS)
        ]
        assert sum(batch.rows for batch in table.scan(columns=(), index="by_v")) == ROWS
    assert db.table("t").count() == 10


def test_a_scan_under_way_says_that_its_table_was_dropped(db: exmapdb.Database) -> None:
    table = make(db, "t")
    scan = table.scan(batch_rows=10)
    next(scan)
    db.drop_table("t")
    make(db, "u")
    with pytest.raises(exmapdb.NoSuchTableError):
        list(scan)


def test_a_scan_of_an_index_that_is_dropped_does_not_end_as_if_that_were_all(db: exmapdb.Database) -> None:
    table = make(db, "t")
    db.create_index("t", "by_v", "v")
    scan = table.scan(batch_rows=10, index="by_v")
    next(scan)
    db.drop_index("t", "by_v")
    with pytest.raises(exmapdb.SchemaChangedError):
        list(scan)
    assert table.count() == ROWS


def test_a_transaction_that_uses_the_table_conflicts(db: exmapdb.Database) -> None:
    make(db, "t")
    txn = db.begin()
    txn.table("t").update(1, {"v": "changed"})
    db.drop_table("t")
    with pytest.raises(exmapdb.ConflictError):
        txn.commit()


def test_a_transaction_drops_a_table_when_it_commits(db: exmapdb.Database) -> None:
    table = make(db, "t")
    with db.begin() as txn:
        mine = txn.table("t")
        txn.drop_table("t")
        with pytest.raises(exmapdb.NoSuchTableError):
            mine.get(1)
        with pytest.raises(exmapdb.NoSuchTableError):
            txn.table("t")
        assert table.count() == ROWS
    with pytest.raises(exmapdb.NoSuchTableError):
        table.count()


def test_a_savepoint_brings_a_dropped_table_back(db: exmapdb.Database) -> None:
    make(db, "t")
    used = used_pages(db)
    with db.begin() as txn:
        table = txn.table("t")
        savepoint = txn.savepoint()
        txn.drop_table("t")
        txn.create_table("t", {"other": "text"}, key="other").insert({"other": "x"})
        assert table.schema.names == ("other",)
        txn.rollback_to(savepoint)
        assert table.schema.names == ("k", "v")
        assert table.update(1, {"v": "new"})
    assert db.table("t").get(1) == {"k": 1, "v": "new"}
    assert used_pages(db) == used


def test_a_transaction_drops_what_it_has_made_itself(db: exmapdb.Database) -> None:
    before = used_pages(db)
    with db.begin() as txn:
        txn.create_table("t", SCHEMA, key="k").insert({"k": 1, "v": "x"})
        txn.drop_table("t")
    assert db.tables() == []
    assert used_pages(db) == before + 1


def test_rolled_back_tables_use_no_numbers_up(db: exmapdb.Database) -> None:
    trees = set()
    for _ in range(20):
        txn = db.begin()
        trees.add(txn.create_table("t", SCHEMA, key="k").tree)
        txn.rollback()
    assert len(trees) == 1


@pytest.mark.parametrize("way", ["delete", "drop_index", "drop_table"])
def test_a_full_database_can_be_emptied(tmp_path: Path, way: str) -> None:
    with exmapdb.open(tmp_path / "full.exdb", **OPTIONS | {"capacity": "1MiB"}) as db:
        table = db.create_table("t", SCHEMA, key="k")
        db.create_index("t", "by_v", "v")
        inserted = 0
        with contextlib.suppress(exmapdb.DatabaseFullError):
            while True:
                key = inserted * 7919 % 100_003
                # an index of what begins alike would be small
                table.insert({"k": key, "v": f"{key:05}" * 80})
                inserted += 1
        if way == "delete":
            for first in range(0, inserted, 5):
                keys = [number * 7919 % 100_003 for number in range(first, min(first + 5, inserted))]
                assert table.delete_many({"k": keys}) == len(keys)
        elif way == "drop_index":
            db.drop_index("t", "by_v")
        else:
            db.drop_table("t")
            table = db.create_table("t", SCHEMA, key="k")
        table.insert_many({"k": range(200_000, 200_100), "v": ["x" * 400] * 100})


def test_what_a_crash_leaves_is_given_back_at_the_next_opening(path: Path, tmp_path: Path) -> None:
    """Each state of the file while a table is being given back, as a crash would leave it."""
    with exmapdb.open(path, **OPTIONS | {"durability": "sync"}) as db:
        before = used_pages(db)
        make(db, "t", rows=5000)
        # the commit of the drop, without what comes after it
        free_dropped, db.free_dropped = db.free_dropped, lambda: None  # type: ignore[method-assign]
        db.drop_table("t")
        shutil.copy(path, tmp_path / "copy.exdb")
        left = used_pages(db)
        assert left > before + 100
        db.checkpoint()
        check_file(path)
        shutil.copy(path, tmp_path / "later.exdb")
        free_dropped()
        assert used_pages(db) == before + 1
    for copy in ("copy.exdb", "later.exdb"):
        with exmapdb.open(tmp_path / copy, flag="w", **OPTIONS) as db:
            assert db.tables() == []
            assert used_pages(db) == before + 1
            db.check()
        check_file(tmp_path / copy)


def test_backups_and_their_copies_know_what_was_dropped(db: exmapdb.Database, tmp_path: Path) -> None:
    make(db, "t")
    make(db, "u")
    db.backup(tmp_path / "first", keep=True)
    db.drop_table("t")
    db.backup(tmp_path / "second", base=tmp_path / "first")
    for backups, names in (((), ["t", "u"]), (("second",), ["u"])):
        copy = tmp_path / "copy.exdb"
        exmapdb.restore(copy, [tmp_path / name for name in ("first", *backups)], force=True, **OPTIONS)
        with exmapdb.open(copy, flag="w", **OPTIONS) as restored:
            assert restored.tables() == names
            assert restored.table("u").count() == ROWS
            restored.check()


def test_readers_beside_drops_see_rows_of_the_table_or_that_there_is_none(db: exmapdb.Database) -> None:
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            try:
                scan = db.table("t").scan(batch_rows=20)
                rows = [row for batch in scan for row in batch.to_rows()]
            except (exmapdb.NoSuchTableError, exmapdb.SchemaChangedError):
                continue
            wrong.extend(row for row in rows if row[1] != f"t{row[0]:0100}")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        make(db, "t", rows=200)
        db.drop_table("t")
        # the same number, and the same pages
        make(db, "u", rows=200)
        db.drop_table("u")
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_renamed_table_is_the_same_under_another_name(db: exmapdb.Database) -> None:
    table = make(db, "t")
    db.create_index("t", "by_v", "v")
    make(db, "taken", rows=1)
    db.rename_table("t", "u")
    assert db.tables() == ["taken", "u"]
    with pytest.raises(exmapdb.NoSuchTableError):
        table.get(1)
    renamed = db.table("u")
    assert renamed.get(1) == {"k": 1, "v": f"t{1:0100}"}
    assert next(renamed.find("by_v", f"t{5:0100}"))["k"] == 5
    with pytest.raises(exmapdb.TableExistsError):
        db.rename_table("u", "taken")
    with pytest.raises(exmapdb.NoSuchTableError):
        db.rename_table("t", "w")
    with pytest.raises(exmapdb.SchemaError):
        db.rename_table("u", "")


def test_a_renamed_column_keeps_its_values_its_key_and_its_indexes(db: exmapdb.Database) -> None:
    table = make(db, "t")
    db.create_index("t", "by_v", "v")
    db.add_column("t", "n", "int32?")
    db.drop_column("t", "n")
    with db.begin() as txn:
        txn.rename_column("t", "v", "value")
        txn.rename_column("t", "k", "n")
        assert txn.table("t").get(1) == {"n": 1, "value": f"t{1:0100}"}
    assert table.schema.key == ("n",)
    assert table.get(1) == {"n": 1, "value": f"t{1:0100}"}
    assert table.indexes[0].columns == ("value",)
    assert next(table.find("by_v", f"t{5:0100}"))["n"] == 5
    with pytest.raises(exmapdb.SchemaError):
        db.rename_column("t", "n", "value")
    with pytest.raises(exmapdb.SchemaError):
        db.rename_column("t", "v", "w")
