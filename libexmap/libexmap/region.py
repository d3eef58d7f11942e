"""A region: virtual memory, a pool of frames, interfaces, and a backing."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from libexmap._ffi import ffi, lib
from libexmap.errors import (
    DeviceUnavailable,
    InvalidArgument,
    NoController,
    OutsideRegion,
    RegionClosed,
    SnapshotsDisabled,
    error_of,
    no_overflow,
    queue_error_of,
)
from libexmap.handle import Handle
from libexmap.interface import Interface, Pages, _vector
from libexmap.nvme import NvmeQueue, nvme_backing
from libexmap.snapshot import Snapshot
from libexmap.types import Backend, Counters, Info, Scan

__all__ = ["Region"]

_FAULTS = {"segv": 0, "alloc": lib.EXMAP_FAULT_ALLOC, "zero": lib.EXMAP_FAULT_ZERO}
_BACKENDS = {
    Backend.AUTO: lib.EXMAP_BACKEND_AUTO,
    Backend.KERNEL: lib.EXMAP_BACKEND_KERNEL,
    Backend.POSIX: lib.EXMAP_BACKEND_POSIX,
}
_RESERVES = {"none": 0, "all": lib.EXMAP_RESERVE_ALL}
_NO_DEVICE = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EACCES)


@contextlib.contextmanager
def _backing_fd(backing: str | os.PathLike[str] | int | None) -> Iterator[int]:
    if backing is None or isinstance(backing, int):
        yield -1 if backing is None else backing
        return
    address = os.fspath(backing)
    if address.startswith("nvme:"):
        fd = nvme_backing(address.removeprefix("nvme:"))
    else:
        fd = os.open(Path(backing), os.O_RDWR | os.O_CLOEXEC)
    try:
        # the region keeps what it needs: a reference, or a descriptor of its own
        yield fd
    finally:
        os.close(fd)


def _fields(struct: Any, kind: type) -> dict[str, int]:
    return {name: int(getattr(struct, name)) for name in kind.__dataclass_fields__}  # type: ignore[attr-defined]


class Region:
    """An open region; make it with open(), and close it, or use it as a context manager."""

    def __init__(self, handle: Handle, pages: int, interfaces: int, backend: Backend) -> None:
        self._handle = handle
        self.pages = pages
        self.backend = backend
        self.interfaces = tuple(Interface(handle, number) for number in range(interfaces))

    @classmethod
    def open(
        cls,
        *,
        pages: int,
        pool: int,
        interfaces: int = 1,
        backend: str = "auto",
        backing: str | os.PathLike[str] | int | None = None,
        fault: str = "segv",
        flush_threshold: int = 0,
        snapshots: bool = False,
    ) -> Self:
        """Open a region of so many pages, with a pool of so many frames, of 4096 bytes each.

        backing is a file or block device (path or descriptor) for read and write, or
        "nvme:" and the PCI address of a controller that is bound to exmap-nvme.
        fault says what touching an absent page does: "segv", "alloc" or "zero".
        snapshots says whether snapshot() will be used.
        backend "auto" takes the module if there is one, else plain memory.

        :raises DeviceUnavailable: there is no module, or no permission to use it.
        :raises PoolExhausted: the pool exceeds RLIMIT_MEMLOCK or memory.
        :raises InvalidArgument: an argument is out of its range.
        """
        if fault not in _FAULTS or backend not in list(Backend):
            raise InvalidArgument(errno.EINVAL, f"fault={fault!r}, backend={backend!r}")
        if not (0 < pages <= lib.EXMAP_REGION_MAX_PAGES and 0 < pool <= lib.EXMAP_POOL_MAX_PAGES):
            raise InvalidArgument(errno.EINVAL, f"pages={pages}, pool={pool}")
        out = ffi.new("struct exmap **")
        with _backing_fd(backing) as fd, no_overflow("open"):
            config = ffi.new("struct exmap_config *")
            config.backend = _BACKENDS[Backend(backend)]
            config.interfaces = interfaces
            config.region_pages = pages
            config.pool_pages = pool
            config.flags = _FAULTS[fault] | (lib.EXMAP_SNAPSHOTS if snapshots else 0)
            config.backing_fd = fd
            config.flush_threshold = flush_threshold
            ret = lib.exmap_open(config, out)
        if -ret in _NO_DEVICE:
            raise DeviceUnavailable(-ret, "/dev/exmap")
        if ret < 0:
            raise error_of(-ret, "open")
        opened = Backend.KERNEL if out[0].backend == lib.EXMAP_BACKEND_KERNEL else Backend.POSIX
        return cls(Handle(out[0], lib.exmap_close, RegionClosed), pages, interfaces, opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, number: int) -> Interface:
        return self.interfaces[number]

    def close(self) -> None:
        """Close the region; arrays that show it keep its memory until they are gone."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def _check(self, ret: int, what: str) -> None:
        if ret < 0:
            raise error_of(-ret, what)

    def page(self, number: int) -> NDArray[np.uint8]:
        """Return one page as an array of 4096 bytes, without a copy.

        Touching it while the page is absent is a fault (SIGSEGV by default).

        :raises OutsideRegion: there is no such page.
        """
        view: NDArray[np.uint8] = self.view(number, 1)[0]
        return view

    def view(self, first: int, count: int) -> NDArray[np.uint8]:
        """Return pages as an array of shape (count, 4096), without a copy.

        :raises OutsideRegion: the pages are not all inside the region.
        """
        if first < 0 or count < 0 or first + count > self.pages:
            raise OutsideRegion(errno.EFAULT, f"pages {first} to {first + count}")
        with self._handle.use() as ex:
            address = ex.base + first * lib.EXMAP_PAGE_SIZE
            flat = self._handle.array(address, count * lib.EXMAP_PAGE_SIZE, np.uint8, writable=True)
        return flat.reshape(count, lib.EXMAP_PAGE_SIZE)

    @property
    def residency(self) -> NDArray[np.uint32]:
        """The residency map: one read-only word a page, see EXMAP_RES_*; no copy."""
        with self._handle.use() as ex:
            return self._handle.array(ex.residency, self.pages, np.uint32, writable=False)

    def is_mapped(self, page: int) -> bool:
        """Tell whether a page is mapped, by one load.

        :raises OutsideRegion: there is no such page.
        """
        if not 0 <= page < self.pages:
            raise OutsideRegion(errno.EFAULT, f"page {page}")
        with self._handle.use() as ex:
            return bool(lib.exmap_ffi_is_mapped(ex, page))

    def scan(self, pages: Pages, *, clear_accessed: bool = False, clear_dirty: bool = False) -> Scan:
        """Read, and clear, the accessed and dirty bits of pages.

        The posix backend calls every mapped page accessed and dirty.

        :raises OutsideRegion: a page lies beyond the region.
        """
        vector = _vector(pages)
        bits = [np.zeros((vector.size + 7) // 8, dtype=np.uint8) for _ in range(3)]
        scan = ffi.new("struct exmap_scan *")
        scan.flags = (
            lib.EXMAP_SCAN_VECTOR
            | (lib.EXMAP_SCAN_CLEAR_ACCESSED if clear_accessed else 0)
            | (lib.EXMAP_SCAN_CLEAR_DIRTY if clear_dirty else 0)
        )
        scan.count = vector.size
        scan.vector = vector.ctypes.data
        scan.present, scan.accessed, scan.dirty = (array.ctypes.data for array in bits)
        with self._handle.use() as ex:
            self._check(lib.exmap_scan(ex, scan), "scan")
        unpacked = (np.unpackbits(b, bitorder="little")[: vector.size].astype(np.bool_) for b in bits)
        return Scan(*unpacked)

    def snapshot(
        self,
        start: int = 0,
        count: int | None = None,
        reserve: str | int = "none",
        *,
        readers_copy: bool = False,
    ) -> Snapshot:
        """Freeze a range of pages, by default to the end of the region.

        start is a multiple of 512 (info.chunk_pages), and so is count unless the
        range ends with the region. reserve sets frames aside for copies: a number,
        "none", or "all", one for each mapped page, so that the snapshot cannot break.
        With readers_copy whoever first reads a page copies it, while the pool has
        frames to spare, and no writer has to: for scans beside many writers.

        The posix backend copies the pages at once: keep writers out meanwhile.

        :raises SnapshotsDisabled: the region was opened without snapshots=True.
        :raises OutsideRegion: the range is empty, or not inside the region.
        :raises InvalidArgument: the range is not made of whole chunks.
        :raises PoolExhausted: the pool has not as many free frames as reserve says.
        """
        out = ffi.new("struct exmap_snapshot **")
        frames = _RESERVES.get(reserve) if isinstance(reserve, str) else reserve
        if frames is None:
            raise InvalidArgument(errno.EINVAL, f"snapshot: reserve={reserve!r}")
        flags = lib.EXMAP_READERS_COPY if readers_copy else 0
        length = self.pages - start if count is None else count
        if start < 0 or length <= 0 or start + length > self.pages:
            raise OutsideRegion(errno.EFAULT, f"snapshot: pages {start} to {start + length}")
        with self._handle.use() as ex, no_overflow("snapshot"):
            ret = lib.exmap_snapshot_open(ex, start, length, frames, flags, out)
        if ret == -errno.EOPNOTSUPP:
            raise SnapshotsDisabled(errno.EOPNOTSUPP, "snapshot")
        self._check(ret, "snapshot")
        return Snapshot(out[0])

    def nvme(
        self,
        device: str | os.PathLike[str],
        *,
        depth: int = 128,
        lba_size: int = 0,
        interrupts: bool = False,
        shadow: bool = False,
    ) -> NvmeQueue:
        """Open a queue of an NVMe controller, by its PCI address; on posix, of a file or block device.

        depth is the number of entries; one less can be in flight. lba_size is 512 or 4096,
        on posix only. With interrupts whoever waits sleeps, and fileno() can be polled.
        With shadow, doorbells are stored into memory and rung only if the controller asks for
        it, which spares exits to the emulator of one that is emulated; posix ignores it.

        :raises NoController: it is not bound to exmap-nvme.
        :raises QueueBusy: it belongs to another region.
        :raises OwnershipRefused: its interrupts are not remapped, or there is no IOMMU.
        :raises InvalidArgument: the address, depth or lba_size cannot be, or other queues differ
            in shadow.
        :raises OSError: anything else, EOPNOTSUPP if there are no shadow doorbells, on posix what open says.
        """
        out = ffi.new("struct exmap_nvme_queue **")
        with self._handle.use() as ex, no_overflow("nvme"):
            name = ffi.new("char[]", os.fsencode(device))
            config = ffi.new("struct exmap_nvme_config *", (name, depth, lba_size, interrupts, shadow))
            ret = lib.exmap_nvme_open(ex, config, out)
        if ret == -errno.EPERM and self.backend == Backend.KERNEL:
            self.tune()  # changes nothing, and is refused as well if the region belongs to another process
            raise queue_error_of(errno.EPERM, f"nvme {os.fspath(device)}")
        if ret in (-errno.EBUSY, -errno.EINVAL, -errno.EPROTO):
            raise queue_error_of(-ret, f"nvme {os.fspath(device)}")
        if ret == -errno.ENODEV:
            raise NoController(errno.ENODEV, f"nvme {os.fspath(device)}")
        if ret < 0:
            raise OSError(-ret, os.strerror(-ret), os.fspath(device))
        return NvmeQueue(self._handle, out[0])

    def unshare(self, pages: Pages) -> int:
        """Interface.unshare on interface 0, for the thread that it serves."""
        return self.interfaces[0].unshare(pages)

    def barrier(self) -> None:
        """Flush, and retire what is in quarantine."""
        with self._handle.use() as ex:
            self._check(lib.exmap_barrier(ex), "barrier")

    def resize(self, pool: int) -> None:
        """Change the number of frames in the pool.

        :raises PoolExhausted: it cannot grow that far.
        :raises PoolBusy: not enough frames are free to shrink it.
        :raises InvalidArgument: no pool has that size.
        """
        with self._handle.use() as ex, no_overflow("resize"):
            self._check(lib.exmap_resize(ex, pool), "resize")

    def tune(self, flush_threshold: int = 0) -> int:
        """Set how many pages an interface frees lazily before it flushes; return the value in force.

        :raises InvalidArgument: more than EXMAP_FLUSH_THRESHOLD_MAX.
        """
        tune = ffi.new("struct exmap_tune *")
        with no_overflow("tune"):
            tune.flush_threshold = flush_threshold
        with self._handle.use() as ex:
            self._check(lib.exmap_tune(ex, tune), "tune")
        return int(tune.flush_threshold)

    @property
    def info(self) -> Info:
        """What the region is."""
        info = ffi.new("struct exmap_info *")
        with self._handle.use() as ex:
            self._check(lib.exmap_info(ex, info), "info")
        return Info(**_fields(info, Info))

    @property
    def counters(self) -> Counters:
        """Where all frames are, and what has happened."""
        counters = ffi.new("struct exmap_counters *")
        with self._handle.use() as ex:
            self._check(lib.exmap_counters(ex, counters), "counters")
        return Counters(**_fields(counters, Counters))
