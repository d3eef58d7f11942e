"""An NVMe queue: pages of a region from and to blocks of a device, without system calls."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from libexmap._ffi import ffi, lib
from libexmap.errors import (
    InvalidArgument,
    NoController,
    QueueClosed,
    QueueDead,
    no_overflow,
    queue_error_of,
)
from libexmap.handle import Handle
from libexmap.interface import Pages, _vector
from libexmap.types import Results

__all__ = ["NvmeQueue", "nvme_backing"]

_OPCODES = {"read": lib.EXMAP_NVME_READ, "write": lib.EXMAP_NVME_WRITE}
_RESULT = np.dtype([("tag", np.uint64), ("status", np.uint32), ("reserved", np.uint32)])
_FOREVER = 2**62


def _nanoseconds(timeout: float) -> int:
    return min(int(timeout * 1e9), _FOREVER)


def _data(array: NDArray[Any], kind: str) -> Any:
    return ffi.cast(kind, array.ctypes.data)


def nvme_backing(address: str, *, exclusive: bool = False) -> int:
    """Return a descriptor of an NVMe controller that the kernel drives; close it with os.close().

    Several processes may have one, unless it is exclusive. It is a backing for
    Region.open(), and works with os.pread, os.pwrite and os.fsync like a block device
    that was opened with O_DIRECT.

    :raises NoController: the controller is not bound to exmap-nvme.
    :raises QueueBusy: a region owns it, or there is an exclusive descriptor.
    :raises InvalidArgument: that is no PCI address.
    """
    fd = lib.exmap_nvme_backing(address.encode(), lib.EXMAP_NVME_EXCLUSIVE if exclusive else 0)
    if fd == -errno.ENODEV:
        raise NoController(errno.ENODEV, f"nvme {address}")
    if fd in (-errno.EBUSY, -errno.EINVAL):
        raise queue_error_of(-fd, f"nvme {address}")
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), f"nvme {address}")
    return int(fd)


class NvmeQueue:
    """A queue pair of a device; Region.nvme() makes it.

    Close it, or use it as a context manager; it keeps the region's memory. Calls
    from several threads take turns: give each thread a queue of its own.

    While a command is in flight its pages must neither be freed nor, if it reads,
    be touched; unshare() pages first that a snapshot may have. Blocks are counted
    in units of lba_size bytes; pages and blocks are given like the pages of an
    Interface, one block for each page, or for each run of `each` pages.
    """

    def __init__(self, region: Handle, pointer: Any) -> None:
        def release(queue: Any) -> None:
            lib.exmap_nvme_close(queue)
            region.release()

        region.hold()
        self._handle = Handle(pointer, release, QueueClosed)
        self._lock = threading.Lock()
        self.depth = int(pointer.depth)
        self.lbas = int(pointer.lbas)
        self.lba_size = int(pointer.lba_size)
        self.max_pages = int(pointer.max_pages)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the queue; the controller ends what is in flight."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def fileno(self) -> int:
        """Return what is readable once there is something for wait(min=0), for select or asyncio.

        :raises InvalidArgument: the queue was opened without interrupts.
        """
        with self._handle.use() as queue:
            event = int(queue.event)
        if event < 0:
            raise InvalidArgument(errno.EINVAL, "fileno: the queue has no interrupts")
        return event

    @contextmanager
    def _use(self) -> Iterator[Any]:
        with self._lock, self._handle.use() as queue:
            yield queue

    def _check(self, queue: Any, ret: int, what: str, done: int = 0) -> None:
        if ret == -errno.EIO and lib.exmap_nvme_check(queue):
            raise QueueDead(errno.EIO, what, done)
        if ret < 0:
            raise queue_error_of(-ret, what, done)

    @property
    def in_flight(self) -> int:
        """Number of commands that were submitted and not reaped."""
        with self._use() as queue:
            return self.depth - 1 - int(queue.free)

    def _transfer(self, op: str, pages: Pages, lbas: Pages, each: int, timeout: float) -> int:
        numbers, blocks = _vector(pages), _vector(lbas)
        if numbers.size != blocks.size:
            raise InvalidArgument(errno.EINVAL, f"{op}: {numbers.size} pages and {blocks.size} blocks")
        done = ffi.new("size_t *")
        data = _data(numbers, "const uint64_t *"), _data(blocks, "const uint64_t *")
        with self._use() as queue, no_overflow(op):
            ret = lib.exmap_nvme_vector(
                queue, _OPCODES[op], *data, numbers.size, each, _nanoseconds(timeout), done
            )
            self._check(queue, ret, op, done[0])
        return int(ret)

    def read(self, pages: Pages, lbas: Pages, *, each: int = 1, timeout: float = 30.0) -> int:
        """Read into pages that are mapped, and wait; return the number of commands.

        The queue has to be idle. The exception's done is the number of commands that
        succeeded. If nothing completes for timeout seconds the controller is reset.

        :raises BeyondBacking: blocks lie beyond the end of the device.
        :raises PageAbsent: a page is not mapped.
        :raises OutsideRegion: a page lies beyond the region.
        :raises QueueBusy: commands are in flight.
        :raises TransferFailed: the device could not do it.
        :raises QueueDead: it has failed, was reset, or is gone.
        """
        return self._transfer("read", pages, lbas, each, timeout)

    def write(self, pages: Pages, lbas: Pages, *, each: int = 1, timeout: float = 30.0) -> int:
        """Write pages, and wait; return the number of commands. See read().

        What was written is durable after a flush().
        """
        return self._transfer("write", pages, lbas, each, timeout)

    def _run(self, what: str, timeout: float, submit: Any, *arguments: int) -> None:
        """Submit one command and wait for it, on an idle queue."""
        result = ffi.new("struct exmap_nvme_result *")
        with self._use() as queue, no_overflow(what):
            if queue.free != queue.depth - 1:
                raise queue_error_of(errno.EBUSY, what)
            ret = submit(queue, *arguments, 0)
            if not ret:
                ret = lib.exmap_nvme_wait(queue, result, 1, 1, _nanoseconds(timeout))
                if ret == 0:
                    lib.exmap_nvme_reset(queue)
                    ret = -errno.ETIMEDOUT
            if ret > 0:
                ret = lib.exmap_ffi_nvme_error(result.status)
            self._check(queue, ret, what)

    def flush(self, timeout: float = 30.0) -> None:
        """Make what was written durable; the queue has to be idle.

        :raises QueueBusy: commands are in flight.
        :raises QueueDead: the device has failed, was reset, or is gone.
        """
        self._run("flush", timeout, lib.exmap_ffi_nvme_submit_flush)

    def write_zeroes(self, lba: int, blocks: int, timeout: float = 30.0) -> None:
        """Have up to 65,536 blocks read as zeros; raises what flush() does, and BeyondBacking."""
        self._run("write_zeroes", timeout, lib.exmap_ffi_nvme_submit_zeroes, lba, blocks)

    def deallocate(self, lba: int, blocks: int, timeout: float = 30.0) -> None:
        """Let the device forget blocks; what they read as is its affair. Raises what write_zeroes() does."""
        self._run("deallocate", timeout, lib.exmap_ffi_nvme_submit_deallocate, lba, blocks)

    def submit(
        self, op: str, pages: Pages, lbas: Pages, tags: NDArray[np.uint64] | None = None, *, each: int = 1
    ) -> int:
        """Start "read" or "write" commands, as many as fit, and return how many.

        A command's tag, by default its index, comes back with its result.

        :raises PageAbsent, OutsideRegion, InvalidArgument: the first one cannot be started.
        """
        numbers, blocks = _vector(pages), _vector(lbas)
        names = np.arange(numbers.size, dtype=np.uint64) if tags is None else _vector(tags)
        if op not in _OPCODES or not numbers.size == blocks.size == names.size:
            raise InvalidArgument(errno.EINVAL, f"submit: {op!r}, or vectors of different lengths")
        data = (_data(array, "const uint64_t *") for array in (numbers, blocks, names))
        with self._use() as queue, no_overflow("submit"):
            ret = lib.exmap_nvme_submit_vector(queue, _OPCODES[op], *data, numbers.size, each)
            lib.exmap_ffi_nvme_ring(queue)
            self._check(queue, ret, "submit")
        return int(ret)

    def wait(self, min: int = 1, max: int | None = None, timeout: float = 30.0) -> Results:
        """Return results, at most max, once there are min of them or timeout seconds have passed.

        With min=0 it does not wait. No more are waited for than are in flight.

        :raises QueueDead: the device has failed, was reset, or is gone.
        """
        limit = self.depth if max is None else max
        found = np.zeros(limit, dtype=_RESULT)
        with self._use() as queue, no_overflow("wait"):
            data = _data(found, "struct exmap_nvme_result *")
            ret = lib.exmap_nvme_wait(queue, data, min, limit, _nanoseconds(timeout))
            self._check(queue, ret, "wait")
        return Results(found["tag"][:ret].copy(), found["status"][:ret].copy())

    def check(self) -> None:
        """Ask the kernel whether the queue is alive.

        :raises QueueDead: the device has failed, was reset, or is gone.
        """
        with self._use() as queue:
            self._check(queue, lib.exmap_nvme_check(queue), "check")

    def reset(self) -> None:
        """Reset the controller: all its queues are dead, and nothing is in flight.

        :raises QueueDead: it is dead already.
        """
        with self._use() as queue:
            self._check(queue, lib.exmap_nvme_reset(queue), "reset")
