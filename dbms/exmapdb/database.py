"""Databases: opening, tables, checkpoints, figures."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from exmapdb._core import ffi, lib
from exmapdb.backup import BackupResult, write_backup
from exmapdb.catalog import Catalog
from exmapdb.errors import (
    NO_PAGE,
    BackendUnavailableError,
    ConflictError,
    NotADatabaseError,
    StorageError,
    from_code,
)
from exmapdb.frozen import Frozen
from exmapdb.layout import Layout
from exmapdb.schema import Field
from exmapdb.snapshot import Snapshot
from exmapdb.storage import NVME, PAGE_SIZE, Backing, Flag, Storage, open_backing, parse_size
from exmapdb.table import Table
from exmapdb.transaction import Transaction
from exmapdb.workers import Worker, WorkerPool, make_channel

__all__ = ["Backend", "CheckResult", "Database", "Durability", "Stats", "open_database"]

T = TypeVar("T")

Backend = Literal["auto", "kernel", "posix"]
BACKENDS: dict[str, int] = {
    "auto": lib.EXMAP_BACKEND_AUTO,
    "kernel": lib.EXMAP_BACKEND_KERNEL,
    "posix": lib.EXMAP_BACKEND_POSIX,
}
Durability = Literal["sync", "group", "async"]
LEVELS: dict[str, int] = {"sync": lib.EXDB_SYNC, "group": lib.EXDB_GROUP, "async": lib.EXDB_ASYNC}
# seconds that a flush waits for company, or between flushes
INTERVALS = {"sync": 0.0, "group": 0.0005, "async": 0.01}
DEFAULT_MEMORY = "64MiB"
DEFAULT_CAPACITY = 1 << 30
LOG_SHARE = 16  # of the capacity
LOG_RANGE = (1 << 20, 64 << 20)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a database has done since it was opened; pages have 4096 bytes.

    hits, misses: fixes that found the page resident, or read it.  prefetched: pages read ahead of a
    scan.  evicted, eviction_batches: pages that lost their frame, and vectors of them.  tlb_flushes,
    rescues: as counted by exmap (the posix backend counts its flushes, which are not TLB flushes).
    allocated_pages: pages that there are; free_pages: of them, those that nothing uses.  commits:
    transactions; recovered: those that were replayed at open.  log_bytes: what would be replayed now;
    log_flushes: how often the log was flushed.  free_blocks: where pages may still be written.
    """

    backend: str
    hits: int
    misses: int
    prefetched: int
    pages_read: int
    pages_written: int
    evicted: int
    eviction_batches: int
    checkpoints: int
    tlb_flushes: int
    rescues: int
    pool_pages: int
    resident_pages: int
    region_pages: int
    allocated_pages: int
    free_pages: int
    commits: int
    recovered: int
    log_bytes: int
    log_flushes: int
    free_blocks: int

    @property
    def hit_rate(self) -> float:
        """Return the share of fixes that found their page resident; 1.0 if there was none."""
        fixes = self.hits + self.misses
        return self.hits / fixes if fixes else 1.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check has looked at: trees, their pages and rows, free pages, and pages on the disk."""

    trees: int
    tree_pages: int
    free_pages: int
    stored_pages: int
    rows: int


def open_database(
    path: str | os.PathLike[str],
    *,
    memory: int | str = DEFAULT_MEMORY,
    backend: Backend = "auto",
    flag: Flag = "c",
    capacity: int | str | None = None,
    workers: int = 4,
    force: bool = False,
    durability: Durability = "sync",
    flush_interval: float | None = None,
    log: int | str | None = None,
) -> Database:
    """Open the database in a file, on a block device, or on an NVMe controller.

    The latter is named by "nvme:" and its PCI address; it is bound to exmap-nvme ('exmapctl nvme take'),
    and the kernel drives its queues.

    memory: frames of the pool, in bytes (at least 128 KiB).  backend: kernel needs the module, posix
    does not, auto takes what there is.  flag: "c" makes the database if there is none, "w" does not,
    "n" always makes a new one.  capacity: bytes that the database may grow to (default: the device, or
    for a file the largest of 1 GiB, 4 times the memory and twice the file).  workers: threads that can
    work at the same time, 1 to 64.  force: overwrite something that is no database.  durability: when a
    change returns: "sync" after its own flush of the log, "group" after one that may wait for other
    threads' changes (the same promise), "async" before it: a crash may lose what was changed within the
    last flush_interval.  flush_interval: seconds; for "group" the time that a flush waits for company.
    log: bytes of the log of a new database (default: a 16th of the capacity, 1 to 64 MiB); a transaction
    may have half of them.
    A database that was not closed is recovered: all that was acknowledged is there.
    Raises the errors of storage.open_backing, CorruptPageError, CorruptLogError, TruncatedDatabaseError,
    BackendUnavailableError and other StorageErrors.
    """
    pool = parse_size(memory) // PAGE_SIZE
    if durability not in LEVELS:
        raise ValueError(f"durability is {', '.join(LEVELS)}, not {durability!r}")
    interval = INTERVALS[durability] if flush_interval is None else flush_interval
    if not 0 <= interval < 1 or (durability == "async" and not interval):
        raise ValueError("flush_interval: less than a second, and more than none for async")
    if pool < lib.EXDB_POOL_MIN or not 1 <= workers <= lib.EXDB_WORKERS_MAX:
        raise ValueError(f"at least {lib.EXDB_POOL_MIN * PAGE_SIZE >> 10}KiB of memory, 1 to 64 workers")
    if backend == "posix" and os.fspath(path).startswith(NVME):
        raise BackendUnavailableError(errno.EINVAL, "NVMe queues take the kernel backend", os.fspath(path))
    backing = open_backing(path, flag, force)
    try:
        capacity_pages = _capacity_pages(backing, pool, capacity)
        config = ffi.new(
            "struct exdb_config *",
            {
                "backing_fd": backing.fd,
                "backend": BACKENDS[backend],
                "workers": workers,
                "create": backing.create,
                "pool_pages": pool,
                "data_pages": capacity_pages,
                "backing_pages": backing.pages if backing.is_device else 0,
                "log_pages": _log_pages(log, capacity_pages),
                "level": LEVELS[durability],
                "interval": round(interval * 1e6),
            },
        )
        return Database(backing, _open_core(config, backing, backend), workers)
    except BaseException:
        os.close(backing.fd)
        raise


def _capacity_pages(backing: Backing, pool: int, capacity: int | str | None) -> int:
    if capacity is not None:
        wanted = max(parse_size(capacity) // PAGE_SIZE, pool)
        return min(wanted, backing.pages) if backing.is_device else max(wanted, backing.pages)
    if backing.is_device:
        return backing.pages
    return max(DEFAULT_CAPACITY // PAGE_SIZE, 4 * pool, 2 * backing.pages)


def _log_pages(log: int | str | None, capacity_pages: int) -> int:
    if log is None:
        low, high = LOG_RANGE
        return min(max(capacity_pages * PAGE_SIZE // LOG_SHARE, low), high) // PAGE_SIZE
    pages = parse_size(log) // PAGE_SIZE
    if pages < lib.EXDB_LOG_MIN:
        raise ValueError(f"a log has at least {lib.EXDB_LOG_MIN * PAGE_SIZE >> 10}KiB")
    return pages


def _open_core(config: Any, backing: Backing, backend: str) -> Any:
    out, page = ffi.new("struct exdb **"), ffi.new("uint64_t *")
    code = lib.exdb_open(config, out, page)
    if not code:
        return out[0]
    number, path = -code, backing.path
    if number == errno.EPROTONOSUPPORT:
        raise NotADatabaseError(number, "made by another version of exmapdb", path, 0)
    if backend == "kernel" and number in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EACCES):
        message = f"/dev/exmap: {os.strerror(number)}: load the module ('exmapctl doctor'), or use posix"
        raise BackendUnavailableError(number, message)
    if page[0] == NO_PAGE and number != errno.EILSEQ:
        raise StorageError(number, f"no region: {os.strerror(number)}: look at the kernel log", path)
    raise from_code(code, path, page[0])


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
        self._frozen: Frozen | None = None
        self._transactions: set[Transaction] = set()
        self._channel = make_channel(handle)
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
            if name not in self._tables:
                self._tables[name] = Table(self, self.load_layout(name))
            return self._tables[name]

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

        unique: two rows with the same values are refused (UniqueError), unless one of these is null.  It is
        one transaction, so its entries have to fit half the log.  Raises SchemaError, NoSuchTableError,
        UniqueError, RowTooLargeError, InvalidValueError (NaN), TransactionTooLargeError.
        """
        self.run(lambda txn: txn.create_index(table, index, columns, unique))

    def drop_index(self, table: str, index: str) -> None:
        """Drop an index, and give its pages back. NoSuchIndexError, NoSuchTableError, StorageError."""
        tree = self.run(lambda txn: txn.drop_index(table, index))
        with self.worker() as worker:
            code = lib.exdb_tree_clear(worker.handle, tree)
            if code:
                raise self.error(code, worker.error_page)

    @property
    def generation(self) -> int:
        """Return a number that grows with each change of the catalog."""
        return int(lib.exdb_schema(self._handle))

    def load_layout(self, name: str) -> Layout:
        """Read what the catalog has of a table. NoSuchTableError."""
        generation = self.generation
        return Layout(self.run(lambda txn: self.catalog.load(name, txn)), generation, self._channel)

    def find_layout(self, name: str, txn: Transaction) -> Layout:
        """Return what a transaction sees of a table. NoSuchTableError."""
        generation = self.generation
        # the native core checks, at commit, that the catalog has not changed
        if name in self._tables and self._tables[name].layout.generation == generation:
            return self._tables[name].layout
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
        that are evicted first. A database has one at a time. StorageError (EBUSY: there is one),
        PoolExhaustedError, DatabaseClosedError.
        """
        out = ffi.new("struct exdb_freeze **")
        with self._lock, self.worker() as worker:
            code = lib.exdb_freeze(worker.handle, out)
            if code == -errno.EBUSY:
                raise StorageError(errno.EBUSY, "pages are frozen already: close that first", self.path)
            if code:
                raise self.error(code, worker.error_page)
            self._frozen = Frozen(out[0], self.error)
            return self._frozen

    def snapshot(self) -> Snapshot:
        """Return all tables as they are now, for reading, while writers go on; a context manager.

        It shows what has been committed, whether that is on the disk yet or not. A database has one at a
        time, and no other freeze beside it. Raises what freeze raises.
        """
        return Snapshot(self, self.freeze())

    def backup(
        self, path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
    ) -> BackupResult:
        """Write what has been committed to a file, from a snapshot, while writers go on; see `restore`.

        base: an earlier backup: pages that are as they were then are left out.  All are read, however.
        Raises BackupError for a base that is none, and what snapshot raises.
        """
        with self.freeze() as frozen:
            return write_backup(frozen, Path(path), None if base is None else Path(base))

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
            if self._frozen is not None:
                self._frozen.close()
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

    @contextlib.contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lend a channel into the native core, waiting for one if need be. DatabaseClosedError."""
        worker = self.workers.take()
        try:
            yield worker
        finally:
            self.workers.give(worker)

    def error(self, code: int, page: int) -> StorageError:
        """Make the exception for a negative result of the native core."""
        return from_code(code, self.path, page)
