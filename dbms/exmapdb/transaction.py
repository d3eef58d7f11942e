"""Transactions of several calls."""

from __future__ import annotations

import contextlib
import errno
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Never, Self

from exmapdb._core import ffi, lib
from exmapdb.errors import (
    ConflictError,
    InvalidValueError,
    NoSuchTableError,
    RowTooLargeError,
    SchemaError,
    TransactionEndedError,
    UniqueError,
)
from exmapdb.layout import Key, Layout, TableInfo
from exmapdb.schema import Field, Schema
from exmapdb.table import Table
from exmapdb.workers import Loan, address_of

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.workers import Worker, WorkerPool

__all__ = ["Transaction"]


class GoneView:
    """What a table shows that was dropped, or whose making was rolled back."""

    writable: ClassVar[bool] = True
    background = False

    def __init__(self, name: str) -> None:
        self._name = name

    def session(self) -> Never:
        """Raise NoSuchTableError."""
        raise NoSuchTableError(self._name, [])

    def read(self, _layout: Layout, _key: Key) -> Any:
        """Leave it to what takes a session."""
        return NotImplemented


class TransactionSession:
    """A worker on loan, and the handle of a transaction, which is the caller's alone meanwhile."""

    __slots__ = ("_loan", "_lock", "_transaction")

    def __init__(self, transaction: Transaction, lock: threading.RLock, pool: WorkerPool) -> None:
        self._transaction = transaction
        self._lock = lock
        self._loan = Loan(pool)

    def __enter__(self) -> tuple[Worker, Any]:
        self._lock.acquire()
        try:
            handle = self._transaction.handle
            return self._loan.__enter__(), handle
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._loan.__exit__()
        finally:
            self._lock.release()


class Transaction:
    """A serializable transaction; a context manager that commits, or rolls back after an error.

    What it writes is seen by itself alone until it commits.  It never waits for another one: if what it
    has read was changed by one that committed since, its commit raises ConflictError, and it should be run
    again; Database.run does that.  Until then it may have read from before and after such a change.
    Made by Database.begin.
    """

    writable: ClassVar[bool] = True
    background = False

    def __init__(self, database: Database, handle: Any) -> None:
        self._database = database
        self._handle = handle
        self._address = address_of(handle)
        # a transaction is one thread's at a time
        self._lock = threading.RLock()
        # one object for each name, so that whoever has it sees what the transaction makes of the table
        self._tables: dict[str, Table] = {}
        self._altered: set[str] = set()
        # those that it has dropped: a savepoint may bring them back
        self._gone: dict[str, Table] = {}
        self._drops = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.rollback()
        elif self.active:
            self.commit()

    @property
    def active(self) -> bool:
        """Return whether it has neither been committed nor rolled back."""
        return self._handle is not None

    def table(self, name: str) -> Table:
        """Return a table as the transaction sees it. NoSuchTableError."""
        if name not in self._tables and name in self._altered:
            return self._reload(name)
        if name not in self._tables:
            self._tables[name] = Table(self._database, self._database.find_layout(name, self), self)
        return self._tables[name]

    def create_table(
        self, name: str, schema: dict[str, str] | list[Field], key: str | tuple[str, ...]
    ) -> Table:
        """Make a table; it is there for others once this has committed. See Database.create_table."""
        generation = self._database.generation
        return self._show(self._database.catalog.create(self, name, Schema.of(schema, key)), generation)

    def drop_table(self, name: str) -> None:
        """Drop a table. See Database.drop_table."""
        self._database.catalog.drop(self, name)
        self._hide(name)

    def rename_table(self, name: str, new: str) -> None:
        """Give a table another name. See Database.rename_table."""
        generation = self._database.generation
        info = self._database.catalog.rename(self, name, new)
        self._hide(name)
        self._show(info, generation)

    def rename_column(self, table: str, column: str, new: str) -> None:
        """Give a column another name. See Database.rename_column."""
        self._database.catalog.rename_column(self, table, column, new)
        self._reload(table)

    def add_column(self, table: str, column: str, kind: str) -> None:
        """Add a column. See Database.add_column."""
        self._database.catalog.add_column(self, table, Field.parse(column, kind))
        self._reload(table)

    def drop_column(self, table: str, column: str) -> None:
        """Drop a column. See Database.drop_column."""
        self._database.catalog.drop_column(self, table, column)
        self._reload(table)

    def create_index(
        self, table: str, index: str, columns: str | tuple[str, ...], unique: bool = False
    ) -> None:
        """Make an index of the rows that the transaction sees; its entries have to fit half the log.

        See Database.create_index, for which they need not.
        """
        names = (columns,) if isinstance(columns, str) else columns
        self._database.catalog.create_index(self, table, index, names, unique)
        self.fill_index(table, index, None, 0)

    def declare_index(self, table: str, index: str, columns: tuple[str, ...], unique: bool) -> None:
        """Write an unfinished index down, which writers keep from now on."""
        self._database.catalog.create_index(self, table, index, columns, unique, unfinished=True)
        self._reload(table)

    def fill_index(self, table: str, index: str, start: Any, rows: int) -> bool:
        """Write entries for so many rows from a key of the native core on, which is moved behind them.

        start: None for an index that is finished with this transaction, of all rows.  Returns whether there
        are more rows.  Raises what Database.create_index raises.
        """
        made = self._reload(table)
        number = made.layout.info.index_number(index, unfinished=start is not None)
        key = ffi.new("struct exdb_key *") if start is None else start
        with self.session() as (worker, handle):
            code = lib.exdb_index_fill(
                worker.handle, handle, made.layout.handle, made.tree, number, key, rows
            )
            page = worker.error_page
        if code == -errno.ENOTUNIQ:
            raise UniqueError(table, index)
        if code == -errno.EMSGSIZE:
            raise RowTooLargeError(f"a row's values are too long for index {index!r}")
        if code == -errno.EDOM:
            raise InvalidValueError("NaN cannot be in an index")
        if code in (-errno.ECANCELED, -errno.ESTALE):
            raise ConflictError
        if code < 0:
            raise self._database.error(code, page)
        return bool(code)

    def drop_index(self, table: str, index: str) -> None:
        """Drop an index. See Database.drop_index."""
        self._database.catalog.drop_index(self, table, index)
        self._reload(table)

    def _reload(self, name: str) -> Table:
        """Read again what the transaction sees of a table."""
        generation = self._database.generation
        return self._show(self._database.catalog.load(name, self), generation)

    def _show(self, info: TableInfo, generation: int) -> Table:
        """Let all who have the table see what the transaction has made of it."""
        layout = Layout(info, generation)
        self._altered.add(info.name)
        shown = self._tables.get(info.name) or self._gone.pop(info.name, None)
        if shown is None:
            shown = Table(self._database, layout, self)
        else:
            shown.become(layout, self)
        self._tables[info.name] = shown
        return shown

    def _hide(self, name: str) -> None:
        """Let all who have the table see that it is gone."""
        self._altered.add(name)
        gone = self._tables.pop(name, None)
        if gone is not None:
            gone.become(gone.layout, GoneView(name))
            self._gone[name] = gone

    def create_tree(self) -> int:
        """Return the number of a new tree, which will be there once this has committed."""
        tree = ffi.new("uint32_t *")
        with self.session() as (_, handle):
            code = lib.exdb_table_create(handle, tree)
        if code == -errno.ENFILE:
            most = lib.EXDB_TREES_MAX - 1
            raise SchemaError(f"a database has at most {most} tables and indexes: drop some")
        if code:
            raise self._database.error(code, 0)
        return int(tree[0])

    def drop_tree(self, tree: int) -> None:
        """Give a tree up once this has committed, which has to change the catalog after this call."""
        with self.session() as (_, handle):
            code = lib.exdb_tree_drop(handle, tree)
        if code:
            raise self._database.error(code, 0)
        self._drops = True

    def savepoint(self) -> int:
        """Return what rollback_to takes to forget all that is written from now on."""
        with self.session() as (_, handle):
            return int(lib.exdb_txn_savepoint(handle))

    def rollback_to(self, savepoint: int) -> None:
        """Forget what was written since the savepoint; later ones are void. ValueError for such a one.

        Tables that were made since are gone, NoSuchTableError; others have the columns and indexes again
        that they had.
        """
        with self.session() as (_, handle):
            if lib.exdb_txn_rollback(handle, savepoint):
                raise ValueError("the savepoint was rolled back")
        for name in tuple(self._altered):
            try:
                self._reload(name)
            except NoSuchTableError:
                self._hide(name)

    def is_current(self) -> bool:
        """Return whether all that was read is still as it was: if not, commit would fail."""
        with self.session() as (worker, handle):
            return not lib.exdb_txn_check(worker.handle, handle)

    def commit(self) -> None:
        """Make it count, as durably as the database was opened.

        Raises ConflictError, TransactionTooLargeError, and what any change raises; it has ended then, too.
        """
        with self.session() as (worker, handle):
            code = lib.exdb_txn_commit(worker.handle, handle)
            page = worker.error_page
            self._end()
        if code == -errno.ECANCELED:
            raise ConflictError
        if code:
            raise self._database.error(code, page)
        if self._drops:
            self._database.free_dropped()

    def rollback(self) -> None:
        """Forget all that it has written; does nothing if it has ended."""
        with self._lock:
            if self._handle is not None:
                self._end()

    def session(self) -> contextlib.AbstractContextManager[tuple[Worker, Any]]:
        """Lend a channel into the native core, and the handle. TransactionEndedError."""
        return TransactionSession(self, self._lock, self._database.workers)

    @property
    def handle(self) -> Any:
        """Return the native core's handle. TransactionEndedError."""
        if self._handle is None:
            raise TransactionEndedError
        return self._handle

    def read(self, layout: Layout, key: Key) -> Any:
        """Return the row with this key, None, or NotImplemented if that would take longer; see Layout."""
        with self._lock:
            return NotImplemented if self._handle is None else layout.read(key, self._address)

    def _end(self) -> None:
        handle, self._handle = self._handle, None
        self._database.forget(self)
        lib.exdb_txn_end(handle)
