"""TPC-C: its five transactions, and conditions that hold at any moment. Posix backend."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import exmapdb
import numpy as np
import pytest
from exmapdb.bench.tpcc import MIX, Rollback, Terminal, check_consistency, run
from exmapdb.bench.tpcc_data import Scale, load

TERMINALS = 2
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
    threads = threading.Thread(target=run, args=(db, terminals, 2.0))
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


def kill_terminals(path: Path, life: int, transactions: int) -> Counter[str]:
    """Let terminals work in a process of their own, and kill it; what has been acknowledged."""
    names = list(MIX)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            db = exmapdb.open(path, flag="w", durability="group", **OPTIONS)
            terminals = [Terminal(SCALE, TERMINALS * life + number, seed=life) for number in range(TERMINALS)]
            run(db, terminals, 1000.0, lambda name: os.write(writer, bytes([names.index(name)])))
        finally:
            os._exit(1)
    os.close(writer)
    data = bytearray()
    while len(data) < transactions and (part := os.read(reader, 1)):
        data += part
    os.kill(pid, signal.SIGKILL)
    while part := os.read(reader, 1 << 16):
        data += part
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "a terminal failed by itself"
    return Counter(names[place] for place in data)


@pytest.mark.parametrize("lives", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_terminals_lose_nothing_and_leave_the_conditions_whole(path: Path, lives: int) -> None:
    rng = np.random.default_rng(5)
    orders, payments = SCALE.warehouses * 10 * SCALE.customers, 0
    for life in range(1, lives + 1):
        done = kill_terminals(path, life, int(rng.integers(20, 120)))
        with exmapdb.open(path, flag="w", **OPTIONS) as db:
            assert check_consistency(db, SCALE.warehouses) == []
            db.check()
            ordered, paid = db.table("orders").count() - orders, db.table("history").count() - payments
        # those that were not acknowledged any more may be there: one a terminal
        assert 0 <= ordered - done["new_order"] <= TERMINALS
        assert 0 <= paid - done["payment"] <= TERMINALS
        orders, payments = orders + ordered, payments + paid
