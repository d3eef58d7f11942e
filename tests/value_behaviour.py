"""Values larger than a page: what goes in comes out, wherever columns go, and damage has a name.

Collected by tests/host on the posix backend, and by tests/vm on kernel.
"""

import contextlib
import random
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import pytest
from backends import BACKENDS
from db_pages import check_file, page_blocks

PAGE = 4096
OPTIONS: Any = {"memory": "512KiB", "backend": BACKENDS[-1], "capacity": "256MiB", "durability": "async"}
SCHEMA = {"k": "int64", "name": "text", "data": "bytes?"}
EDGES = (0, 1, 16, 17, 970, 992, 1000, PAGE - 1, PAGE, PAGE + 1, 64 * PAGE, 64 * PAGE + 1, 1 << 20)
Row = tuple[int, str, bytes | None]


def value(key: int, size: int) -> bytes:
    return random.Random(key).randbytes(size)


def row(key: int, size: int) -> dict[str, Any]:
    return {"k": key, "name": "é" * (size // 7), "data": value(key, size)}


def rows_of(view: Any, reverse: bool = False) -> list[Row]:
    return [found for batch in view.scan(reverse=reverse) for found in batch.to_rows()]


def fill(table: exmapdb.Table, size: int, rows: int = 1) -> None:
    """Insert rows, so many at a time, until that fails."""
    for start in range(0, 100_000, rows):
        keys = range(start, start + rows)
        table.insert_many({"k": keys, "name": [""] * rows, "data": [value(key, size) for key in keys]})
    raise AssertionError("nothing failed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.exdb"


@contextlib.contextmanager
def opened(path: Path, **options: Any) -> Iterator[exmapdb.Database]:
    """Open it, and afterwards check every page by the core's eyes and by others."""
    with exmapdb.open(path, **(OPTIONS | options)) as db:
        yield db
        db.check()
    check_file(path)


@pytest.fixture
def db(path: Path) -> Iterator[exmapdb.Database]:
    with opened(path) as database:
        database.create_table("t", SCHEMA, key="k")
        yield database


def test_values_of_all_sizes_come_out_as_they_went_in(path: Path) -> None:
    """Up to twice the pool."""
    rows = [row(key, size) for key, size in enumerate(EDGES)]
    expected = [tuple(given.values()) for given in rows]
    with opened(path) as db:
        table = db.create_table("t", SCHEMA, key="k")
        for given in rows[::-1]:
            table.insert(given)
        assert db.check().extent_pages > 256
    with opened(path) as db:
        table = db.table("t")
        assert [table.get(given["k"]) for given in rows] == rows
        assert table.get_many(range(len(rows))) == rows
        assert rows_of(table) == expected
        assert rows_of(table, reverse=True) == expected[::-1]
        batch, found = table.lookup({"k": range(-1, len(rows))})
        assert list(found) == [False] + [True] * len(rows)
        assert list(batch.to_rows()) == expected


def test_a_value_of_16_mib_comes_back(path: Path) -> None:
    with opened(path, capacity="1GiB") as db:
        table = db.create_table("t", SCHEMA, key="k")
        given = {"k": 1, "name": "", "data": value(1, 16 << 20)}
        table.insert(given)
        assert table.get(1) == given
    with opened(path, capacity="1GiB") as db:
        assert db.table("t").get(1) == given


def test_several_columns_are_moved_out_until_the_row_fits(db: exmapdb.Database) -> None:
    names = [f"c{i:02}" for i in range(40)]
    table = db.create_table("wide", {"k": "int32"} | dict.fromkeys(names, "text?"), key="k")
    for size in (20, 25, 60, 3000):
        given = {"k": size} | {
            name: name * (size // 3) if size % 4 or name != "c07" else None for name in names
        }
        table.insert(given)
        assert table.get(size) == given
    table.update(25, {"c03": "x" * 5000, "c04": None})
    found = table.get(25)
    assert found is not None
    assert (found["c03"], found["c04"], found["c05"]) == ("x" * 5000, None, "c05" * 8)


def test_a_row_that_cannot_fit_is_refused(db: exmapdb.Database) -> None:
    names = [f"c{i:02}" for i in range(200)]
    table = db.create_table("wide", {"k": "int32"} | dict.fromkeys(names, "text?"), key="k")
    with pytest.raises(exmapdb.RowTooLargeError):
        table.insert({"k": 1} | dict.fromkeys(names, "x" * 17))
    with pytest.raises(exmapdb.RowTooLargeError):
        db.create_table("key", {"k": "text", "v": "text"}, key="k").insert({"k": "k" * 5000, "v": ""})


def test_a_value_larger_than_half_the_log_is_refused_and_nothing_is_lost(path: Path) -> None:
    with opened(path, log="1MiB") as db:
        table = db.create_table("t", SCHEMA, key="k")
        table.insert(row(1, 300_000))
        with pytest.raises(exmapdb.TransactionTooLargeError):
            table.upsert(row(1, 600_000))
        assert table.get(1) == row(1, 300_000)


def test_pages_of_values_that_are_gone_are_used_again(path: Path) -> None:
    """Under updates of random sizes the file stays as long as its values are."""
    rng = random.Random(3)
    sizes: dict[int, int] = {}
    with opened(path, capacity="16MiB", log="1MiB") as db:
        table = db.create_table("t", SCHEMA, key="k")
        for _ in range(600):
            key, size = rng.randrange(12), rng.choice((0, 5000, 30_000, 100_000, 200_000))
            if rng.randrange(4):
                table.upsert({"k": key, "name": "", "data": value(size, size)})
                sizes[key] = size
            else:
                assert table.delete(key) == (sizes.pop(key, None) is not None)
        assert rows_of(table) == [(key, "", value(size, size)) for key, size in sorted(sizes.items())]
        # 12 values of at most 50 pages, and what lies between them
        assert db.stats().allocated_pages < 1200
        for key in sizes:
            table.delete(key)
        found = db.check()
        assert found.extent_pages == 0
        assert found.free_pages == db.stats().free_pages > 200
    census = check_file(path)
    assert len(census.runs) == 1


def test_trees_get_pages_of_values_when_there_are_no_others(path: Path, tmp_path: Path) -> None:
    """Also those of a recovery."""
    copy, options = tmp_path / "copy.exdb", {"capacity": "4MiB", "log": "16MiB"}
    with opened(path, durability="sync", **options) as db:
        table = db.create_table("t", SCHEMA, key="k")
        with pytest.raises(exmapdb.DatabaseFullError):
            fill(table, 60_000)
        kept = table.count()
        assert kept > 40
        table.delete_many({"k": range(kept)})
        db.checkpoint()
        with pytest.raises(exmapdb.DatabaseFullError):
            fill(table, 400, 100)
        rows = rows_of(table)
        assert len(rows) > 5000
        copy.write_bytes(path.read_bytes())
    with opened(copy, **options) as db:
        assert db.stats().recovered > 50
        assert rows_of(db.table("t")) == rows


def test_values_stay_with_their_rows_wherever_leaves_put_them(path: Path) -> None:
    """Through splits, merges and rotations."""
    rng = random.Random(8)
    keys = rng.sample(range(10_000), 700)
    with opened(path, memory="8MiB") as db:
        table = db.create_table("t", SCHEMA, key="k")
        rows = {key: (key, "n" * rng.randrange(500), value(key, rng.choice((10, 1500)))) for key in keys}
        for start in range(0, len(keys), 50):
            columns = zip(*(rows[key] for key in keys[start : start + 50]), strict=True)
            table.insert_many(dict(zip(SCHEMA, map(list, columns), strict=True)))
        assert rows_of(table) == sorted(rows.values())
        # first most of every third leaf, whose neighbours stay full
        for start in range(0, 700, 36):
            for key in sorted(keys)[start : start + 12]:
                assert table.delete(key)
                del rows[key]
        assert rows_of(table) == sorted(rows.values())
        left = rng.sample(sorted(rows), 30)
        table.delete_many({"k": [key for key in rows if key not in left]})
        assert rows_of(table, reverse=True) == [rows[key] for key in sorted(left, reverse=True)]


def test_a_failed_transaction_leaves_no_pages_behind(db: exmapdb.Database) -> None:
    table = db.table("t")
    table.insert(row(1, 50_000))
    before = db.check().extent_pages
    with pytest.raises(exmapdb.DuplicateKeyError):
        table.insert_many({"k": [0, 1], "name": ["", ""], "data": [value(0, 90_000), value(1, 90_000)]})
    assert db.check().extent_pages == before
    assert table.get(1) == row(1, 50_000)
    assert table.get(0) is None


def test_a_table_that_is_dropped_gives_the_pages_of_its_values_back(path: Path) -> None:
    for rows in (1, 400):
        with opened(path) as db:
            table = db.create_table("t", SCHEMA, key="k")
            kept = db.create_table("kept", SCHEMA, key="k")
            kept.insert(row(1, 20_000))
            names = ["n" * 300] * rows
            table.insert_many(
                {"k": range(rows), "name": names, "data": [value(k, 5000) for k in range(rows)]}
            )
            assert db.check().extent_pages == 2 * rows + 7
            db.drop_table("t")
            assert db.check().extent_pages == 7
            assert db.stats().free_pages >= 2 * rows
            assert kept.get(1) == row(1, 20_000)
            db.drop_table("kept")


def test_transactions_see_and_take_back_their_own_values(db: exmapdb.Database) -> None:
    table = db.table("t")
    table.insert(row(1, 40_000))
    txn = db.begin()
    own = txn.table("t")
    own.upsert(row(1, 80_000))
    own.insert(row(2, 120_000))
    point = txn.savepoint()
    own.upsert(row(1, 8000))
    own.delete(2)
    assert rows_of(own) == [tuple(row(1, 8000).values())]
    txn.rollback_to(point)
    expected = [tuple(row(1, 80_000).values()), tuple(row(2, 120_000).values())]
    assert rows_of(own) == expected
    assert rows_of(own, reverse=True) == expected[::-1]
    assert table.get(1) == row(1, 40_000)
    txn.commit()
    assert rows_of(table) == expected


@pytest.mark.parametrize("memory", ["512KiB", "8MiB"])
def test_a_snapshot_shows_values_that_are_gone_since(path: Path, memory: str) -> None:
    """Resident or not, copied out or not."""
    with opened(path, memory=memory) as db:
        db.create_table("t", SCHEMA, key="k")
        look_at_values_that_go(db)


def look_at_values_that_go(db: exmapdb.Database) -> None:
    table = db.table("t")
    expected = []
    for key in range(6):
        table.insert(row(key, 30_000 * key))
        expected.append(tuple(row(key, 30_000 * key).values()))
    with db.snapshot() as snapshot:
        frozen = snapshot.table("t")
        assert rows_of(frozen) == expected
        table.delete_many({"k": [1, 3]})
        table.upsert(row(5, 1000))
        # what was freed is used again, and written
        for key in range(10, 16):
            table.insert(row(key, 100_000))
        db.checkpoint()
        assert rows_of(frozen, reverse=True) == expected[::-1]
        assert frozen.get(3) == row(3, 90_000)
    assert table.get(3) is None


def test_indexes_find_rows_with_large_values_beside(db: exmapdb.Database) -> None:
    table = db.create_table("i", {"k": "int64", "a": "text", "b": "text", "c": "text"}, key="k")
    # three values of 500 bytes: two of them are moved out, whichever they are
    given = [{"k": k, "a": f"{k:0500}", "b": f"{9 - k:0500}", "c": f"{k % 3:0500}"} for k in range(10)]
    for one in given:
        table.insert(one)
    db.create_index("i", "by_b", "b")
    assert [found["k"] for found in table.find("by_b", given[4]["b"])] == [4]
    assert [k for batch in table.scan(index="by_b") for k in batch["k"].values] == list(range(10))[::-1]
    table.update(4, {"b": "short", "c": "c" * 50_000})
    assert list(table.find("by_b", given[4]["b"])) == []
    assert [found["c"] for found in table.find("by_b", "short")] == ["c" * 50_000]
    with pytest.raises(exmapdb.RowTooLargeError):
        table.update(5, {"b": "b" * 5000})
    with pytest.raises(exmapdb.RowTooLargeError):
        db.create_index("i", "by_c", "c")


def test_backups_have_values_and_restore_them(db: exmapdb.Database, tmp_path: Path) -> None:
    table = db.table("t")
    for key in range(4):
        table.insert(row(key, 40_000))
    db.backup(tmp_path / "1", keep=True)
    table.delete(1)
    table.insert(row(7, 9000))
    table.upsert(row(2, 70_000))
    db.backup(tmp_path / "2", base=tmp_path / "1", keep=True)
    table.delete(7)
    db.backup(tmp_path / "3", base=tmp_path / "2")
    expected = rows_of(table)
    exmapdb.restore(tmp_path / "r.exdb", [tmp_path / name for name in "123"], **OPTIONS)
    with opened(tmp_path / "r.exdb") as restored:
        assert rows_of(restored.table("t")) == expected
        restored.table("t").insert(row(9, 200_000))
        assert restored.table("t").get(9) == row(9, 200_000)


def test_a_database_that_was_not_closed_has_its_values(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.exdb"
    with opened(path, durability="sync") as db:
        table = db.create_table("t", SCHEMA, key="k")
        table.insert(row(1, 50_000))
        table.insert(row(2, 60_000))
        db.checkpoint()
        table.upsert(row(1, 90_000))
        table.delete(2)
        table.insert(row(3, 60_000))
        copy.write_bytes(path.read_bytes())
        expected = rows_of(table)
    for _ in range(2):
        with opened(copy) as db:
            assert rows_of(db.table("t")) == expected


def test_a_checkpoint_has_values_that_are_replaced_while_it_runs(path: Path, tmp_path: Path) -> None:
    """What has replaced them is lost with the end of the log."""
    copy, keys, size = tmp_path / "copy.exdb", range(40), 100_000
    with opened(path, memory="32MiB", log="32MiB", flush_interval=0.9) as db:
        table = db.create_table("t", SCHEMA, key="k")
        for turn in range(5):
            for key in keys:
                table.upsert({"k": key, "name": "", "data": bytes([turn]) * size})
            checkpoint = threading.Thread(target=db.checkpoint)
            checkpoint.start()
            for key in keys:
                table.upsert({"k": key, "name": "", "data": bytes([turn + 100]) * size})
            checkpoint.join()
            copy.write_bytes(path.read_bytes())
            with opened(copy, memory="32MiB") as crashed:
                rows = rows_of(crashed.table("t"))
            assert [key for key, _, _ in rows] == list(keys)
            for _, _, data in rows:
                assert data in (bytes([turn]) * size, bytes([turn + 100]) * size)


def test_a_flipped_bit_in_a_value_is_found_with_its_page(path: Path) -> None:
    with opened(path) as db:
        db.create_table("t", SCHEMA, key="k").insert(row(1, 50_000))
    census, places = check_file(path), page_blocks(path.read_bytes())
    good = path.read_bytes()
    for number, bit in zip(census.extents()[::3], (0, 4095 * 8, 77, 20_000), strict=False):
        data = bytearray(good)
        data[places[number] * PAGE + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with exmapdb.open(path, **OPTIONS) as db:
            with pytest.raises(exmapdb.CorruptPageError, match=f"page {number} ") as error:
                db.table("t").get(1)
            assert error.value.page == number
            with pytest.raises(exmapdb.CorruptPageError, match=f"page {number} "), db.snapshot() as snapshot:
                rows_of(snapshot.table("t"))
            with pytest.raises(exmapdb.CorruptPageError, match=f"page {number} "):
                db.check()
            with pytest.raises(exmapdb.CorruptPageError, match=f"page {number} "):
                db.backup(path.with_suffix(".backup"))


def test_a_disk_that_is_full_ends_changes_and_loses_nothing(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    db = exmapdb.open(path, **(OPTIONS | {"log": "1MiB", "durability": "sync"}))
    table = db.create_table("t", SCHEMA, key="k")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, hard))
        with pytest.raises(exmapdb.StorageError):
            fill(table, 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    seen = table.count()
    with contextlib.suppress(exmapdb.StorageError):
        db.close()
    with opened(path) as db:
        rows = rows_of(db.table("t"))
        # one more may be there: it was in the log
        assert len(rows) - 1 <= seen <= len(rows)
        assert seen > 10
        assert rows == [(key, "", value(key, 100_000)) for key in range(len(rows))]


def test_readers_beside_a_writer_see_whole_values(db: exmapdb.Database) -> None:
    """A value is one byte again and again: no reader may see two of them, or the pages of another value."""
    table = db.table("t")
    keys, stop = range(3), threading.Event()
    wrong: list[object] = []
    for key in keys:
        table.insert({"k": key, "name": "", "data": bytes([key]) * 40_000})

    def read(seed: int) -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            found = table.get(rng.choice(keys))
            data = found["data"] if found else b""
            if len(set(data)) > 1:
                wrong.append(found)
            for _, _, scanned in rows_of(table):
                if scanned is not None and len(set(scanned)) > 1:
                    wrong.append(scanned)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    for reader in readers:
        reader.start()
    rng = random.Random(9)
    for turn in range(150):
        data = bytes([turn % 251]) * rng.randrange(3000, 90_000)
        table.upsert({"k": rng.choice(keys), "name": "", "data": data})
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
