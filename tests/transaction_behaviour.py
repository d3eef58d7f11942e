"""Transactions of several calls: collected by tests/host on posix, and in part by tests/vm on kernel."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exmapdb
import pytest
from backends import BACKENDS
from histories import History, check_history

Row = dict[str, Any]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    options: Any = {"memory": "256KiB", "backend": BACKENDS[-1], "durability": "async", "log": "1MiB"}
    with exmapdb.open(tmp_path / "t.exdb", **options) as database:
        table = database.create_table("t", {"id": "int64", "value": "int64"}, key="id")
        table.insert_many({"id": [1, 2], "value": [10, 20]})
        yield database


def rows(table: exmapdb.Table, *bounds: int, reverse: bool = False) -> list[tuple[int, int]]:
    return [row for batch in table.scan(*bounds, reverse=reverse, batch_rows=2) for row in batch.to_rows()]


def test_writes_are_seen_by_the_transaction_alone_until_it_commits(db: exmapdb.Database) -> None:
    with db.begin() as txn:
        mine, others = txn.table("t"), db.table("t")
        mine.upsert({"id": 1, "value": 11})
        mine.insert({"id": 3, "value": 30})
        mine.insert({"id": 0, "value": 0})
        mine.delete(2)
        assert rows(mine) == [(0, 0), (1, 11), (3, 30)]
        assert rows(mine, reverse=True) == [(3, 30), (1, 11), (0, 0)]
        assert rows(mine, 1, 3) == [(1, 11)]
        assert mine.get(2) is None
        assert mine.get(3) == {"id": 3, "value": 30}
        assert rows(others) == [(1, 10), (2, 20)]
    assert rows(db.table("t")) == [(0, 0), (1, 11), (3, 30)]


def test_an_error_rolls_back(db: exmapdb.Database) -> None:
    txn = db.begin()
    txn.table("t").insert({"id": 3, "value": 30})
    with pytest.raises(exmapdb.InvalidValueError), txn:
        txn.table("t").insert({"id": "x", "value": 30})
    assert rows(db.table("t")) == [(1, 10), (2, 20)]
    with pytest.raises(exmapdb.TransactionEndedError):
        txn.table("t").get(1)


def test_who_is_refused_does_not_keep_others_waiting(db: exmapdb.Database) -> None:
    txn = db.begin()
    table = txn.table("t")
    txn.rollback()
    refused = []

    def read() -> None:
        with pytest.raises(exmapdb.TransactionEndedError):
            table.get(1)
        refused.append(True)

    read()
    other = threading.Thread(target=read, daemon=True)
    other.start()
    other.join(30)
    assert len(refused) == 2


def test_a_statement_that_fails_leaves_the_rest_of_the_transaction(db: exmapdb.Database) -> None:
    with db.begin() as txn:
        table = txn.table("t")
        table.insert({"id": 3, "value": 30})
        with pytest.raises(exmapdb.DuplicateKeyError) as error:
            table.insert_many({"id": [4, 2], "value": [0, 0]})
        assert error.value.row == 1
    assert rows(db.table("t")) == [(1, 10), (2, 20), (3, 30)]


def test_savepoints_nest(db: exmapdb.Database) -> None:
    with db.begin() as txn:
        table = txn.table("t")
        table.update(1, {"value": 11})
        outer = txn.savepoint()
        table.delete(1)
        inner = txn.savepoint()
        table.insert({"id": 1, "value": 12})
        txn.rollback_to(inner)
        assert table.get(1) is None
        txn.rollback_to(outer)
        assert table.get(1) == {"id": 1, "value": 11}
        with pytest.raises(ValueError, match="savepoint"):
            txn.rollback_to(inner)
    assert rows(db.table("t")) == [(1, 11), (2, 20)]


def test_tables_are_made_with_the_transaction_or_not_at_all(db: exmapdb.Database) -> None:
    txn = db.begin()
    txn.create_table("u", {"k": "text"}, key="k").insert({"k": "a"})
    assert [row for batch in txn.table("u").scan() for row in batch.to_rows()] == [("a",)]
    txn.rollback()
    assert db.tables() == ["t"]
    with db.begin() as txn:
        txn.create_table("u", {"k": "text"}, key="k").insert({"k": "a"})
    assert db.table("u").get("a") == {"k": "a"}


def test_one_of_two_that_make_a_table_of_the_same_name_wins(db: exmapdb.Database) -> None:
    one, two = db.begin(), db.begin()
    for txn in (one, two):
        txn.create_table("u", {"k": "text"}, key="k")
    one.commit()
    with pytest.raises(exmapdb.ConflictError):
        two.commit()


def test_run_repeats_what_has_met_another(db: exmapdb.Database) -> None:
    calls = []

    def work(txn: exmapdb.Transaction) -> int:
        calls.append(txn)
        row = txn.table("t").get(1)
        assert row is not None
        if len(calls) < 3:
            db.table("t").upsert({"id": 1, "value": row["value"] + 100})
        txn.table("t").update(1, {"value": row["value"] + 1})
        return len(calls)

    assert db.run(work) == 3
    assert db.table("t").get(1) == {"id": 1, "value": 211}


def test_run_repeats_what_fails_on_stale_reads_and_passes_on_what_fails_on_good_ones(
    db: exmapdb.Database,
) -> None:
    calls = []

    def work(txn: exmapdb.Transaction) -> None:
        calls.append(txn)
        txn.table("t").get(1)
        if len(calls) == 1:
            db.table("t").delete(1)
        raise KeyError

    with pytest.raises(KeyError):
        db.run(work)
    assert len(calls) == 2


def test_the_catalog_is_read_once_for_many_transactions(
    db: exmapdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = db.path
    db.close()
    with exmapdb.open(path, flag="w", backend=BACKENDS[-1]) as again:
        loaded = []
        load = again.catalog.load
        monkeypatch.setattr(again.catalog, "load", lambda name, view: loaded.append(name) or load(name, view))
        for _ in range(3):
            assert again.run(lambda txn: txn.table("t").get(1)) == {"id": 1, "value": 10}
        assert loaded == ["t"]
        again.add_column("t", "note", "text?")
        loaded.clear()
        for _ in range(3):
            assert again.run(lambda txn: txn.table("t").get(1)) == {"id": 1, "value": 10, "note": None}
        assert loaded == ["t"]


def test_a_transaction_that_is_too_large_says_so(db: exmapdb.Database) -> None:
    txn = db.begin()
    txn.table("t").insert_many({"id": range(100, 40_000), "value": range(100, 40_000)})
    with pytest.raises(exmapdb.TransactionTooLargeError):
        txn.commit()
    assert rows(db.table("t")) == [(1, 10), (2, 20)]


def test_closing_the_database_ends_its_transactions(db: exmapdb.Database) -> None:
    txn = db.begin()
    db.close()
    assert not txn.active


# Hermitage (Kleppmann): steps of up to three transactions, interleaved as they stand.  "get", "put" and
# "scan" are remembered with what they returned; what commits must look like one after another.
SCENARIOS: dict[str, tuple[list[tuple[int, str, *tuple[int, ...]]], int]] = {
    "G0 dirty write": (
        [
            (1, "put", 1, 11),
            (2, "put", 1, 12),
            (1, "put", 2, 21),
            (1, "commit"),
            (2, "put", 2, 22),
            (2, "commit"),
        ],
        2,
    ),
    "G1a aborted read": (
        [(1, "put", 1, 101), (2, "scan"), (1, "abort"), (2, "scan"), (2, "commit")],
        1,
    ),
    "G1b intermediate read": (
        [(1, "put", 1, 101), (2, "scan"), (1, "put", 1, 11), (1, "commit"), (2, "scan"), (2, "commit")],
        1,
    ),
    "G1c circular information flow": (
        [(1, "put", 1, 11), (2, "put", 2, 22), (1, "get", 2), (2, "get", 1), (1, "commit"), (2, "commit")],
        1,
    ),
    "OTV observed transaction vanishes": (
        [
            *[(1, "put", 1, 11), (1, "put", 2, 19), (2, "put", 1, 12), (1, "commit"), (3, "get", 1)],
            *[(2, "put", 2, 18), (3, "get", 2), (2, "commit"), (3, "get", 2), (3, "get", 1), (3, "commit")],
        ],
        2,
    ),
    "PMP predicate many preceders": (
        [(1, "scan", 3), (2, "put", 3, 30), (2, "commit"), (1, "scan", 3), (1, "put", 9, 1), (1, "commit")],
        1,
    ),
    "P4 lost update": (
        [(1, "get", 1), (2, "get", 1), (1, "put", 1, 11), (2, "put", 1, 11), (1, "commit"), (2, "commit")],
        1,
    ),
    "G-single read skew": (
        [
            (1, "get", 1),
            (2, "get", 1),
            (2, "get", 2),
            (2, "put", 1, 12),
            (2, "put", 2, 18),
            (2, "commit"),
            (1, "get", 2),
            (1, "commit"),
        ],
        1,
    ),
    "G-single with a write": (
        [
            (1, "get", 1),
            (2, "scan"),
            (2, "put", 1, 12),
            (2, "put", 2, 18),
            (2, "commit"),
            (1, "drop", 2),
            (1, "commit"),
        ],
        1,
    ),
    "G2-item write skew": (
        [
            (1, "get", 1),
            (1, "get", 2),
            (2, "get", 1),
            (2, "get", 2),
            (1, "put", 1, 11),
            (2, "put", 2, 21),
            (1, "commit"),
            (2, "commit"),
        ],
        1,
    ),
    "G2 anti-dependency cycle of phantoms": (
        [(1, "scan", 3), (2, "scan", 3), (1, "put", 3, 30), (2, "put", 4, 42), (1, "commit"), (2, "commit")],
        1,
    ),
    "G2 with two edges": (
        [
            (1, "scan"),
            (2, "put", 2, 25),
            (2, "commit"),
            (3, "scan"),
            (3, "commit"),
            (1, "put", 1, 0),
            (1, "commit"),
        ],
        2,
    ),
}


def step(table: exmapdb.Table, verb: str, arguments: tuple[int, ...]) -> object:
    match verb:
        case "get":
            row = table.get(*arguments)
            return row and row["value"]
        case "put":
            return table.upsert({"id": arguments[0], "value": arguments[1]})
        case "drop":
            return table.delete(*arguments)
    return rows(table, *arguments)


def replay(model: dict[int, int], verb: str, arguments: tuple[int, ...]) -> object:
    match verb:
        case "get":
            return model.get(*arguments)
        case "put":
            model[arguments[0]] = arguments[1]
            return None
        case "drop":
            return model.pop(arguments[0], None) is not None
    return sorted(item for item in model.items() if item[0] >= (*arguments, 0)[0])


@pytest.mark.parametrize("name", SCENARIOS)
def test_hermitage(db: exmapdb.Database, name: str) -> None:
    steps, commits = SCENARIOS[name]
    numbers = {number for number, *_ in steps}
    txns = {number: db.begin() for number in numbers}
    results: dict[int, list[tuple[str, tuple[int, ...], object]]] = {number: [] for number in numbers}
    committed = []
    for number, verb, *arguments in steps:
        txn = txns[number]
        if verb == "abort":
            txn.rollback()
        elif verb == "commit":
            try:
                txn.commit()
                committed.append(number)
            except exmapdb.ConflictError:
                pass
        else:
            given = tuple(arguments)
            results[number].append((verb, given, step(txn.table("t"), verb, given)))
    assert len(committed) == commits
    final = dict(rows(db.table("t")))
    assert any(is_serial([results[n] for n in order], final) for order in itertools.permutations(committed))


def is_serial(order: list[list[tuple[str, tuple[int, ...], object]]], final: dict[int, int]) -> bool:
    """Whether transactions, one after the other, would have returned what they did."""
    model = {1: 10, 2: 20}
    for verb, arguments, result in itertools.chain.from_iterable(order):
        if replay(model, verb, arguments) != result:
            return False
    return model == final


KEYS = 12
LET_OTHERS_WORK = 0.0002


def append_at_random(
    db: exmapdb.Database, thread: int, count: int, done: list[History], calls: list[int]
) -> None:
    """Run transactions that read keys and ranges, and append their number to keys."""
    rng = random.Random(thread)
    for i in range(count):
        number = thread + 10 * i
        seed = rng.random()

        def work(txn: exmapdb.Transaction, number: int = number, seed: float = seed) -> History:
            calls.append(number)
            choice, history, table = random.Random(seed), History(number), txn.table("lists")
            for _ in range(choice.randrange(1, 5)):
                # a whole transaction is shorter than what the interpreter gives a thread at a time
                time.sleep(LET_OTHERS_WORK)
                key = choice.randrange(KEYS)
                kind = choice.choice(["append", "get", "scan", "savepoint"])
                if kind == "scan":
                    high = key + choice.randrange(1, 5)
                    found = {k: v for b in table.scan(key, high) for k, v in b.to_rows()}
                    history.reads += [(k, parse(found.get(k))) for k in range(key, min(high, KEYS))]
                elif kind == "savepoint":
                    savepoint = txn.savepoint()
                    table.upsert({"k": key, "v": "0"})
                    txn.rollback_to(savepoint)
                else:
                    row = table.get(key)
                    seen = parse(row and row["v"])
                    history.reads.append((key, seen))
                    if kind == "append" and number not in seen:
                        table.upsert({"k": key, "v": " ".join(map(str, [*seen, number]))})
                        history.appends.add(key)
            # what it reads of its own is no version for others
            history.reads = [(k, seen) for k, seen in history.reads if number not in seen]
            return history

        done.append(db.run(work, attempts=10_000))


def parse(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, text.split())) if text else ()


def run_history(path: Path, count: int) -> None:
    options: Any = {"memory": "256KiB", "backend": BACKENDS[-1], "durability": "async", "log": "1MiB"}
    done: list[History] = []
    calls: list[int] = []
    with exmapdb.open(path, workers=3, **options) as db:
        db.create_table("lists", {"k": "int64", "v": "text"}, key="k")
        threads = [
            threading.Thread(target=append_at_random, args=(db, thread, count, done, calls))
            for thread in range(1, 5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(done) == 4 * count
    assert len(calls) > len(done), "no two have met"
    with exmapdb.open(path, **options) as db:
        final = {k: parse(v) for b in db.table("lists").scan() for k, v in b.to_rows()}
    check_history(done, final)
    assert sum(len(history.appends) for history in done) > count


def test_random_transactions_of_four_threads_are_serializable(tmp_path: Path) -> None:
    run_history(tmp_path / "t.exdb", 60)


@pytest.mark.slow
def test_random_transactions_of_four_threads_are_serializable_at_length(tmp_path: Path) -> None:
    for i in range(30):
        run_history(tmp_path / f"{i}.exdb", 60)


def lost_update(history: list[History]) -> dict[int, tuple[int, ...]]:
    history += [History(1, [(0, ())], {0}), History(2, [(0, ())], {0})]
    return {0: (1, 2)}


def write_skew(history: list[History]) -> dict[int, tuple[int, ...]]:
    history += [History(1, [(0, ()), (1, ())], {0}), History(2, [(0, ()), (1, ())], {1})]
    return {0: (1,), 1: (2,)}


@pytest.mark.parametrize("anomaly", [lost_update, write_skew])
def test_the_checker_finds_anomalies(
    anomaly: Callable[[list[History]], dict[int, tuple[int, ...]]],
) -> None:
    history: list[History] = []
    final = anomaly(history)
    with pytest.raises(ValueError, match="cycle"):
        check_history(history, final)


def test_a_table_that_was_there_before_an_index_was_made_keeps_it(db: exmapdb.Database) -> None:
    with db.begin() as txn:
        table = txn.table("t")
        txn.create_index("t", "by_value", "value")
        table.insert({"id": 3, "value": 30})
        assert [row["id"] for row in table.find("by_value", 30)] == [3]
    assert [row["id"] for row in db.table("t").find("by_value", 30)] == [3]


def test_rolling_back_to_a_savepoint_forgets_tables_columns_and_indexes(db: exmapdb.Database) -> None:
    trees = db.check().trees
    with db.begin() as txn:
        txn.add_column("t", "kept", "int64?")
        table = txn.table("t")
        mark = txn.savepoint()
        made = txn.create_table("u", {"k": "int64"}, key="k")
        txn.create_index("t", "by_value", "value")
        txn.drop_column("t", "kept")
        txn.rollback_to(mark)
        for use in (lambda: made.insert({"k": 1}), lambda: made.get(1), lambda: txn.table("u")):
            with pytest.raises(exmapdb.NoSuchTableError):
                use()
        assert [txn.table("t").schema.names, table.indexes] == [("id", "value", "kept"), ()]
        table.insert({"id": 3, "value": 30, "kept": 1})
    assert db.tables() == ["t"]
    assert db.table("t").get(3) == {"id": 3, "value": 30, "kept": 1}
    assert db.check().trees == trees
