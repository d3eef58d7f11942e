"""The owner of an open struct exmap or exmap_snapshot."""

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libexmap._ffi import ffi
from libexmap.errors import ExmapError

__all__ = ["Handle"]


class Handle:
    """Keeps an object of the C library while calls run in it or arrays show its memory.

    close() refuses further calls at once, with the given error; the object itself
    goes, by destroy, when the last call has returned and the last array is gone.
    """

    def __init__(self, pointer: Any, destroy: Callable[[Any], None], closed: type[ExmapError]) -> None:
        self._pointer = pointer
        self._destroy = destroy
        self._closed_error = closed
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
            self._destroy(self._pointer)

    def hold(self) -> None:
        """Keep the object until release() is called as often; raises the error after close()."""
        with self._lock:
            if self._closed:
                raise self._closed_error(errno.EBADF, "closed")
            self._users += 1

    def release(self) -> None:
        """Undo one hold()."""
        with self._lock:
            self._users -= 1
            last = self._closed and self._users == 0
        if last:
            self._destroy(self._pointer)

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        """Yield the pointer, which stays valid meanwhile.

        :raises RegionClosed, SnapshotClosed, QueueClosed: after close().
        """
        self.hold()
        try:
            yield self._pointer
        finally:
            self.release()

    def array(self, address: Any, count: int, dtype: type, *, writable: bool) -> NDArray[Any]:
        """Return a numpy view of memory of the object, which keeps the object."""
        self.hold()
        owner = ffi.gc(ffi.cast("char *", address), lambda _: self.release())
        memory = memoryview(ffi.buffer(owner, count * np.dtype(dtype).itemsize))
        return np.frombuffer(memory if writable else memory.toreadonly(), dtype=dtype)
