"""exmapdb for asyncio: the same calls, awaited.

>>> import asyncio
>>> from exmapdb import aio
>>> async def main():
...     async with aio.open("stars.exdb", memory="16MiB") as db:
...         stars = await db.create_table("stars", {"id": "int64", "name": "text?"}, key="id")
...         await stars.insert_many({"id": [1, 2], "name": ["Sirius", None]})
...         async with db.snapshot() as snapshot:
...             async for batch in (await snapshot.table("stars")).scan():
...                 print(list(batch.to_rows()))
...         return await stars.get(1)
>>> asyncio.run(main())
[(1, 'Sirius'), (2, None)]
{'id': 1, 'name': 'Sirius'}

A database has as many threads as it has workers.  Each call waits for one of them, but for `Table.get` of a
row that is in memory, which takes none; a call lets go of the GIL, and raises what it does without asyncio.
A scan reads on when the next batch is asked for.

Who is cancelled knows that nothing of the call goes on: a call that has not begun never does, and one that
has is waited for, so that CancelledError comes when it is over.  What it was to change has been changed
as a whole, or not at all; which of them, the database tells.  `run` does not commit after it was cancelled,
unless its commit was under way; `begin` rolls back, as after any error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from exmapdb import database, opening, snapshot, table, transaction
from exmapdb.errors import DatabaseClosedError
from exmapdb.layout import Key

__all__ = ["Database", "Snapshot", "Table", "Transaction", "open"]

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
F = TypeVar("F")
Call = Coroutine[Any, Any, T]


class AbandonedError(BaseException):
    """Ends a transaction that nobody waits for any more: no error, so that nothing handles it."""


class Threads:
    """The threads of a database."""

    def __init__(self, count: int) -> None:
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(count, "exmapdb")

    async def call(
        self,
        function: Callable[[], T],
        on_cancel: Callable[[], None] | None = None,
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """Call in a thread, and await it.

        Cancelled, it calls on_cancel at once, and ends when the call has; undo then gets what it returned.
        """
        if self._pool is None:
            raise DatabaseClosedError
        job = self._pool.submit(function)
        try:
            return await asyncio.shield(asyncio.wrap_future(job))
        except asyncio.CancelledError:
            if on_cancel:
                on_cancel()
            if not job.cancel():
                await wait_for(job)
                if undo and not job.exception():
                    await wait_for(self._pool.submit(undo, job.result()))
            raise

    def close(self) -> None:
        """Turn away whoever comes now."""
        pool, self._pool = self._pool, None
        if pool:
            pool.shutdown(wait=False)


async def wait_for(job: Future[Any]) -> None:
    """Wait until a call that has begun is over, however often that is cancelled."""
    future = asyncio.wrap_future(job)
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    # whoever was cancelled gets no other error
    future.exception()


class Front(Generic[S]):
    """Something of exmapdb, `sync`, whose calls are awaited."""

    def __init__(self, threads: Threads, sync: S) -> None:
        self._threads = threads
        self.sync = sync


def awaited(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[Front[S], P], Call[T]]:
    """Make a method of a front of one of what is behind it."""

    @functools.wraps(method)
    async def call(front: Front[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await front._threads.call(lambda: method(front.sync, *args, **kwargs))

    return call


def fronted(
    method: Callable[Concatenate[S, P], T], make: Callable[[Threads, T], F]
) -> Callable[Concatenate[Front[S], P], Call[F]]:
    """Make a method of one that returns what has a front itself."""

    @functools.wraps(method)
    async def call(front: Front[S], /, *args: P.args, **kwargs: P.kwargs) -> F:
        inner = await front._threads.call(lambda: method(front.sync, *args, **kwargs))
        return make(front._threads, inner)

    return call


def take(iterator: Iterator[T]) -> tuple[T] | None:
    """Return the next one, if there is one: StopIteration passes no thread's end."""
    for item in iterator:
        return (item,)
    return None


def iterated(
    method: Callable[Concatenate[S, P], Iterator[T]],
) -> Callable[Concatenate[Front[S], P], AsyncIterator[T]]:
    """Make a method of one that returns an iterator."""

    @functools.wraps(method)
    async def call(front: Front[S], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        iterator = await front._threads.call(lambda: method(front.sync, *args, **kwargs))
        while item := await front._threads.call(lambda: take(iterator)):
            yield item[0]

    return call


class Manager(Protocol):
    """A context manager of exmapdb."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End it."""


M = TypeVar("M", bound=Manager)


@contextlib.asynccontextmanager
async def entered(
    threads: Threads, make: Callable[[Threads, M], F], function: Callable[[], M]
) -> AsyncIterator[F]:
    """Enter a context manager, and leave it."""

    def leave(manager: M) -> None:
        manager.__exit__(None, None, None)

    manager = await threads.call(function, undo=leave)
    try:
        yield make(threads, manager)
    except BaseException as error:
        leaving = error
        await threads.call(lambda: manager.__exit__(type(leaving), leaving, leaving.__traceback__))
        raise
    await threads.call(lambda: leave(manager))


def managed(
    method: Callable[Concatenate[S, P], M], make: Callable[[Threads, M], F]
) -> Callable[Concatenate[Front[S], P], contextlib.AbstractAsyncContextManager[F]]:
    """Make a method of one that returns a context manager."""

    @functools.wraps(method)
    def call(
        front: Front[S], /, *args: P.args, **kwargs: P.kwargs
    ) -> contextlib.AbstractAsyncContextManager[F]:
        return entered(front._threads, make, lambda: method(front.sync, *args, **kwargs))

    return call


class Table(Front[table.Table]):
    """A table of a database, a transaction or a snapshot."""

    async def get(self, key: Key) -> dict[str, Any] | None:
        """Return the row with this key, or None; see exmapdb.Table.get."""
        row: dict[str, Any] | None = self.sync.get_at_once(key)
        if row is not NotImplemented:
            return row
        return await self._threads.call(lambda: self.sync.get(key))

    get_many = awaited(table.Table.get_many)
    lookup = awaited(table.Table.lookup)
    find = iterated(table.Table.find)
    scan = iterated(table.Table.scan)
    count = awaited(table.Table.count)
    to_arrow = awaited(table.Table.to_arrow)
    insert = awaited(table.Table.insert)
    insert_many = awaited(table.Table.insert_many)
    upsert = awaited(table.Table.upsert)
    update = awaited(table.Table.update)
    delete = awaited(table.Table.delete)
    delete_many = awaited(table.Table.delete_many)


class Snapshot(Front[snapshot.Snapshot]):
    """All tables as they were at one moment; a context manager."""

    table = fronted(snapshot.Snapshot.table, Table)
    tables = awaited(snapshot.Snapshot.tables)
    stats = awaited(snapshot.Snapshot.stats)


class Transaction(Front[transaction.Transaction]):
    """A transaction of several calls; a context manager that commits, or rolls back after an error."""

    table = fronted(transaction.Transaction.table, Table)
    create_table = fronted(transaction.Transaction.create_table, Table)
    drop_table = awaited(transaction.Transaction.drop_table)
    rename_table = awaited(transaction.Transaction.rename_table)
    add_column = awaited(transaction.Transaction.add_column)
    drop_column = awaited(transaction.Transaction.drop_column)
    rename_column = awaited(transaction.Transaction.rename_column)
    create_index = awaited(transaction.Transaction.create_index)
    drop_index = awaited(transaction.Transaction.drop_index)
    savepoint = awaited(transaction.Transaction.savepoint)
    rollback_to = awaited(transaction.Transaction.rollback_to)
    commit = awaited(transaction.Transaction.commit)
    rollback = awaited(transaction.Transaction.rollback)


class Database(Front[database.Database]):
    """An open database. Made by `open`."""

    async def run(self, work: Callable[[transaction.Transaction], T], attempts: int = 100) -> T:
        """Call `work` in a thread with a new transaction, and commit it; see exmapdb.Database.run."""
        cancelled = threading.Event()

        def work_if_wanted(txn: transaction.Transaction) -> T:
            result = work(txn)
            if cancelled.is_set():
                raise AbandonedError
            return result

        return await self._threads.call(
            lambda: self.sync.run(work_if_wanted, attempts), on_cancel=cancelled.set
        )

    begin = managed(database.Database.begin, Transaction)
    snapshot = managed(database.Database.snapshot, Snapshot)
    table = fronted(database.Database.table, Table)
    tables = awaited(database.Database.tables)
    create_table = fronted(database.Database.create_table, Table)
    drop_table = awaited(database.Database.drop_table)
    rename_table = awaited(database.Database.rename_table)
    add_column = awaited(database.Database.add_column)
    drop_column = awaited(database.Database.drop_column)
    rename_column = awaited(database.Database.rename_column)
    create_index = awaited(database.Database.create_index)
    drop_index = awaited(database.Database.drop_index)
    checkpoint = awaited(database.Database.checkpoint)
    backup = awaited(database.Database.backup)
    check = awaited(database.Database.check)
    stats = awaited(database.Database.stats)


def opened(
    function: Callable[P, database.Database],
) -> Callable[P, contextlib.AbstractAsyncContextManager[Database]]:
    """Make what opens a database for asyncio of what opens one."""

    @contextlib.asynccontextmanager
    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Database]:
        threads = Threads(int(kwargs.get("workers", opening.WORKERS)))  # type: ignore[call-overload]
        try:
            async with entered(threads, Database, lambda: function(*args, **kwargs)) as opened:
                yield opened
        finally:
            threads.close()

    return call


open = opened(opening.open_database)
