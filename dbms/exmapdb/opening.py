"""Opening a database."""

from __future__ import annotations

import errno
import os
from typing import Any, Literal

from exmapdb._core import ffi, lib
from exmapdb.database import BACKENDS, Backend, Database
from exmapdb.errors import NO_PAGE, BackendUnavailableError, NotADatabaseError, StorageError, from_code
from exmapdb.storage import (
    NVME,
    PAGE_SIZE,
    Backing,
    Flag,
    capacity_pages,
    log_pages,
    open_backing,
    parse_size,
)

__all__ = ["WORKERS", "Durability", "open_database"]

Durability = Literal["sync", "group", "async"]
LEVELS: dict[str, int] = {"sync": lib.EXDB_SYNC, "group": lib.EXDB_GROUP, "async": lib.EXDB_ASYNC}
# seconds that a flush waits for company, or between flushes
INTERVALS = {"sync": 0.0, "group": 0.0005, "async": 0.01}
DEFAULT_MEMORY = "64MiB"
WORKERS = 4


def open_database(
    path: str | os.PathLike[str],
    *,
    memory: int | str = DEFAULT_MEMORY,
    backend: Backend = "auto",
    flag: Flag = "c",
    capacity: int | str | None = None,
    workers: int = WORKERS,
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
    last flush_interval.  flush_interval: seconds; for "group" the most that a flush waits for company.
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
        size = capacity_pages(backing, pool, capacity)
        config = ffi.new(
            "struct exdb_config *",
            {
                "backing_fd": backing.fd,
                "backend": BACKENDS[backend],
                "workers": workers,
                "create": backing.create,
                "pool_pages": pool,
                "data_pages": size,
                "backing_pages": backing.pages if backing.is_device else 0,
                "log_pages": log_pages(log, size),
                "level": LEVELS[durability],
                "interval": round(interval * 1e6),
            },
        )
        return Database(backing, _open_core(config, backing, backend), workers)
    except BaseException:
        os.close(backing.fd)
        raise


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
