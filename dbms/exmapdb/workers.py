"""Channels into the native core, lent to one thread at a time."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from exmapdb._core import ffi, lib
from exmapdb._reader import Channel
from exmapdb.errors import DatabaseClosedError

__all__ = ["Loan", "Session", "Worker", "WorkerPool", "address_of", "make_channel"]


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


class Loan:
    """A worker on loan; a class since a generator takes longer than many a call of the native core."""

    __slots__ = ("_pool", "_worker")

    def __init__(self, pool: "WorkerPool") -> None:
        self._pool = pool

    def __enter__(self) -> Worker:
        self._worker = self._pool.take()
        return self._worker

    def __exit__(self, *_: object) -> None:
        self._pool.give(self._worker)


class Session:
    """A worker on loan, and NULL for a transaction: what most calls of a table begin with."""

    __slots__ = ("_loan",)

    def __init__(self, pool: "WorkerPool") -> None:
        self._loan = Loan(pool)

    def __enter__(self) -> tuple[Worker, Any]:
        return self._loan.__enter__(), ffi.NULL

    def __exit__(self, *_: object) -> None:
        self._loan.__exit__()


class Waiter:
    """A thread that waits for a worker: `ready` is let go of once it has one, or is turned away."""

    __slots__ = ("ready", "worker")

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.ready = threading.Lock()
        self.ready.acquire()


class WorkerPool:
    """The idle workers, the last one used on top: its interface's frame cache is warm.

    Who waits is served before those who come later, the one that gave the worker back among them: it
    would nearly always be the first to ask again.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._size = len(workers)
        self._idle = list(workers)
        self._changed = threading.Condition()
        self._waiters: deque[Waiter] = deque()
        self._closed = False

    def take(self) -> Worker:
        """Take a worker, waiting for one if need be. DatabaseClosedError."""
        if not self._waiters and not self._closed:
            try:
                # list.pop and list.append are atomic: most calls take no lock
                return self._idle.pop()
            except IndexError:
                pass
        return self._wait()

    def give(self, worker: Worker) -> None:
        """Give a worker back."""
        self._idle.append(worker)
        # who comes to wait after this look finds it
        if self._waiters or self._closed:
            with self._changed:
                self._hand_over()
                self._changed.notify_all()

    def close(self) -> Worker:
        """Turn everybody away, wait until all workers are back, and return one of them."""
        with self._changed:
            self._closed = True
            while self._waiters:
                self._waiters.popleft().ready.release()
            # all of them are taken, so that nobody can slip in behind the flag
            taken: list[Worker] = []
            while len(taken) < self._size:
                try:
                    taken.append(self._idle.pop())
                except IndexError:
                    self._changed.wait()
            return taken[0]

    def _hand_over(self) -> None:
        while self._waiters and self._idle:
            try:
                worker = self._idle.pop()
            except IndexError:
                return
            waiter = self._waiters.popleft()
            waiter.worker = worker
            waiter.ready.release()

    def _wait(self) -> Worker:
        waiter = Waiter()
        with self._changed:
            if self._closed:
                raise DatabaseClosedError
            self._waiters.append(waiter)
            self._hand_over()
        try:
            waiter.ready.acquire()
        except BaseException:
            self._forget(waiter)
            raise
        if waiter.worker is None:
            raise DatabaseClosedError
        return waiter.worker

    def _forget(self, waiter: Waiter) -> None:
        with self._changed:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        if waiter.worker is not None:
            self.give(waiter.worker)
