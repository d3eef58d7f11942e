"""Backups of a database in use, and what is restored of them. Posix backend."""

import functools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from db_pages import check_file
from exmapdb.cli import app
from typer.testing import CliRunner

OPTIONS: Any = {"memory": "512KiB", "backend": "posix", "durability": "async", "log": "2MiB"}
Rows = list[tuple[Any, ...]]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", **OPTIONS) as database:
        table = database.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": range(8000), "v": [f"{i:080}" for i in range(8000)]})
        database.create_index("t", "by_v", "v")
        yield database


def rows(database: exmapdb.Database) -> Rows:
    return [row for batch in database.table("t").scan() for row in batch.to_rows()]


def restored(path: Path, *files: Path) -> Rows:
    exmapdb.restore(path, files, backend="posix", memory="512KiB")
    check_file(path)
    with exmapdb.open(path, flag="w", **OPTIONS) as database:
        found = rows(database)
        same = [k for k, v in found if v == found[-1][1]]
        assert [row["k"] for row in database.table("t").find("by_v", found[-1][1])] == same
        database.table("t").insert_many({"k": range(-3000, 0), "v": ["new"] * 3000})
        assert database.check().free_pages == database.stats().free_pages
        return found


def test_a_backup_has_what_was_committed_and_the_database_goes_on(
    db: exmapdb.Database, tmp_path: Path
) -> None:
    assert db.stats().evicted > 0
    expected = rows(db)
    done = db.backup(tmp_path / "full")
    db.table("t").delete_many({"k": range(0, 8000, 2)})
    assert done.stored == done.pages
    assert restored(tmp_path / "copy.exdb", tmp_path / "full") == expected
    assert db.table("t").count() == 4000


def test_incremental_backups_store_what_has_changed(db: exmapdb.Database, tmp_path: Path) -> None:
    full, one, two = (tmp_path / name for name in ("full", "one", "two"))
    states = [rows(db)]
    pages = db.backup(full).pages
    db.table("t").insert_many({"k": range(100, 140), "v": ["x"] * 40}, replace=True)
    states.append(rows(db))
    assert 0 < db.backup(one, base=full).stored < pages / 10
    db.table("t").delete_many({"k": range(200, 4000)})
    db.table("t").insert_many({"k": range(9000, 9500), "v": ["y"] * 500})
    states.append(rows(db))
    assert 0 < db.backup(two, base=one).stored < pages
    assert db.backup(tmp_path / "three", base=two).stored == 0
    assert restored(tmp_path / "0.exdb", full) == states[0]
    assert restored(tmp_path / "1.exdb", full, one) == states[1]
    assert restored(tmp_path / "2.exdb", full, one, two) == states[2]
    assert restored(tmp_path / "3.exdb", full, one, two, tmp_path / "three") == states[2]


def change(db: exmapdb.Database, first: int, count: int) -> Rows:
    """Change rows, and return all of them."""
    columns = {"k": range(first, first + count), "v": [f"changed {first}"] * count}
    db.table("t").insert_many(columns, replace=True)
    return rows(db)


@pytest.mark.parametrize("memory", ["512KiB", "8MiB"])
def test_a_kept_snapshot_spares_reading_what_has_not_changed(tmp_path: Path, memory: str) -> None:
    states, files = [], [tmp_path / f"{i}" for i in range(4)]
    with exmapdb.open(tmp_path / "t.exdb", **OPTIONS | {"memory": memory}) as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": range(8000), "v": [f"{i:080}" for i in range(8000)]})
        db.create_index("t", "by_v", "v")
        states.append(rows(db))
        done = db.backup(files[0], keep=True)
        assert done.read == done.pages
        for i, base in enumerate(files[:-1]):
            # all pages come by, and those of the rows that change are few
            states.append(change(db, 1000 * i, 20))
            if i == 1:
                db.checkpoint()
            few = db.backup(files[i + 1], base=base, keep=True)
            assert 0 < few.stored <= few.read < done.pages / 8
    for i in range(len(files)):
        assert restored(tmp_path / f"{i}.exdb", *files[: i + 1]) == states[i]


def test_without_the_snapshot_of_the_base_all_pages_are_read(db: exmapdb.Database, tmp_path: Path) -> None:
    full, one, two, three = (tmp_path / name for name in ("full", "one", "two", "three"))
    pages = db.backup(full, keep=True).pages
    db.table("t").delete(17)
    assert 0 < db.backup(one, base=full, keep=True).read < pages / 8
    # the snapshot is that of the last one
    assert db.backup(two, base=full).read == pages
    assert db.backup(three, base=two).read == pages


def test_a_base_may_be_older_than_the_last_opening(db: exmapdb.Database, tmp_path: Path) -> None:
    pages = db.backup(tmp_path / "full").pages
    db.close()
    with exmapdb.open(tmp_path / "t.exdb", **OPTIONS) as again:
        assert again.backup(tmp_path / "same", base=tmp_path / "full").stored == 0
        again.table("t").delete(17)
        expected = rows(again)
        assert 0 < again.backup(tmp_path / "inc", base=tmp_path / "full").stored < pages / 10
    assert restored(tmp_path / "copy.exdb", tmp_path / "full", tmp_path / "inc") == expected


def test_a_backup_beside_writers_has_whole_transactions(tmp_path: Path) -> None:
    with exmapdb.open(tmp_path / "t.exdb", workers=2, **OPTIONS) as db:
        table = db.create_table("t", {"k": "int64", "n": "int64", "pad": "text"}, key="k")
        keys = np.arange(3000)
        table.insert_many({"k": keys, "n": keys * 0, "pad": ["p" * 80] * 3000})
        done = threading.Event()

        def transfer(txn: exmapdb.Transaction, a: int, b: int) -> None:
            mine = txn.table("t")
            for key, change in ((a, 1), (b, -1)):
                row = mine.get(key)
                assert row is not None
                mine.update(key, {"n": row["n"] + change})

        def write() -> None:
            rng = np.random.default_rng(1)
            while not done.is_set():
                a, b = rng.choice(3000, 2, replace=False).tolist()
                db.run(functools.partial(transfer, a=a, b=b))

        thread = threading.Thread(target=write)
        thread.start()
        while db.stats().commits < 20:
            time.sleep(0.001)
        db.backup(tmp_path / "full")
        db.backup(tmp_path / "inc", base=tmp_path / "full")
        done.set()
        thread.join()
    for files in ([tmp_path / "full"], [tmp_path / "full", tmp_path / "inc"]):
        target = tmp_path / f"{len(files)}.exdb"
        exmapdb.restore(target, files, backend="posix", memory="512KiB")
        with exmapdb.open(target, flag="w", **OPTIONS) as copy:
            copy.check()
            values = np.concatenate([batch["n"].values for batch in copy.table("t").scan()])
            assert len(values) == 3000
            assert values.any()
            assert not values.sum()


def test_files_that_are_no_backup_or_do_not_follow_are_refused(db: exmapdb.Database, tmp_path: Path) -> None:
    full, inc = tmp_path / "full", tmp_path / "inc"
    db.backup(full)
    db.table("t").delete(1)
    db.backup(inc, base=full)
    target = tmp_path / "copy.exdb"
    for wrong in ([inc], [full, full], [inc, full], [tmp_path / "t.exdb"]):
        with pytest.raises(exmapdb.BackupError):
            exmapdb.restore(target, wrong, backend="posix")
    data = bytearray(full.read_bytes())
    for place, length in ((100_000, len(data)), (len(data) - 100, len(data)), (0, len(data) - 4096)):
        damaged = bytearray(data[:length])
        damaged[place] ^= 1 if length == len(data) else 0
        full.write_bytes(damaged)
        with pytest.raises(exmapdb.BackupError):
            exmapdb.restore(target, [full], backend="posix")
    full.write_bytes(data)
    assert not list(tmp_path.glob("copy*"))
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        exmapdb.restore(target, [full], backend="posix")
    assert target.read_bytes() == b"precious"
    exmapdb.restore(target, [full, inc], backend="posix", force=True)


def run(*arguments: object) -> Any:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_line_backs_up_restores_and_runs_python(db: exmapdb.Database, tmp_path: Path) -> None:
    db.close()
    options = ["--backend", "posix", "--json"]
    path, full, inc, copy = (tmp_path / name for name in ("t.exdb", "full", "inc", "copy.exdb"))
    found = json.loads(run("backup", path, full, *options))
    assert found["pages"] == found["stored"] > 100
    run("shell", path, "--backend", "posix", "-c", "t.delete(17)")
    assert 0 < json.loads(run("backup", path, inc, "--base", full, *options))["stored"] < 20
    assert json.loads(run("restore", copy, full, inc, *options))["path"] == str(copy)
    assert run("shell", copy, "--backend", "posix", "-c", "db.table('t').count()") == "7999\n"
    done = CliRunner().invoke(app, ["restore", str(copy), str(full), "--backend", "posix"])
    assert done.exit_code == 1
    assert "force" in done.output
