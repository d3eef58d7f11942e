"""Channels into the native core, lent to one thread at a time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from exmapdb._core import ffi, lib
from exmapdb._reader import Channel
from exmapdb.errors import DatabaseClosedError

__all__ = ["Worker", "WorkerPool", "address_of", "make_channel"]


def address_of(handle: Any) -> int:
    """Return the address that a pointer of cffi's has."""
    return int(ffi.cast("uintptr_t", handle))


@dataclass(frozen=True, slots=True)
class Worker:
    """A channel into the native core: an exmap interface and its counters; address: of the handle."""

    index: int
    handle: Any
    address: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", address_of(self.handle))

    @property
    def error_page(self) -> int:
        """Return the page that the last failure was about."""
        return int(lib.exdb_error_page(self.handle))

    @property
    def error_index(self) -> int:
        """Return the number of the index that the last failure was about."""
        return int(lib.exdb_error_index(self.handle))


def make_channel(handle: Any) -> Channel:
    """Make the channel of a database whose holder is whoever has the GIL; it only sees resident pages."""
    get = address_of(ffi.addressof(lib, "exdb_table_get"))
    return Channel(get, address_of(lib.exdb_resident_worker(handle)))


class WorkerPool:
    """The idle workers, the last one used on top: its interface's frame cache is warm."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._size = len(workers)
        self._idle = list(workers)
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False

    def take(self) -> Worker:
        """Take a worker, waiting for one if need be. DatabaseClosedError."""
        if not self._closed:
            try:
                # list.pop and list.append are atomic: most calls take no lock
                return self._idle.pop()
            except IndexError:
                pass
        return self._wait()

    def give(self, worker: Worker) -> None:
        """Give a worker back."""
        self._idle.append(worker)
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def close(self) -> Worker:
        """Turn everybody away, wait until all workers are back, and return one of them."""
        with self._changed:
            self._closed = True
            self._waiting += 1
            self._changed.notify_all()
            # all of them are taken, so that nobody can slip in behind the flag
            taken = [self._pop_or_wait() for _ in range(self._size)]
            return taken[0]

    def _wait(self) -> Worker:
        with self._changed:
            self._waiting += 1
            try:
                while not self._closed:
                    try:
                        return self._idle.pop()
                    except IndexError:
                        # who gives one back after this look sees that we wait
                        self._changed.wait()
            finally:
                self._waiting -= 1
        raise DatabaseClosedError

    def _pop_or_wait(self) -> Worker:
        while True:
            try:
                return self._idle.pop()
            except IndexError:
                self._changed.wait()
