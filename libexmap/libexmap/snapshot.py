"""A snapshot: a range of a region as it was at one moment."""

import errno
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from libexmap._ffi import ffi, lib
from libexmap.errors import NotInSnapshot, OutsideSnapshot, SnapshotClosed, snapshot_error_of
from libexmap.handle import Handle
from libexmap.types import SnapshotInfo

__all__ = ["Snapshot"]


class Snapshot:
    """A range of a region as it was; Region.snapshot() makes it.

    Close it, or use it as a context manager: the frames that it holds are missing
    from the pool. It may be used after the region has been closed, and from any
    thread. Page numbers count from the snapshot's start.
    """

    def __init__(self, pointer: Any) -> None:
        self._handle = Handle(pointer, lib.exmap_snapshot_close, SnapshotClosed)
        self.start = int(pointer.start)
        self.count = int(pointer.count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the snapshot; arrays that show it keep its memory until they are gone."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def _check(self, ret: int, what: str) -> None:
        if ret < 0:
            raise snapshot_error_of(-ret, what)

    def _check_range(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self.count:
            raise OutsideSnapshot(errno.EFAULT, f"pages {first} to {first + count}")

    def _words(self, first: int, count: int) -> NDArray[np.uint32]:
        self._check_range(first, count)
        words = np.empty(count, dtype=np.uint32)
        data = ffi.cast("uint32_t *", words.ctypes.data)
        with self._handle.use() as snap:
            self._check(lib.exmap_snapshot_words(snap, first, count, data), "words")
        return words

    def _check_present(self, first: int, count: int) -> None:
        absent = np.flatnonzero(self._words(first, count) == 0)
        if absent.size:
            raise NotInSnapshot(errno.ENOENT, f"page {first + int(absent[0])}")

    @property
    def words(self) -> NDArray[np.uint32]:
        """A copy of the residency words: 0 for a page that was absent.

        :raises SnapshotBroken: its content is lost.
        """
        return self._words(0, self.count)

    def present(self, page: int) -> bool:
        """Tell whether a page was mapped.

        :raises OutsideSnapshot: there is no such page.
        :raises SnapshotBroken: its content is lost.
        """
        return bool(self._words(page, 1)[0])

    def page(self, number: int) -> NDArray[np.uint8]:
        """Return one page as a read-only array of 4096 bytes, without a copy.

        Should the snapshot break later, touching the array raises SIGBUS; read(),
        or a reservation of frames for all pages, rules that out.

        :raises NotInSnapshot: the page was absent.
        :raises OutsideSnapshot: there is no such page.
        :raises SnapshotBroken: its content is lost.
        """
        view: NDArray[np.uint8] = self.view(number, 1)[0]
        return view

    def view(self, first: int, count: int) -> NDArray[np.uint8]:
        """Return pages as a read-only array of shape (count, 4096), without a copy; see page().

        :raises NotInSnapshot: one of the pages was absent.
        :raises OutsideSnapshot: the pages are not all inside the snapshot.
        :raises SnapshotBroken: its content is lost.
        """
        self._check_present(first, count)
        with self._handle.use() as snap:
            address = snap.base + first * lib.EXMAP_PAGE_SIZE
            flat = self._handle.array(address, count * lib.EXMAP_PAGE_SIZE, np.uint8, writable=False)
        return flat.reshape(count, lib.EXMAP_PAGE_SIZE)

    def read(self, first: int, count: int = 1) -> NDArray[np.uint8]:
        """Return a copy of pages, as an array of shape (count, 4096).

        Unlike page() this costs those who write the live pages nothing.

        :raises NotInSnapshot: one of the pages was absent.
        :raises OutsideSnapshot: the pages are not all inside the snapshot.
        :raises SnapshotBroken: its content is lost.
        """
        self._check_range(first, count)
        buffer = np.empty((count, lib.EXMAP_PAGE_SIZE), dtype=np.uint8)
        done, offset = 0, first * lib.EXMAP_PAGE_SIZE
        with self._handle.use() as snap:
            while done < buffer.nbytes:
                data = ffi.cast("void *", buffer.ctypes.data + done)
                ret = lib.exmap_snapshot_pread(snap, data, buffer.nbytes - done, offset + done)
                self._check(ret, f"page {first + done // lib.EXMAP_PAGE_SIZE}")
                done += ret
        return buffer

    def diff(self, other: "Snapshot", start: int = 0, count: int | None = None) -> NDArray[np.bool_]:
        """Tell which pages are others in another snapshot of the region.

        start is a multiple of 8; by default the range is all of this snapshot. The
        other has to cover it, wherever it starts itself. A page that was written
        counts, even with what it held before; on the posix backend, which does not
        see writes, only other content counts.

        :raises ForeignSnapshot: the other is of another region.
        :raises OutsideSnapshot: the range is not inside both.
        :raises InvalidArgument: start is not a multiple of 8.
        :raises SnapshotBroken: content of one is lost.
        """
        length = self.count - start if count is None else count
        self._check_range(start, length)
        bits = np.zeros((length + 7) // 8, dtype=np.uint8)
        data = ffi.cast("uint8_t *", bits.ctypes.data)
        with self._handle.use() as ours, other._handle.use() as theirs:
            self._check(lib.exmap_snapshot_diff(ours, theirs, start, length, data), "diff")
        return np.unpackbits(bits, bitorder="little")[:length].astype(np.bool_)

    def will_need(self, first: int = 0, count: int | None = None) -> None:
        """Copy pages now, as far as frames go, if the snapshot was taken with readers_copy; else do nothing.

        Before a scan that goes on beside writers: what is copied early spares them
        more than what is copied just before it is read. By default of all pages.

        :raises OutsideSnapshot: the pages are not all inside the snapshot.
        """
        length = self.count - first if count is None else count
        self._check_range(first, length)
        with self._handle.use() as snap:
            self._check(lib.exmap_snapshot_will_need(snap, first, length), "will_need")

    def info(self) -> SnapshotInfo:
        """Return what the snapshot is, and whether it is broken."""
        info = ffi.new("struct exmap_snapshot_info *")
        with self._handle.use() as snap:
            self._check(lib.exmap_snapshot_info(snap, info), "info")
        return SnapshotInfo(
            start=info.start,
            count=info.count,
            reserve=info.reserve,
            frames=info.frames,
            id=info.id,
            region=info.region,
            broken=bool(info.broken),
        )

    def fileno(self) -> int:
        """Return the descriptor, which stays the snapshot's: to be passed to another process, mapped, read.

        :raises SnapshotClosed: after close().
        """
        with self._handle.use() as snap:
            return int(snap.fd)
