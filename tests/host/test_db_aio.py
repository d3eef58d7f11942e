"""exmapdb under asyncio: the same answers, one thread for each worker, and what a cancelled caller knows."""

import asyncio
import contextlib
import doctest
import inspect
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import exmapdb
import pytest
from exmapdb import aio

OPTIONS: Any = {"memory": "512KiB", "backend": "posix", "workers": 2, "durability": "async"}
Work = Callable[[aio.Database, aio.Table], Coroutine[Any, Any, None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Work], None]:
    """Run a coroutine on a database with a table of 1,000 rows, and check every page afterwards."""

    async def main(work: Work) -> None:
        async with aio.open(tmp_path / "t.exdb", **OPTIONS) as db:
            table = await db.create_table("t", {"k": "int64", "v": "int64"}, key="k")
            await table.insert_many({"k": range(1000), "v": [0] * 1000})
            await work(db, table)
            await db.check()

    return lambda work: asyncio.run(main(work))


def test_the_example_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(aio) == (0, 4)


def test_calls_give_and_raise_what_they_do_without_asyncio(run: Callable[[Work], None]) -> None:
    async def work(db: aio.Database, table: aio.Table) -> None:
        assert await table.get(7) == {"k": 7, "v": 0}
        assert await table.get(-1) is None
        assert await table.update(7, {"v": 1})
        assert [row async for row in table.find("by_v", 1)] == [{"k": 7, "v": 1}]
        seen = [row async for batch in table.scan(5, 9, batch_rows=2) for row in batch.to_rows()]
        assert seen == [(5, 0), (6, 0), (7, 1), (8, 0)]
        with pytest.raises(exmapdb.DuplicateKeyError):
            await table.insert({"k": 7, "v": 1})
        with pytest.raises(exmapdb.NoSuchTableError):
            await db.table("none")
        with pytest.raises(exmapdb.SchemaError):
            _ = [batch async for batch in table.scan(columns=["none"])]

    async def with_index(db: aio.Database, table: aio.Table) -> None:
        await db.create_index("t", "by_v", "v")
        await work(db, table)

    run(with_index)


def test_transactions_commit_at_the_end_or_roll_back(run: Callable[[Work], None]) -> None:
    async def work(db: aio.Database, table: aio.Table) -> None:
        async with db.begin() as txn:
            await (await txn.table("t")).update(1, {"v": 5})
            assert (await table.get(1)) == {"k": 1, "v": 0}
        assert (await table.get(1)) == {"k": 1, "v": 5}
        with contextlib.suppress(ZeroDivisionError):
            async with db.begin() as txn:
                await (await txn.table("t")).update(1, {"v": 6})
                raise ZeroDivisionError
        assert (await table.get(1)) == {"k": 1, "v": 5}
        async with db.begin() as first:
            mine = await first.table("t")
            await mine.get(1)
            await mine.update(2, {"v": 1})
            await table.update(1, {"v": 7})
            with pytest.raises(exmapdb.ConflictError):
                await first.commit()

    run(work)


def test_counters_in_many_tasks_lose_nothing(run: Callable[[Work], None]) -> None:
    def count_up(txn: exmapdb.Transaction) -> None:
        table = txn.table("t")
        row = table.get(3)
        assert row is not None
        table.update(3, {"v": row["v"] + 1})

    async def work(db: aio.Database, table: aio.Table) -> None:
        await asyncio.gather(*(db.run(count_up) for _ in range(50)))
        assert await table.get(3) == {"k": 3, "v": 50}
        names = {thread.name for thread in threading.enumerate() if thread.name.startswith("exmapdb")}
        assert len(names) <= OPTIONS["workers"]

    run(work)


def test_snapshots_stay_what_they_were(run: Callable[[Work], None]) -> None:
    async def work(db: aio.Database, table: aio.Table) -> None:
        async with db.snapshot() as snapshot:
            await table.update(1, {"v": 9})
            frozen = await snapshot.table("t")
            assert await frozen.get(1) == {"k": 1, "v": 0}
            assert await frozen.count() == 1000

    run(work)


def test_a_scan_reads_no_more_than_is_asked_for(run: Callable[[Work], None]) -> None:
    async def work(db: aio.Database, table: aio.Table) -> None:
        scan = table.scan(batch_rows=1)
        await anext(scan)
        # nobody reads ahead beyond what one call has read
        before = await db.stats()
        await asyncio.sleep(0.05)
        assert (await db.stats()).hits == before.hits

    run(work)


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_run_ends_before_its_caller_and_does_not_commit(run: Callable[[Work], None]) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def change(txn: exmapdb.Transaction) -> None:
        txn.table("t").update(1, {"v": 1})
        begun.set()
        go_on.wait()
        ended.set()

    async def work(db: aio.Database, table: aio.Table) -> None:
        task = asyncio.create_task(db.run(change))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        assert await table.get(1) == {"k": 1, "v": 0}

    run(work)


def test_a_call_that_has_not_begun_never_does(run: Callable[[Work], None]) -> None:
    go_on = threading.Event()

    async def work(db: aio.Database, table: aio.Table) -> None:
        busy = [asyncio.create_task(db.run(lambda _: go_on.wait())) for _ in range(OPTIONS["workers"])]
        await asyncio.sleep(0.05)
        late = asyncio.create_task(table.update(1, {"v": 1}))
        await asyncio.sleep(0.05)
        await cancel(late)
        go_on.set()
        await asyncio.gather(*busy)
        assert await table.get(1) == {"k": 1, "v": 0}

    run(work)


def test_a_snapshot_that_comes_too_late_is_closed(
    run: Callable[[Work], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    freeze = exmapdb.Database.freeze
    made: list[exmapdb.Frozen] = []

    def slow_freeze(db: exmapdb.Database) -> exmapdb.Frozen:
        begun.set()
        go_on.wait()
        made.append(freeze(db))
        return made[0]

    async def work(db: aio.Database, table: aio.Table) -> None:
        monkeypatch.setattr(exmapdb.Database, "freeze", slow_freeze)

        async def read() -> None:
            async with db.snapshot():
                pytest.fail("it was cancelled before")

        task = asyncio.create_task(read())
        await asyncio.to_thread(begun.wait)
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert made[0].closed

    run(work)


def test_after_the_end_every_call_says_that_it_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.open(tmp_path / "t.exdb", **OPTIONS) as db:
            table = await db.create_table("t", {"k": "int64"}, key="k")
        for call in (db.tables(), table.get(1), table.count()):
            with pytest.raises(exmapdb.DatabaseClosedError):
                await call

    asyncio.run(main())


LEFT_OUT = {
    exmapdb.Database: {"close", "error", "find_layout", "forget", "free_dropped", "freeze", "known_layout"}
    | {"load_layout", "session", "stored_page", "worker"},
    exmapdb.Transaction: {
        "create_tree",
        "declare_index",
        "drop_tree",
        "fill_index",
        "is_current",
        "read",
        "session",
    },
    exmapdb.Snapshot: {"close", "read", "session"},
    exmapdb.Table: {"become", "get_at_once", "record_batches", "refresh", "within"},
}


@pytest.mark.parametrize("sync", LEFT_OUT)
def test_every_call_is_there_or_left_out_on_purpose(sync: type) -> None:
    front = getattr(aio, sync.__name__)
    names = {name for name, _ in inspect.getmembers(sync, inspect.isfunction) if not name.startswith("_")}
    assert names - {name for name in vars(front) if not name.startswith("_")} == LEFT_OUT[sync]
