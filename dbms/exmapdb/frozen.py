"""The pages of a database as they were at one moment."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from exmapdb._core import ffi, lib
from exmapdb.errors import StorageError
from exmapdb.workers import Worker

__all__ = ["FreezeStats", "Frozen"]

READER = -1  # no number of a worker that is lent


@dataclass(frozen=True, slots=True)
class FreezeStats:
    """What a freeze has cost so far.

    pages: resident at that moment, of `count` that there were, page 0 included.  copied: frames copied for
    it, those of the page map included; the posix backend copies all at once, the kernel those that writers
    change.  microseconds: that taking the snapshot took.  free_page, nr_free: the first page of the free
    list, and how many it has.
    """

    pages: int
    copied: int
    microseconds: float
    count: int
    free_page: int
    nr_free: int


class Frozen:
    """Pages as they were; a context manager that lets go of them. Made by Database.freeze.

    Any thread may read. Close it soon: it holds half the pool.  schema: the number that the catalog had.
    """

    def __init__(self, handle: Any, error: Callable[[int, int], StorageError]) -> None:
        self._handle = handle
        self._error = error
        self._lock = threading.Lock()
        self._users = 1
        self._made = time.monotonic()
        self.schema = int(lib.exdb_freeze_schema(handle))
        self._pages = np.empty(self.stats().pages, np.uint64)
        lib.exdb_freeze_pages(handle, ffi.from_buffer("uint64_t[]", self._pages))
        self._pages.flags.writeable = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Return whether it has been closed, by itself or with its database."""
        return self._handle is None

    @property
    def pages(self) -> NDArray[np.uint64]:
        """Return the numbers of the pages that were resident, ascending; read-only."""
        return self._pages

    def page(self, number: int) -> bytes:
        """Return a copy of a page's 4096 bytes.

        KeyError if it was not resident, ValueError after close, StorageError.
        """
        out = ffi.new("char[]", lib.EXDB_PAGE_SIZE)
        with self._lock:
            code = lib.exdb_freeze_read(self._open(), number, out)
        if code == -errno.ENOENT:
            raise KeyError(f"page {number} was not resident")
        if code:
            raise self._error(code, number)
        return bytes(ffi.buffer(out))

    def load(self, first: int, count: int, out: memoryview) -> bytes:
        """Read pages from `first` on, resident or not, their checksums as 0; `out` is aligned to a page.

        Raises StorageError, and ValueError after close.
        """
        with self._lock:
            handle = self._open()
            kinds = bytearray(count)
            raw = ffi.from_buffer("uint8_t[]", kinds)
            code = lib.exdb_freeze_load(handle, first, count, ffi.from_buffer("char[]", out), raw)
            if code:
                raise self._error(code, lib.exdb_error_page(lib.exdb_freeze_worker(handle)))
            return bytes(kinds)

    def diverged(self, since: Frozen) -> NDArray[np.bool_] | None:
        """Return which pages may have changed since an older freeze; None if that cannot be told any more.

        Raises StorageError, and ValueError after close.
        """
        bits = np.zeros((self.stats().count + 7) // 8, np.uint8)
        with self._lock, since._lock:
            if since._handle is None:
                return None
            code = lib.exdb_freeze_diverged(self._open(), since._handle, ffi.from_buffer("uint8_t[]", bits))
        if code == -errno.ENODATA:
            return None
        if code:
            raise self._error(code, 0)
        return np.unpackbits(bits, bitorder="little").astype(np.bool_)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Worker]:
        """Lend the channel that sees the tables as they were. ValueError after close."""
        with self._lock:
            yield Worker(READER, lib.exdb_freeze_worker(self._open()))

    def stats(self) -> FreezeStats:
        """Return what it has cost so far. ValueError after close, StorageError."""
        raw = ffi.new("struct exdb_freeze_stats *")
        with self._lock:
            code = lib.exdb_freeze_stats(self._open(), raw)
        if code:
            raise self._error(code, 0)
        return FreezeStats(
            raw.pages, raw.copied, raw.nanoseconds / 1000, raw.count, raw.free_page, raw.nr_free
        )

    def share(self, max_age: float) -> bool:
        """Count one more user, if it is not older than so many seconds and not closed."""
        with self._lock:
            fresh = self._handle is not None and time.monotonic() - self._made <= max_age
            self._users += fresh
            return fresh

    def close(self) -> None:
        """Give the frames back if nobody else uses them; again does nothing."""
        with self._lock:
            self._users -= 1
        if self._users <= 0:
            self.end()

    def end(self) -> None:
        """Give the frames back, whoever uses them; again does nothing."""
        with self._lock:
            if self._handle is not None:
                lib.exdb_thaw(self._handle)
            self._handle = None

    def _open(self) -> Any:
        if self._handle is None:
            raise ValueError("the frozen pages are closed")
        return self._handle
