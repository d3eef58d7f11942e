"""Databases: opening, tables, checkpoints, figures."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from exmapdb._core import ffi, lib
from exmapdb.catalog import Catalog
from exmapdb.errors import (
    BackendUnavailableError,
    NotADatabaseError,
    StorageError,
    UncleanShutdownError,
    from_code,
)
from exmapdb.frozen import Frozen
from exmapdb.schema import Field, Schema
from exmapdb.storage import PAGE_SIZE, Backing, Flag, open_backing
from exmapdb.table import Table, make_layout
from exmapdb.workers import Worker, WorkerPool

__all__ = ["Backend", "Database", "Stats", "open_database", "parse_size"]

Backend = Literal["auto", "kernel", "posix"]
BACKENDS: dict[str, int] = {
    "auto": lib.EXMAP_BACKEND_AUTO,
    "kernel": lib.EXMAP_BACKEND_KERNEL,
    "posix": lib.EXMAP_BACKEND_POSIX,
}
UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
NO_PAGE = 2**64 - 1
DEFAULT_MEMORY = "64MiB"
DEFAULT_CAPACITY = 1 << 30


@dataclass(frozen=True, slots=True)
class Stats:
    """What a database has done since it was opened; pages have 4096 bytes.

    hits, misses: fixes that found the page resident, or read it.  prefetched: pages read ahead of a
    scan.  evicted, eviction_batches: pages that lost their frame, and vectors of them.  tlb_flushes,
    rescues: as counted by exmap (the posix backend counts its flushes, which are not TLB flushes).
    allocated_pages: the file's length; free_pages: of them, those that nothing uses.
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

    @property
    def hit_rate(self) -> float:
        """Return the share of fixes that found their page resident; 1.0 if there was none."""
        fixes = self.hits + self.misses
        return self.hits / fixes if fixes else 1.0


def parse_size(size: int | str) -> int:
    """Return the bytes of 4096, "4096", "64MiB" or "1 GiB". ValueError."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]iB)?\s*", size, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{size!r} is no size: write it as 64MiB")
    return int(match[1]) * UNITS[(match[2] or "").upper()]


def open_database(
    path: str | os.PathLike[str],
    *,
    memory: int | str = DEFAULT_MEMORY,
    backend: Backend = "auto",
    flag: Flag = "c",
    capacity: int | str | None = None,
    workers: int = 4,
    force: bool = False,
) -> Database:
    """Open the database in a file or on a block device.

    memory: frames of the pool, in bytes (at least 128 KiB).  backend: kernel needs the module, posix
    does not, auto takes what there is.  flag: "c" makes the database if there is none, "w" does not,
    "n" always makes a new one.  capacity: bytes that the database may grow to (default: the device, or
    for a file the largest of 1 GiB, 4 times the memory and twice the file).  workers: threads that can
    work at the same time, 1 to 64.  force: overwrite something that is no database.
    Raises the errors of storage.open_backing, UncleanShutdownError, CorruptPageError,
    BackendUnavailableError and other StorageErrors.
    """
    pool = parse_size(memory) // PAGE_SIZE
    if pool < lib.EXDB_POOL_MIN or not 1 <= workers <= lib.EXDB_WORKERS_MAX:
        raise ValueError(f"at least {lib.EXDB_POOL_MIN * PAGE_SIZE >> 10}KiB of memory, 1 to 64 workers")
    backing = open_backing(path, flag, force)
    try:
        config = ffi.new(
            "struct exdb_config *",
            {
                "backing_fd": backing.fd,
                "backend": BACKENDS[backend],
                "workers": workers,
                "create": backing.create,
                "pool_pages": pool,
                "region_pages": _region_pages(backing, pool, capacity),
            },
        )
        return Database(backing, _open_core(config, backing, backend), workers)
    except BaseException:
        os.close(backing.fd)
        raise


def _region_pages(backing: Backing, pool: int, capacity: int | str | None) -> int:
    if capacity is not None:
        wanted = max(parse_size(capacity) // PAGE_SIZE, pool)
        return min(wanted, backing.pages) if backing.is_device else max(wanted, backing.pages)
    if backing.is_device:
        return backing.pages
    return max(DEFAULT_CAPACITY // PAGE_SIZE, 4 * pool, 2 * backing.pages)


def _open_core(config: Any, backing: Backing, backend: str) -> Any:
    out, page = ffi.new("struct exdb **"), ffi.new("uint64_t *")
    code = lib.exdb_open(config, out, page)
    if not code:
        return out[0]
    number, path = -code, backing.path
    if number == errno.EUCLEAN and not page[0]:
        message = "the database was not closed, and there is no log to repair it: load it again"
        raise UncleanShutdownError(number, message, path, 0)
    if number == errno.EPROTONOSUPPORT:
        raise NotADatabaseError(number, "made by another version of exmapdb", path, 0)
    if backend == "kernel" and number in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EACCES):
        message = f"/dev/exmap: {os.strerror(number)}: load the module ('exmapctl doctor'), or use posix"
        raise BackendUnavailableError(number, message)
    if page[0] == NO_PAGE:
        raise StorageError(number, f"no region: {os.strerror(number)}: look at the kernel log", path)
    raise from_code(code, path, page[0])


class Database:
    """An open database; a context manager that closes it. Made by `exmapdb.open`.

    There is no write-ahead log: what `checkpoint` and `close` have written is safe until the next
    change; a crash after a change makes the database unusable, and open says so.
    """

    def __init__(self, backing: Backing, handle: Any, workers: int) -> None:
        self._backing = backing
        self._handle = handle
        self._closed = False
        self._workers = WorkerPool([Worker(i, lib.exdb_worker_at(handle, i)) for i in range(workers)])
        self._lock = threading.RLock()
        self._tables: dict[str, Table] = {}
        self._frozen: Frozen | None = None
        self._catalog = Catalog(self)

    @property
    def path(self) -> str:
        """Return the path of the file or device."""
        return self._backing.path

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
        self.close()

    def __contains__(self, name: str) -> bool:
        return name in self.tables()

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        return self._catalog.names()

    def create_table(
        self, name: str, schema: dict[str, str] | list[Field], key: str | tuple[str, ...]
    ) -> Table:
        """Make a table; see Schema.of for the schema. SchemaError, TableExistsError, StorageError."""
        checked = Schema.of(schema, key)
        make_layout(checked)
        with self._lock:
            root = self._catalog.create(name, checked)
            self._tables[name] = table = Table(self, name, checked, root)
            return table

    def table(self, name: str) -> Table:
        """Return a table. NoSuchTableError."""
        with self._lock:
            if name not in self._tables:
                schema, root = self._catalog.load(name)
                self._tables[name] = Table(self, name, schema, root)
            return self._tables[name]

    def checkpoint(self) -> None:
        """Write all changed pages, and wait until they are on the disk (fdatasync). StorageError."""
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

    def close(self) -> None:
        """Checkpoint, wait for other threads' calls, and give everything back; again does nothing.

        StorageError if the checkpoint failed; the database is closed all the same.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            worker = self._workers.close()
            if self._frozen is not None:
                self._frozen.close()
            code = lib.exdb_checkpoint(worker.handle)
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

    @contextlib.contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lend a channel into the native core, waiting for one if need be. DatabaseClosedError."""
        worker = self._workers.take()
        try:
            yield worker
        finally:
            self._workers.give(worker)

    def error(self, code: int, page: int) -> StorageError:
        """Make the exception for a negative result of the native core."""
        return from_code(code, self.path, page)
