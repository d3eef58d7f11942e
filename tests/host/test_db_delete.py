"""Deleting, merging and scanning backwards, against a dict. Posix backend, 32 frames."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from db_pages import NODE_SPACE, Census, Node, check_file
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

TINY = "128KiB"
SCHEMA = {"k": "text", "v": "text?"}

Rows = dict[str, str | None]


def long_key(i: int) -> str:
    # separators as long as these make inner pages of seven, and trees of five levels
    return f"{i:0500}"


def uneven_key(i: int) -> str:
    # neighbours differ at the first, second, ... fifth digit, so that separators are short and long
    return "".join("abcd"[i >> shift & 3] * 95 for shift in (8, 6, 4, 2, 0))


def very_uneven_key(i: int) -> str:
    lengths = (40, 150, 20, 150, 100, 45)
    return "".join("abcd"[i >> 2 * k & 3] * lengths[5 - k] for k in (5, 4, 3, 2, 1, 0))


def some_rows(keys: list[str], seed: int) -> Rows:
    lengths = random.Random(seed)
    return {key: "v" * lengths.randrange(450) for key in keys}


numbers = st.lists(st.integers(0, 999), max_size=200, unique=True)
ranges = st.builds(lambda a, b: list(range(min(a, b), max(a, b))), st.integers(0, 999), st.integers(0, 999))
shuffled = st.builds(
    lambda seed, n: random.Random(seed).sample(range(1000), n), st.integers(0, 99), st.integers(0, 1000)
)
steps = st.lists(
    st.tuples(st.sampled_from(["insert", "delete"]), st.one_of(numbers, ranges, shuffled)), max_size=10
)
makers = st.sampled_from([long_key, uneven_key, str])
no_fixture_check = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def insert(table: exmapdb.Table, rows: Rows) -> None:
    table.insert_many({"k": list(rows), "v": list(rows.values())}, replace=True)


def rows_of(table: exmapdb.Table, *bounds: str, reverse: bool = False, batch_rows: int = 100) -> list[Any]:
    batches = table.scan(*bounds, reverse=reverse, batch_rows=batch_rows)
    return [row for batch in batches for row in batch.to_rows()]


def table_tree(census: Census) -> list[Node]:
    """Return the nodes of the only table: the directory, the runs and the catalog's three came before it."""
    return list(census.trees.values())[5]


def depth(census: Census) -> int:
    return table_tree(census)[0].level


@settings(no_fixture_check, max_examples=60)
@given(steps=steps, make=makers, bounds=st.tuples(st.integers(0, 999), st.integers(0, 999)))
def test_deletes_agree_with_a_dict(
    tmp_path: Path, steps: list[tuple[str, list[int]]], make: Callable[[int], str], bounds: tuple[int, int]
) -> None:
    model: Rows = {}
    path = tmp_path / "t.exdb"
    with exmapdb.open(
        path, memory=TINY, backend="posix", durability="async", log="16MiB", flag="n", workers=1
    ) as db:
        table = db.create_table("t", SCHEMA, key="k")
        for turn, (verb, chosen) in enumerate(steps):
            keys = [make(i) for i in chosen]
            if not keys:
                continue
            if verb == "insert":
                rows = some_rows(keys, turn)
                insert(table, rows)
                model |= rows
            else:
                assert table.delete_many({"k": keys}) == sum(key in model for key in keys)
                for key in keys:
                    model.pop(key, None)
            db.checkpoint()
            event(f"{depth(check_file(path))} levels")
        expected = sorted(model.items(), key=lambda item: item[0].encode())
        assert rows_of(table) == expected
        assert rows_of(table, reverse=True, batch_rows=7) == expected[::-1]
        low, high = make(bounds[0]), make(bounds[1])
        inside = [item for item in expected if low.encode() <= item[0].encode() < high.encode()]
        assert rows_of(table, low, high) == inside
        assert rows_of(table, low, high, reverse=True) == inside[::-1]
        for key in [*model, low, high]:
            row = table.get(key)
            assert row == ({"k": key, "v": model[key]} if key in model else None)


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 9))])
def test_a_long_history_keeps_the_tree_in_order(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    model: Rows = {}
    path = tmp_path / "t.exdb"
    with exmapdb.open(
        path, memory="256KiB", backend="posix", durability="async", log="16MiB", workers=1
    ) as db:
        table = db.create_table("t", SCHEMA, key="k")
        for _ in range(60):
            start, n = rng.randrange(4096), rng.randrange(1, 900)
            run = [i % 4096 for i in range(start, start + n)]
            keys = [very_uneven_key(i) for i in rng.choice([run, rng.sample(range(4096), n)])]
            if rng.random() < 0.5:
                rows = some_rows(keys, rng.randrange(1000))
                insert(table, rows)
                model |= rows
            else:
                at_once = rng.choice([1, 10, 100, 1000])
                for first in range(0, n, at_once):
                    part = keys[first : first + at_once]
                    assert table.delete_many({"k": part}) == sum(key in model for key in part)
                    for key in part:
                        model.pop(key, None)
            db.checkpoint()
            check_file(path)
        assert rows_of(table) == sorted(model.items())
        assert rows_of(table, reverse=True) == sorted(model.items(), reverse=True)


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("make", [long_key, str])
def test_a_table_that_was_emptied_is_one_page_again(
    tmp_path: Path, order: str, make: Callable[[int], str]
) -> None:
    path = tmp_path / "t.exdb"
    numbers = list(range(3000))
    with exmapdb.open(path, memory=TINY, backend="posix", durability="async", log="16MiB", workers=1) as db:
        table = db.create_table("t", SCHEMA, key="k")
        insert(table, some_rows([make(i) for i in numbers], 1))
        if order == "random":
            random.Random(2).shuffle(numbers)
        if order == "descending":
            numbers.reverse()
        for start in range(0, 3000, 30):
            assert table.delete_many({"k": [make(i) for i in numbers[start : start + 30]]}) == 30
        assert rows_of(table) == []
        assert rows_of(table, reverse=True) == []
        stats = db.stats()
        assert (
            stats.free_pages == stats.allocated_pages - 7
        )  # page 0, the directory, the runs, three of the catalog, the root
    assert len(table_tree(check_file(path))) == 1


def test_pages_stay_a_quarter_full_after_random_deletes(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    with exmapdb.open(path, memory=TINY, backend="posix", durability="async", log="16MiB", workers=1) as db:
        table = db.create_table("t", SCHEMA, key="k")
        keys = [str(i) for i in range(5000)]
        random.Random(1).shuffle(keys)
        insert(table, some_rows(keys, 1))
        for start in range(0, 4600, 20):
            table.delete_many({"k": keys[start : start + 20]})
    nodes = table_tree(check_file(path))
    assert len(nodes) > 20
    assert all(node.used >= NODE_SPACE // 4 for node in nodes if node.level == 0)


def test_deleted_pages_are_used_again_also_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    rows = some_rows([str(i) for i in range(4000)], 1)
    pages: list[int] = []
    for turn in range(4):
        with exmapdb.open(
            path, memory=TINY, backend="posix", durability="async", log="16MiB", workers=1
        ) as db:
            table = db.table("t") if turn else db.create_table("t", SCHEMA, key="k")
            insert(table, rows)
            pages.append(db.stats().allocated_pages)
            assert table.delete_many({"k": list(rows)}) == len(rows)
        check_file(path)
    assert len(set(pages)) == 1


def test_delete_says_whether_there_was_a_row(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory=TINY, backend="posix", durability="async", log="16MiB"
    ) as db:
        table = db.create_table("t", {"a": "int64", "b": "text", "v": "int64"}, key=("a", "b"))
        table.insert({"a": 1, "b": "x", "v": 5})
        assert not table.delete((1, "y"))
        assert table.delete((1, "x"))
        assert not table.delete((1, "x"))
        assert table.count() == 0
        with pytest.raises(exmapdb.InvalidValueError):
            table.delete(1)
        with pytest.raises(exmapdb.SchemaError, match="b"):
            table.delete_many({"a": [1]})
        with pytest.raises(exmapdb.SchemaError, match="c"):
            table.delete_many({"a": [1], "b": ["x"], "c": [1]})


def test_what_a_scan_yields_can_be_deleted(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory=TINY, backend="posix", durability="async", log="16MiB"
    ) as db:
        table = db.create_table("t", {"k": "int64", "v": "text?"}, key="k")
        table.insert_many({"k": np.arange(5000), "v": [str(i) for i in range(5000)]})
        for batch in table.scan(1000, 4000, batch_rows=100):
            assert table.delete_many(batch) == 100
        assert [row[0] for row in rows_of(table)] == [*range(1000), *range(4000, 5000)]


def test_reverse_scan_reads_ahead_and_no_more_than_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    with exmapdb.open(path, memory="1MiB", backend="posix", durability="async", log="16MiB") as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": np.arange(20_000), "v": ["x" * 60] * 20_000})
    with exmapdb.open(path, memory="1MiB", backend="posix", durability="async", log="16MiB") as db:
        assert sum(batch.rows for batch in db.table("t").scan(reverse=True)) == 20_000
        stats = db.stats()
        assert stats.prefetched > 15 * stats.misses
        assert stats.pages_read == stats.misses + stats.prefetched
    with exmapdb.open(path, memory="1MiB", backend="posix", durability="async", log="16MiB") as db:
        table = db.table("t")
        before = db.stats().pages_read
        assert sum(batch.rows for batch in table.scan(5000, 5050, reverse=True)) == 50
        assert db.stats().pages_read - before <= 6
        for key in range(5000, 5100):
            before = db.stats().hits + db.stats().misses
            assert [batch.rows for batch in table.scan(key, key + 1, prefetch=0, reverse=True)] == [1]
            assert db.stats().hits + db.stats().misses - before == 3  # levels


def test_threads_delete_insert_and_scan_one_table(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    with exmapdb.open(
        path, memory="512KiB", backend="posix", durability="async", log="16MiB", workers=4
    ) as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        fixed = np.arange(0, 8000, 4)
        table.insert_many({"k": fixed, "v": ["f" * 90] * len(fixed)})
        problems: list[object] = []
        done = threading.Event()

        def change(start: int) -> None:
            ids = np.arange(start, 8000, 4)
            for _ in range(4):
                for part in np.array_split(np.random.default_rng(start).permutation(ids), 20):
                    table.insert_many({"k": part, "v": ["c" * 200] * len(part)})
                for part in np.array_split(np.random.default_rng(start + 9).permutation(ids), 20):
                    if table.delete_many({"k": part}) != len(part):
                        problems.append(("deleted", start))

        def look(reverse: bool) -> None:
            while not done.is_set():
                batches = table.scan(columns=["k"], batch_rows=300, reverse=reverse)
                seen = np.concatenate([batch["k"].values for batch in batches])
                seen = seen[::-1] if reverse else seen
                if (np.diff(seen) <= 0).any() or not np.isin(fixed, seen).all():
                    problems.append(("scan", reverse))

        writers = [threading.Thread(target=change, args=(start,)) for start in (1, 2, 3)]
        readers = [threading.Thread(target=look, args=(reverse,)) for reverse in (False, True)]
        for thread in [*writers, *readers]:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
        assert problems == []
        assert [row[0] for row in rows_of(table)] == fixed.tolist()
    check_file(path)
