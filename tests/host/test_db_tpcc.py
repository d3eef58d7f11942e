"""TPC-C: its five transactions, and conditions that hold at any moment. Posix backend."""

import datetime as dt
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from db_pages import check_file
from exmapdb.bench import tpcc_exmapdb, tpcc_sqlite
from exmapdb.bench.tpcc import MIX, Terminal, check_consistency, run
from exmapdb.bench.tpcc_data import TABLES, Rollback, Scale, load
from exmapdb.bench.tpcc_exmapdb import ExmapdbTpcc
from exmapdb.bench.tpcc_sqlite import SqliteTpcc
from loads import LOADS, NOTHING, THREADS, kill_while_it_works

SCALE = Scale(warehouses=2, customers=30, items=100)
OPTIONS = {"memory": "2MiB", "backend": "posix", "log": "4MiB"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tpcc") / "tpcc.exdb"
    with exmapdb.open(path, durability="async", **OPTIONS) as db:
        load(db, SCALE, seed=1)
        assert check_consistency(db, SCALE.warehouses) == []
    return path


@pytest.fixture
def path(loaded: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "tpcc.exdb"
    copy.write_bytes(loaded.read_bytes())
    return copy


@pytest.fixture
def db(path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(path, flag="w", durability="async", **OPTIONS) as db:
        yield db


def test_transactions_keep_the_conditions_one_by_one(db: exmapdb.Database) -> None:
    terminal = Terminal(SCALE, 0, seed=2)
    counts: Counter[str] = Counter()
    for name in MIX:
        for _ in range(12):
            try:
                db.run(getattr(terminal, name)())
            except Rollback:
                name = "rolled back"
            counts[name] += 1
        assert check_consistency(db, SCALE.warehouses) == []
    assert counts["payment"] == db.table("history").count() == 12
    orders = db.table("orders").count() - SCALE.warehouses * 10 * SCALE.customers
    assert orders == counts["new_order"]
    # twelve times one of each district, of which there are nine and what was ordered
    assert db.table("new_order").count() < 20 * 9 + orders - 80


def test_terminals_keep_the_conditions_side_by_side(db: exmapdb.Database) -> None:
    terminals = [Terminal(SCALE, number, seed=3) for number in range(2)]
    problems: list[str] = []
    threads = threading.Thread(target=run, args=(ExmapdbTpcc(db), terminals, 2.0))
    threads.start()
    looks = 0
    while threads.is_alive():
        with db.snapshot() as snapshot:
            problems += check_consistency(snapshot, SCALE.warehouses)
            looks += 1
    threads.join()
    assert looks > 1
    assert problems == []
    assert check_consistency(db, SCALE.warehouses) == []
    assert db.table("history").count() > 0
    db.check()


def normal(value: Any) -> Any:
    """Return a value without what differs: moments, and how decimals are stored."""
    if isinstance(value, Decimal):
        return int(value.scaleb(-value.as_tuple().exponent))
    return "moment" if isinstance(value, dt.datetime) else value


def test_sqlite_ends_with_the_same_rows(db: exmapdb.Database, tmp_path: Path) -> None:
    peer = SqliteTpcc(tmp_path / "sqlite", 1 << 20, durable=False)
    peer.load(SCALE, seed=1)
    ours, theirs = (Terminal(SCALE, 1, seed=4, transactions=each) for each in (tpcc_exmapdb, tpcc_sqlite))
    for name in [*MIX] * 12:
        results = []
        for engine, terminal in ((ExmapdbTpcc(db), ours), (peer, theirs)):
            try:
                results.append(engine.run(getattr(terminal, name)()))
            except Rollback:
                results.append("rolled back")
        if name == "order_status":
            results = [[line["o_id"] for line in lines] for lines in results]
        assert results[0] == results[1]
    assert peer.check() == []
    with sqlite3.connect(tmp_path / "sqlite") as connection:
        for table, (columns, key) in TABLES.items():
            moments = [i for i, kind in enumerate(columns.values()) if kind.startswith("timestamp")]
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY {', '.join(key)}").fetchall()
            there = [
                tuple("moment" if value and i in moments else value for i, value in enumerate(row))
                for row in rows
            ]
            assert [tuple(map(normal, row)) for row in all_rows(db.table(table))] == there, table
    peer.close()


@pytest.mark.parametrize(
    ("condition", "change"),
    [
        (1, "UPDATE district SET ytd = ytd + 1 WHERE w_id = 1 AND d_id = 1"),
        (2, "UPDATE district SET next_o_id = 7 WHERE w_id = 2 AND d_id = 3"),
        (3, "DELETE FROM new_order WHERE w_id = 1 AND d_id = 5 AND o_id = 23"),
        (4, "DELETE FROM order_line WHERE w_id = 1 AND d_id = 2 AND o_id = 3 AND number = 1"),
    ],
)
def test_a_broken_condition_is_seen_on_sqlite(tmp_path: Path, condition: int, change: str) -> None:
    peer = SqliteTpcc(tmp_path / "sqlite", 1 << 20, durable=False)
    peer.load(SCALE, seed=1)
    assert peer.check() == []
    peer.run(lambda connection: connection.execute(change))
    assert [text.split(" at ")[0] for text in peer.check()] == [f"condition {condition}"]
    peer.close()


def all_rows(table: exmapdb.Table) -> list[tuple[Any, ...]]:
    return [row for batch in table.scan() for row in batch.to_rows()]


def damage(db: exmapdb.Database, condition: int) -> None:
    if condition == 1:
        row = db.table("district").get((1, 1))
        assert row is not None
        db.table("district").update((1, 1), {"ytd": row["ytd"] + 1})
    elif condition == 2:
        db.table("district").update((2, 3), {"next_o_id": 7})
    elif condition == 3:
        db.table("new_order").delete((1, 5, SCALE.undelivered + 1))
    else:
        db.table("order_line").delete((1, 2, 3, 1))


@pytest.mark.parametrize("condition", [1, 2, 3, 4])
def test_a_broken_condition_is_seen(db: exmapdb.Database, condition: int) -> None:
    damage(db, condition)
    wrong = check_consistency(db, SCALE.warehouses)
    assert [text.split(" at ")[0] for text in wrong] == [f"condition {condition}"]


@pytest.mark.parametrize("lives", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_terminals_lose_nothing_and_leave_the_conditions_whole(tmp_path: Path, lives: int) -> None:
    rng = np.random.default_rng(5)
    terminals, path = LOADS["tpcc"], tmp_path / "tpcc.exdb"
    terminals.make(path)
    tallies = [NOTHING] * THREADS
    for _ in range(lives):
        changes = int(rng.integers(20, 120))
        now = kill_while_it_works(terminals, path, tallies, changes, backend="posix", durability="group")
        tallies = terminals.audit(path, now, backend="posix").tallies
        check_file(path)
