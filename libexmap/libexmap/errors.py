"""Errors, each with its errno and what to do next."""

import contextlib
import errno
import os
from collections.abc import Iterator

__all__ = [
    "BeyondBacking",
    "DeviceUnavailable",
    "ExmapError",
    "ForeignAddressSpace",
    "ForeignSnapshot",
    "InvalidArgument",
    "NoBacking",
    "NoController",
    "NotInSnapshot",
    "OutsideRegion",
    "OutsideSnapshot",
    "OwnershipRefused",
    "PageAbsent",
    "PageBusy",
    "PoolBusy",
    "PoolExhausted",
    "QueueBusy",
    "QueueClosed",
    "QueueDead",
    "QueueTimeout",
    "RegionClosed",
    "RegionDead",
    "SnapshotBroken",
    "SnapshotClosed",
    "SnapshotsDisabled",
    "TransferFailed",
    "error_of",
    "no_overflow",
    "queue_error_of",
    "snapshot_error_of",
]


class ExmapError(OSError):
    """A call failed; done is the number of pages that it changed nevertheless."""

    advice = "see errno"

    def __init__(self, number: int, what: str, done: int = 0) -> None:
        super().__init__(number, f"{what}: {os.strerror(number)}; {self.advice}")
        self.done = done


class PoolExhausted(ExmapError):
    """ENOMEM: no frame is left, even after a flush."""

    advice = "free pages, or make the pool larger (resize, RLIMIT_MEMLOCK, cgroup limit)"


class PageAbsent(ExmapError):
    """ENOENT: a page that was to be written is not mapped."""

    advice = "alloc or read the page first"


class OutsideRegion(ExmapError):
    """EFAULT: a page number lies beyond the region."""

    advice = "page numbers count from the region's start to its length"


class BeyondBacking(ExmapError):
    """ENXIO: a page lies beyond the end of the backing."""

    advice = "extend the file, or alloc and write the page first"


class PageBusy(ExmapError):
    """EAGAIN: another call is reading the page, or I/O on its old content has not ended."""

    advice = "try again when that call has returned"


class PoolBusy(ExmapError):
    """EBUSY: not enough frames are free to shrink the pool by that much."""

    advice = "free pages first"


class NoBacking(ExmapError):
    """ENODEV: the region was opened without a backing."""

    advice = "open the region with backing="


class ForeignAddressSpace(ExmapError):
    """EPERM: the region belongs to another process."""

    advice = "open a region of your own; regions do not survive fork or exec"


class RegionDead(ExmapError):
    """EPROTO: the region was unmapped."""

    advice = "open a new region"


class InvalidArgument(ExmapError):
    """EINVAL: an argument is out of its range."""

    advice = "see the specification of the call"


class DeviceUnavailable(ExmapError):
    """/dev/exmap cannot be used."""

    advice = "run 'exmapctl doctor', or choose backend='posix'"


class RegionClosed(ExmapError):
    """EBADF: the region was closed by this program."""

    advice = "use the region inside its with block"


class SnapshotsDisabled(ExmapError):
    """EOPNOTSUPP: the region was opened without snapshots."""

    advice = "open the region with snapshots=True"


class SnapshotBroken(ExmapError):
    """ENODATA: content of the snapshot is lost, since the pool had no frame for a copy."""

    advice = "close it; take the next with reserve='all', or make the pool larger"


class NotInSnapshot(PageAbsent):
    """ENOENT: the page was not mapped when the snapshot was taken."""

    advice = "ask present() or words first"


class OutsideSnapshot(OutsideRegion):
    """EFAULT: a page number lies beyond the snapshot."""

    advice = "page numbers count from the snapshot's start to its length"


class ForeignSnapshot(ExmapError):
    """EXDEV: the two snapshots are not of the same region."""

    advice = "compare snapshots of one region"


class QueueBusy(ExmapError):
    """EBUSY: commands are in flight; or the controller belongs to others."""

    advice = "wait for them; close the others' queues or descriptors of the controller"


class QueueDead(ExmapError):
    """ENODEV: the controller is gone or was given back; or EIO: it failed, or was reset."""

    advice = "close the queue; after EIO a new one can be opened"


class QueueTimeout(QueueDead):
    """ETIMEDOUT: nothing completed in time, and the controller was reset."""

    advice = "close the queue and open a new one"


class TransferFailed(ExmapError):
    """EIO: the device could not carry out a command; the queue is alive."""

    advice = "look at the device (exmapctl nvme smart); its other blocks may be fine"


class NoController(ExmapError):
    """ENODEV: no such controller is bound to exmap-nvme."""

    advice = "bind it: driver_override in sysfs, or 'exmapctl nvme take'"


class OwnershipRefused(ExmapError):
    """EPERM: the owner of this controller could raise any interrupt, or reach all memory."""

    advice = (
        "have interrupts remapped (VT-d or AMD-Vi in the firmware, no intremap=off), load the module with"
        " unsafe_interrupts=1, or leave the queues to the kernel (backing='nvme:ADDRESS');"
        " without an IOMMU it takes CAP_SYS_RAWIO"
    )


class QueueClosed(ExmapError):
    """EBADF: the queue was closed by this program."""

    advice = "use the queue inside its with block"


class SnapshotClosed(ExmapError):
    """EBADF: the snapshot was closed by this program."""

    advice = "use the snapshot inside its with block"


_BY_ERRNO: dict[int, type[ExmapError]] = {
    errno.ENOMEM: PoolExhausted,
    errno.ENOENT: PageAbsent,
    errno.EFAULT: OutsideRegion,
    errno.ENXIO: BeyondBacking,
    errno.EAGAIN: PageBusy,
    errno.EBUSY: PoolBusy,
    errno.ENODEV: NoBacking,
    errno.EPERM: ForeignAddressSpace,
    errno.EPROTO: RegionDead,
    errno.EINVAL: InvalidArgument,
}

# calls on a snapshot; elsewhere some of these mean something else
_OF_SNAPSHOT: dict[int, type[ExmapError]] = {
    errno.ENODATA: SnapshotBroken,
    errno.ENOENT: NotInSnapshot,
    errno.EFAULT: OutsideSnapshot,
    errno.EXDEV: ForeignSnapshot,
}

# calls on an NVMe queue
_OF_QUEUE: dict[int, type[ExmapError]] = {
    errno.EIO: TransferFailed,
    errno.ENODEV: QueueDead,
    errno.ETIMEDOUT: QueueTimeout,
    errno.EBUSY: QueueBusy,
    errno.EPERM: OwnershipRefused,
}


def error_of(number: int, what: str, done: int = 0) -> ExmapError:
    """Return the exception for a positive errno."""
    return _BY_ERRNO.get(number, ExmapError)(number, what, done)


def snapshot_error_of(number: int, what: str) -> ExmapError:
    """Return the exception for a positive errno of a call on a snapshot."""
    kind = _OF_SNAPSHOT.get(number)
    return kind(number, what) if kind else error_of(number, what)


def queue_error_of(number: int, what: str, done: int = 0) -> ExmapError:
    """Return the exception for a positive errno of a call on an NVMe queue."""
    kind = _OF_QUEUE.get(number)
    return kind(number, what, done) if kind else error_of(number, what, done)


@contextlib.contextmanager
def no_overflow(what: str) -> Iterator[None]:
    """Raise InvalidArgument for a number that the C type of an argument cannot hold."""
    try:
        yield
    except OverflowError as error:
        raise InvalidArgument(errno.EINVAL, f"{what}: {error}") from None
