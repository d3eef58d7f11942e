"""Databases: tables, transactions, snapshots, checkpoints, figures."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from exmapdb._core import ffi, lib
from exmapdb.backup import BackupResult, Kept, write_backup
from exmapdb.buffers import BufferPool
from exmapdb.catalog import Catalog
from exmapdb.errors import (
    ConflictError,
    DatabaseClosedError,
    NoSuchTableError,
    StorageError,
    from_code,
)
from exmapdb.frozen import Frozen
from exmapdb.indexing import build_index, has_leftover
from exmapdb.layout import Layout
from exmapdb.schema import Field
from exmapdb.snapshot import Snapshot
from exmapdb.stats import CheckResult, Stats
from exmapdb.storage import PAGE_SIZE, Backing, Storage
from exmapdb.table import Table
from exmapdb.transaction import Transaction
from exmapdb.workers import Loan, Session, Worker, WorkerPool, make_channel

__all__ = ["BACKENDS", "Backend", "CheckResult", "Database", "Stats"]

T = TypeVar("T")

Backend = Literal["auto", "kernel", "posix"]
BACKENDS: dict[str, int] = {
    "auto": lib.EXMAP_BACKEND_AUTO,
    "kernel": lib.EXMAP_BACKEND_KERNEL,
    "posix": lib.EXMAP_BACKEND_POSIX,
}


class Database:
    """An open database; a context manager that closes it. Made by `exmapdb.open`.

    What a call has changed is in the log, and on the disk as far as `durability` says, when it returns;
    after a crash the next open recovers it.
    """

    def __init__(self, backing: Backing, handle: Any, workers: int) -> None:
        self._backing = backing
        self._handle = handle
        self._closed = False
        self.workers = WorkerPool([Worker(i, lib.exdb_worker_at(handle, i)) for i in range(workers)])
        self._lock = threading.RLock()
        self._tables: dict[str, Table] = {}
        self._frozen: set[Frozen] = set()
        self._shared: Frozen | None = None
        self._kept: Kept | None = None
        self._transactions: set[Transaction] = set()
        self._indexing = threading.Lock()
        self._channel = make_channel(handle)
        self.scan_buffers = BufferPool()
        self.catalog = Catalog(self)

    @property
    def path(self) -> str:
        """Return the path of the file or device."""
        return self._backing.path

    @property
    def storage(self) -> Storage:
        """Return the way that pages take to and from the disk."""
        return self._backing.storage

    @property
    def closed(self) -> bool:
        """Return whether the database has been closed."""
        return self._closed

    def __repr__(self) -> str:
        return f"<Database {self.path!r}{' (closed)' if self.closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError:
            # the error that ended the block says more
            if error is None:
                raise

    def __contains__(self, name: str) -> bool:
        return name in self.tables()

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        return self.catalog.names()

    def create_table(
        self, name: str, schema: dict[str, str] | list[Field], key: str | tuple[str, ...]
    ) -> Table:
        """Make a table; see Schema.of for the schema. SchemaError, TableExistsError, StorageError."""
        self.run(lambda txn: txn.create_table(name, schema, key))
        return self.table(name)

    def table(self, name: str) -> Table:
        """Return a table. NoSuchTableError."""
        with self._lock:
            known = self._tables.get(name)
            if known is None:
                known = self._tables[name] = Table(self, self.load_layout(name))
            try:
                known.refresh()
            except NoSuchTableError:
                del self._tables[name]
                raise
            return known

    def drop_table(self, name: str) -> None:
        """Drop a table with its indexes, and give its pages back; transactions under way conflict.

        Snapshots that are older still have it. Whoever holds the table gets NoSuchTableError, or the new one
        if another is made under its name.  Its pages are given back in parts, without reading its rows; what
        a crash leaves of them is given back by the next opening, or the next drop.
        NoSuchTableError, StorageError.
        """
        self.run(lambda txn: txn.drop_table(name))

    def rename_table(self, name: str, new: str) -> None:
        """Give a table another name; whoever holds it under the old one gets NoSuchTableError.

        Raises what add_column raises, and TableExistsError.
        """
        self.run(lambda txn: txn.rename_table(name, new))

    def rename_column(self, table: str, column: str, new: str) -> None:
        """Give a column another name, in the key and the indexes too. Raises what add_column raises."""
        self.run(lambda txn: txn.rename_column(table, column, new))

    def free_dropped(self) -> None:
        """Give back the pages of what was dropped.

        What cannot be given back now, since a page cannot be read or the database was closed, waits for the
        next call or opening.
        """
        with contextlib.suppress(DatabaseClosedError), self.worker() as worker:
            lib.exdb_trees_free(worker.handle)

    def add_column(self, table: str, column: str, kind: str) -> None:
        """Add a column, as `int32?`, which is null in the rows that there are; none of them is written.

        Transactions that are under way conflict. SchemaError, NoSuchTableError, StorageError.
        """
        self.run(lambda txn: txn.add_column(table, column, kind))

    def drop_column(self, table: str, column: str) -> None:
        """Drop a column that is not in the key or an index; rows keep the space until they are written again.

        Raises what add_column raises.
        """
        self.run(lambda txn: txn.drop_column(table, column))

    def create_index(
        self, table: str, index: str, columns: str | tuple[str, ...], unique: bool = False
    ) -> None:
        """Make an index on columns of a table, for Table.find and Table.scan; changes of rows keep it.

        unique: two rows with the same values are refused (UniqueError), unless one of these is null.  The
        rows that there are get their entries in several transactions, beside which writers go on; nobody sees
        the index before it has all of them, and after an error there is none.  Raises SchemaError,
        NoSuchTableError, UniqueError, RowTooLargeError, InvalidValueError (NaN), StorageError.
        """
        names = (columns,) if isinstance(columns, str) else columns
        with self._indexing:
            if has_leftover(self, table, index):
                self.drop_index(table, index)
            build_index(self, table, index, names, unique, lib.exdb_index_rows(self._handle))

    def drop_index(self, table: str, index: str) -> None:
        """Drop an index, and give its pages back as drop_table does.

        NoSuchIndexError, NoSuchTableError, StorageError.
        """
        self.run(lambda txn: txn.drop_index(table, index))

    @property
    def generation(self) -> int:
        """Return a number that grows with each change of the catalog."""
        return int(lib.exdb_schema(self._handle))

    def load_layout(self, name: str) -> Layout:
        """Read what the catalog has of a table. NoSuchTableError."""
        while True:
            generation = self.generation
            info = self.run(lambda txn: self.catalog.load(name, txn))
            if generation == self.generation:
                return Layout(info, generation, self._channel)

    def known_layout(self, name: str, generation: int) -> Layout | None:
        """Return what the catalog had of a table when it had this number, if that is known."""
        table = self._tables.get(name)
        return table.layout if table and table.layout.generation == generation else None

    def find_layout(self, name: str, txn: Transaction) -> Layout:
        """Return what a transaction sees of a table. NoSuchTableError."""
        generation = self.generation
        # none if it is the transaction's own
        with contextlib.suppress(NoSuchTableError):
            table = self.table(name)
            # the native core checks, at commit, that the catalog has not changed
            if table.layout.generation == generation:
                return table.layout
        return Layout(self.catalog.load(name, txn), generation, self._channel)

    def begin(self) -> Transaction:
        """Begin a transaction of several calls. DatabaseClosedError."""
        out = ffi.new("struct exdb_txn **")
        with self.worker() as worker:
            code = lib.exdb_txn_begin(worker.handle, out)
            if code:
                raise self.error(code, 0)
            txn = Transaction(self, out[0])
            self._transactions.add(txn)
            return txn

    def run(self, work: Callable[[Transaction], T], attempts: int = 100) -> T:
        """Call `work` with a new transaction, commit it, and return what `work` did.

        After a conflict all is done again, so `work` should do nothing else that lasts; so it is if `work`
        raises an error after reading what does not hold any more.  Each conflict means that another
        transaction has committed.  Raises ConflictError after so many attempts, and what `work` raises.
        """
        for attempt in range(attempts):
            if attempt:
                # the more have met, the longer they part
                time.sleep(random.random() * min(0.0001 * 2**attempt, 0.05))
            txn = self.begin()
            try:
                result = work(txn)
                if txn.active:
                    txn.commit()
                return result
            except ConflictError:
                continue
            except Exception:
                if not txn.active or txn.is_current():
                    raise
            finally:
                txn.rollback()
        raise ConflictError

    def forget(self, txn: Transaction) -> None:
        """Note that a transaction has ended."""
        self._transactions.discard(txn)

    def checkpoint(self) -> None:
        """Write all changed pages, so that there is less to replay after a crash.

        Changes go on meanwhile. The database does it by itself when the log is half full. StorageError.
        """
        with self.worker() as worker:
            code = lib.exdb_checkpoint(worker.handle)
            if code:
                raise self.error(code, worker.error_page)

    def freeze(self) -> Frozen:
        """Keep the resident pages as they are now, while writers go on; a context manager.

        No table changes at that moment. Until it is closed it holds half the pool; pages beyond
        that are evicted first. There may be several, of which later ones leave less of the pool.
        StorageError (EBUSY: too little of it would be left), PoolExhaustedError, DatabaseClosedError.
        """
        out = ffi.new("struct exdb_freeze **")
        with self._lock, self.worker() as worker:
            code = lib.exdb_freeze(worker.handle, out)
            if code == -errno.EBUSY and self._let_go():
                code = lib.exdb_freeze(worker.handle, out)
            if code == -errno.EBUSY:
                message = "snapshots hold so much of the memory that another one finds no room: close some"
                raise StorageError(errno.EBUSY, message, self.path)
            if code:
                raise self.error(code, worker.error_page)
            frozen = Frozen(out[0], self.error)
            self._frozen = {*(each for each in self._frozen if not each.closed), frozen}
            return frozen

    def snapshot(self, max_age: float = 0, background: bool = False) -> Snapshot:
        """Return all tables as they are now, for reading, while writers go on; a context manager.

        It shows what has been committed, whether that is on the disk yet or not. There may be several, as old
        as they like; readers of different ones do not wait for each other.  max_age: seconds; the newest one
        that was made with a max_age is shared if it is not older, and costs nothing then. Who shares one
        takes turns.  background: scans take only what processors nobody else wants.
        Raises what freeze raises, and ValueError.
        """
        if max_age < 0:
            raise ValueError("max_age: seconds, not less than 0")
        with self._lock:
            if not max_age:
                return Snapshot(self, self.freeze(), background)
            if self._shared is None or not self._shared.share(max_age):
                self._shared = self.freeze()
            return Snapshot(self, self._shared, background)

    def backup(
        self,
        path: str | os.PathLike[str],
        base: str | os.PathLike[str] | None = None,
        keep: bool = False,
    ) -> BackupResult:
        """Write what has been committed to a file, from a snapshot, while writers go on; see `restore`.

        base: an earlier backup: pages that are as they were then are left out.  keep: make a checkpoint
        first, and hold on to the snapshot, so that the next backup, if this one is its base, reads only pages
        that may have changed since, and not all.  It costs what a snapshot costs, and is let go of by the
        next backup, by close, and if another snapshot finds no room.
        Raises BackupError for a base that is none, and what snapshot and checkpoint raise.
        """
        if keep:
            # pages that are written later have moved, and would be taken for changed
            self.checkpoint()
        frozen = self.freeze()
        try:
            done, kept = write_backup(frozen, Path(path), None if base is None else Path(base), self._kept)
        except BaseException:
            frozen.close()
            raise
        with self._lock:
            self._let_go()
            if keep and not frozen.closed:
                self._kept = kept
            else:
                frozen.close()
        return done

    def _let_go(self) -> bool:
        """Close what a backup has kept, if there is something."""
        kept, self._kept = self._kept, None
        if kept is None:
            return False
        kept.frozen.close()
        return True

    def close(self) -> None:
        """Checkpoint, wait for other threads' calls, and give everything back; again does nothing.

        StorageError if the checkpoint failed; the database is closed all the same.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._channel.close()
            worker = self.workers.close()
            for frozen in list(self._frozen):
                frozen.end()
            for txn in list(self._transactions):
                txn.rollback()
            code = lib.exdb_shutdown(worker.handle)
            page = worker.error_page
            lib.exdb_close(self._handle)
            os.close(self._backing.fd)
        if code:
            raise self.error(code, page)

    def stats(self) -> Stats:
        """Return what has happened so far. StorageError."""
        raw = ffi.new("struct exdb_stats *")
        with self.worker():
            code = lib.exdb_stats(self._handle, raw)
        if code:
            raise self.error(code, 0)
        names = {number: name for name, number in BACKENDS.items()}
        fields = (name for name in Stats.__dataclass_fields__ if name != "backend")
        return Stats(names[raw.backend], **{name: getattr(raw, name) for name in fields})

    def check(self) -> CheckResult:
        """Check every page of every tree, the free list, and what the disk has; writers wait.

        Raises CorruptPageError or TruncatedDatabaseError with the first page that is wrong, StorageError.
        """
        raw = ffi.new("struct exdb_check *")
        with self.worker() as worker:
            code = lib.exdb_check(worker.handle, raw)
            if code:
                raise self.error(code, worker.error_page)
        return CheckResult(*(getattr(raw, name) for name in CheckResult.__dataclass_fields__))

    def stored_page(self, number: int) -> bytes:
        """Return a page as it was written last; for looking at while nothing changes.

        KeyError if it never was, StorageError.
        """
        out = ffi.new("char[]", PAGE_SIZE)
        with self.worker() as worker:
            code = lib.exdb_stored_page(worker.handle, number, out)
            if code == -errno.ENOENT:
                raise KeyError(f"page {number} was never written")
            if code:
                raise self.error(code, worker.error_page)
        return bytes(ffi.buffer(out))

    @property
    def failure(self) -> StorageError | None:
        """Return the error that has made the database read-only, or None."""
        page = ffi.new("uint64_t *")
        with self.worker():
            code = lib.exdb_failure(self._handle, page)
        return self.error(code, page[0]) if code else None

    def worker(self) -> contextlib.AbstractContextManager[Worker]:
        """Lend a channel into the native core, waiting for one if need be. DatabaseClosedError."""
        return Loan(self.workers)

    def session(self) -> contextlib.AbstractContextManager[tuple[Worker, Any]]:
        """Lend a channel into the native core, and NULL: there is no transaction. DatabaseClosedError."""
        return Session(self.workers)

    def error(self, code: int, page: int) -> StorageError:
        """Make the exception for a negative result of the native core."""
        return from_code(code, self.path, page)
