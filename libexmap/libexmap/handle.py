"""The owner of an open struct exmap."""

import contextlib
import errno
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libexmap._ffi import ffi, lib
from libexmap.errors import RegionClosed

__all__ = ["Handle"]


class Handle:
    """Keeps the memory of a region while calls run in it or arrays show it.

    close() refuses further calls at once; the region itself goes when the last
    call has returned and the last array is gone.
    """

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        with self._lock:
            last = not self._closed and self._users == 0
            self._closed = True
        if last:
            lib.exmap_close(self._pointer)

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise RegionClosed(errno.EBADF, "region")
            self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and self._users == 0
        if last:
            lib.exmap_close(self._pointer)

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        """Yield the pointer, which stays valid meanwhile.

        :raises RegionClosed: after close().
        """
        self._enter()
        try:
            yield self._pointer
        finally:
            self._leave()

    def array(self, address: Any, count: int, dtype: type, *, writable: bool) -> NDArray[Any]:
        """Return a numpy view of memory of the region, which keeps the region."""
        self._enter()
        owner = ffi.gc(ffi.cast("char *", address), lambda _: self._leave())
        size = count * np.dtype(dtype).itemsize
        array: NDArray[Any] = np.frombuffer(ffi.buffer(owner, size), dtype=dtype)
        array.flags.writeable = writable
        return array
