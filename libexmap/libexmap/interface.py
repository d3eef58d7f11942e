"""An interface: the channel of one thread to a region."""

import errno
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libexmap._ffi import ffi, lib
from libexmap.errors import InvalidArgument, OutsideRegion, error_of, no_overflow
from libexmap.handle import Handle

__all__ = ["Interface", "Pages"]

Pages = int | range | Iterable[int] | NDArray[np.uint64]


def _vector(pages: Pages) -> NDArray[np.uint64]:
    if isinstance(pages, int):
        pages = range(pages, pages + 1)
    try:
        if isinstance(pages, range):
            array = np.arange(pages.start, pages.stop, pages.step, dtype=np.int64)
        elif isinstance(pages, np.ndarray) and pages.dtype == np.uint64:
            return np.ascontiguousarray(pages)
        else:
            array = np.fromiter(pages, dtype=np.int64)
    except OverflowError:
        raise OutsideRegion(errno.EFAULT, "a page number of more than 63 bits") from None
    if array.size and int(array.min()) < 0:
        raise InvalidArgument(errno.EINVAL, "page numbers are not negative")
    return array.astype(np.uint64)


class Interface:
    """Runs vectors of pages; use each from one thread at a time.

    All calls take a page number, a range, an iterable of numbers or a numpy array
    of uint64, and return the number of pages that changed.  Where a call fails in
    the middle, the exception's done says how many pages changed; the vectors that
    follow are not tried.
    """

    def __init__(self, handle: Handle, number: int) -> None:
        self._handle = handle
        self.number = number

    def _run(self, opcode: int, pages: Pages, flags: int, what: str) -> int:
        vector = _vector(pages)
        done = ffi.new("size_t *")
        with self._handle.use() as ex:
            data = ffi.cast("const uint64_t *", vector.ctypes.data)
            ret = lib.exmap_vector(ex, self.number, opcode, data, vector.size, flags, done)
        if ret < 0:
            raise error_of(-ret, what, done[0])
        return int(ret)

    def alloc(self, pages: Pages, *, probe: bool = False) -> int:
        """Map frames to absent pages; their content is undefined.

        With probe, a run of pages whose first page is mapped is left alone.

        :raises PoolExhausted: no frame is left.
        :raises OutsideRegion: a page lies beyond the region.
        :raises PageBusy: another thread is reading a page.
        """
        return self._run(lib.EXMAP_OP_ALLOC, pages, lib.EXMAP_ALLOC_PROBE if probe else 0, "alloc")

    def free(self, pages: Pages, *, lazy: bool = False) -> int:
        """Unmap pages; with lazy, without waiting for the TLB flush.

        :raises OutsideRegion: a page lies beyond the region.
        """
        return self._run(lib.EXMAP_OP_FREE, pages, lib.EXMAP_FREE_LAZY if lazy else 0, "free")

    def _transfer(self, opcode: int, pages: Pages, blocks: Pages | None, what: str) -> int:
        if blocks is None:
            return self._run(opcode, pages, 0, what)
        vector, places = _vector(pages), _vector(blocks)
        if vector.size != places.size:
            raise InvalidArgument(errno.EINVAL, f"{vector.size} pages and {places.size} blocks")
        done = ffi.new("size_t *")
        with self._handle.use() as ex:
            data, at = (ffi.cast("const uint64_t *", array.ctypes.data) for array in (vector, places))
            ret = lib.exmap_vector_at(ex, self.number, opcode, data, at, vector.size, done)
        if ret < 0:
            raise error_of(-ret, what, done[0])
        return int(ret)

    def read(self, pages: Pages, blocks: Pages | None = None) -> int:
        """Map absent pages, filled from the backing: each from its own place there, or from a block.

        :param blocks: as many numbers of 4 KiB blocks as there are pages.
        :raises InvalidArgument: there are not as many, or no backing could have such a block.
        :raises BeyondBacking: a page lies wholly beyond its end.
        :raises NoBacking: the region has none.
        :raises PoolExhausted: no frame is left.
        """
        return self._transfer(lib.EXMAP_OP_READ, pages, blocks, "read")

    def write(self, pages: Pages, blocks: Pages | None = None) -> int:
        """Write mapped pages to the backing, to their own places there, or to blocks.

        :param blocks: as many numbers of 4 KiB blocks as there are pages.
        :raises InvalidArgument: there are not as many, or no backing could have such a block.
        :raises PageAbsent: a page is not mapped.
        :raises NoBacking: the region has none.
        """
        return self._transfer(lib.EXMAP_OP_WRITE, pages, blocks, "write")

    def unshare(self, pages: Pages) -> int:
        """Copy mapped pages that a snapshot shares, so that writing them does not fault.

        Where the pool has no frame for a copy, the snapshot breaks. The posix backend
        has nothing to copy and returns 0.

        :raises OutsideRegion: a page lies beyond the region.
        """
        return self._run(lib.EXMAP_OP_UNSHARE, pages, 0, "unshare")

    def action(self, opcode: int, length: int, flags: int = 0) -> int:
        """Run one opcode over the first iovs as they stand; return how many failed.

        :raises InvalidArgument: no such opcode, length or flag.
        """
        with self._handle.use() as ex, no_overflow("action"):
            ret = lib.exmap_action(ex, self.number, opcode, length, flags)
        if ret < 0:
            raise error_of(-ret, "action")
        return int(ret)

    @property
    def iovs(self) -> NDArray[np.uint64]:
        """The 512 iovs on the interface's page, as raw values (struct exmap_iov)."""
        with self._handle.use() as ex:
            address: Any = ex.itf[self.number]
            return self._handle.array(address, lib.EXMAP_USER_INTERFACE_PAGES, np.uint64, writable=True)
