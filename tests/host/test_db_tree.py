"""The B+-tree and the buffer manager under it, against a dict. Posix backend, 32 frames."""

import itertools
import random
import threading
from pathlib import Path

import exmapdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TINY = "128KiB"
SCHEMA = {"k": "text", "v": "text?"}

keys = st.one_of(
    st.text(max_size=4),
    st.integers(0, 400).map(lambda i: f"{i:0200}"),
    st.integers(0, 9).map(lambda i: "p" * 400 + str(i)),
)
values = st.one_of(st.none(), st.text(max_size=8), st.integers(0, 440).map(lambda n: "x" * n))
small = st.dictionaries(keys, values, max_size=60)
# hypothesis alone would hardly ever fill the pool
large = st.builds(
    lambda seed, rows: {f"{k:04}": "y" * (k % 440) for k in random.Random(seed).sample(range(9999), rows)},
    st.integers(0, 99),
    st.integers(100, 900),
)
batches = st.lists(st.one_of(small, large), max_size=12)


def insert(table: exmapdb.Table, rows: dict[str, str | None], replace: bool = False) -> None:
    table.insert_many({"k": list(rows), "v": list(rows.values())}, replace=replace)


def rows_of(table: exmapdb.Table, low: str | None = None, high: str | None = None) -> dict[str, str | None]:
    scanned = list(itertools.chain.from_iterable(batch.to_rows() for batch in table.scan(low, high)))
    rows = dict(scanned)
    assert len(rows) == len(scanned)
    assert list(rows) == sorted(rows, key=str.encode)
    return rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, bounds=st.tuples(keys, keys), prefetch=st.booleans())
def test_tree_agrees_with_a_dict(
    tmp_path: Path, batches: list[dict[str, str | None]], bounds: tuple[str, str], prefetch: bool
) -> None:
    model: dict[str, str | None] = {}
    path = tmp_path / "t.exdb"
    with exmapdb.open(
        path, memory=TINY, backend="posix", durability="async", log="4MiB", flag="n", workers=1
    ) as db:
        table = db.create_table("t", SCHEMA, key="k")
        for rows in batches:
            if rows:
                insert(table, rows, replace=True)
                model |= rows
        assert rows_of(table) == model
    with exmapdb.open(
        path, memory=TINY, backend="posix", durability="async", log="4MiB", flag="w", workers=1
    ) as db:
        table = db.table("t")
        assert rows_of(table) == model
        low, high = (bound.encode() for bound in bounds)
        inside = {k: v for k, v in model.items() if low <= k.encode() < high}
        assert rows_of(table, *bounds) == inside
        for key in [*model, *bounds]:
            row = table.get(key)
            assert row == ({"k": key, "v": model[key]} if key in model else None)


def load(db: exmapdb.Database, ids: np.ndarray) -> exmapdb.Table:
    table = db.create_table("t", {"id": "int64", "square": "int64", "pad": "text"}, key="id")
    for part in np.array_split(ids, 20):
        table.insert_many({"id": part, "square": part * part, "pad": ["x" * 60] * len(part)})
    return table


def test_a_table_larger_than_the_pool_is_evicted_and_read_again(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory=TINY, backend="posix", durability="async", log="4MiB"
    ) as db:
        ids = np.random.default_rng(1).permutation(20_000)
        table = load(db, ids)
        for i in range(0, 20_000, 37):
            row = table.get(i)
            assert row is not None
            assert row["square"] == i * i
        stats = db.stats()
        assert stats.allocated_pages > 10 * stats.pool_pages
        assert stats.resident_pages <= stats.pool_pages
        assert stats.evicted > stats.allocated_pages
        assert stats.pages_written > stats.allocated_pages
        assert stats.misses > 100


def test_pages_are_evicted_in_batches_that_share_flushes(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory="2MiB", backend="posix", durability="async", log="4MiB", workers=1
    ) as db:
        load(db, np.arange(50_000))
        stats = db.stats()
        assert stats.evicted > 500
        assert stats.evicted / stats.eviction_batches > 6
        assert stats.tlb_flushes < stats.eviction_batches / 2


def test_sorted_input_fills_pages_above_nine_tenths(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory="4MiB", backend="posix", durability="async", log="4MiB"
    ) as db:
        before = db.stats().allocated_pages
        load(db, np.arange(20_000))
        pages = db.stats().allocated_pages - before
        row = 12 + 8 + 1 + 1 + 8 + 2 + 60
        assert 20_000 * row / (pages * 4096) > 0.9


@pytest.mark.parametrize("low", [10_000, 10_010, 10_023, 10_037])
def test_sorted_batches_in_the_middle_of_a_table_fill_pages_too(tmp_path: Path, low: int) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory="4MiB", backend="posix", durability="async", log="4MiB"
    ) as db:
        before = db.stats().allocated_pages
        load(db, np.concatenate((np.arange(0, low), np.arange(20_000, 30_000), np.arange(low, 20_000))))
        pages = db.stats().allocated_pages - before
        row = 12 + 8 + 1 + 1 + 8 + 2 + 60
        assert 30_000 * row / (pages * 4096) > 0.9


def test_scan_reads_ahead_in_vectors(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory="1MiB", backend="posix", durability="async", log="4MiB"
    ) as db:
        load(db, np.arange(20_000))
    with exmapdb.open(
        tmp_path / "t.exdb", memory="1MiB", backend="posix", durability="async", log="4MiB"
    ) as db:
        assert db.table("t").count() == 20_000
        stats = db.stats()
        assert stats.prefetched > 15 * stats.misses
        assert stats.pages_read == stats.misses + stats.prefetched


def test_short_scan_reads_no_more_leaves_than_it_needs(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory="1MiB", backend="posix", durability="async", log="4MiB"
    ) as db:
        load(db, np.arange(20_000))
    with exmapdb.open(
        tmp_path / "t.exdb", memory="1MiB", backend="posix", durability="async", log="4MiB"
    ) as db:
        table = db.table("t")
        before = db.stats().pages_read
        assert sum(len(batch) for batch in table.scan(5000, 5050)) == 50
        assert db.stats().pages_read - before <= 6


def test_threads_insert_and_read_one_table(tmp_path: Path) -> None:
    with exmapdb.open(
        tmp_path / "t.exdb", memory="512KiB", backend="posix", durability="async", log="4MiB", workers=3
    ) as db:
        table = db.create_table("t", {"k": "int64", "v": "int64"}, key="k")
        problems: list[object] = []

        def work(start: int) -> None:
            ids = np.arange(start, 40_000, 4)
            for part in np.array_split(np.random.default_rng(start).permutation(ids), 40):
                table.insert_many({"k": part, "v": part + 1})
                row = table.get(int(part[0]))
                if row != {"k": part[0], "v": part[0] + 1}:
                    problems.append(row)
            batches = table.scan(columns=["k"], batch_rows=500)
            seen = np.concatenate([batch["k"].values for batch in batches])
            if (np.diff(seen) <= 0).any() or not np.isin(ids, seen).all():
                problems.append(start)

        threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert table.count() == 40_000
        assert db.stats().evicted > 0


def test_closing_waits_for_other_threads_and_turns_them_away(tmp_path: Path) -> None:
    for _ in range(20):
        db = exmapdb.open(
            tmp_path / "t.exdb",
            memory="512KiB",
            backend="posix",
            durability="async",
            log="4MiB",
            workers=2,
            flag="n",
        )
        table = db.create_table("t", {"k": "int64"}, key="k")
        table.insert_many({"k": np.arange(100)})
        turned_away = []
        started = threading.Barrier(5)

        def work(table: exmapdb.Table, started: threading.Barrier, turned_away: list[int]) -> None:
            started.wait()
            try:
                while True:
                    assert table.count() == 100
            except exmapdb.DatabaseClosedError:
                turned_away.append(1)

        threads = [threading.Thread(target=work, args=(table, started, turned_away)) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait()
        db.close()
        for thread in threads:
            thread.join()
        assert len(turned_away) == 4


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches)
def test_tree_agrees_with_a_dict_at_length(tmp_path: Path, batches: list[dict[str, str | None]]) -> None:
    model: dict[str, str | None] = {}
    with exmapdb.open(
        tmp_path / "t.exdb", memory=TINY, backend="posix", durability="async", log="4MiB", flag="n", workers=1
    ) as db:
        table = db.create_table("t", SCHEMA, key="k")
        for rows in batches:
            if rows:
                insert(table, rows, replace=True)
                model |= rows
        assert rows_of(table) == model
