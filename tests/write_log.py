"""What was written to a disk, in order, as QEMU's blklogwrites records it, and disks that power losses leave.

The format is that of the kernel's dm-log-writes (drivers/md/dm-log-writes.c).
"""

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Write", "crash", "flushes", "read_log"]

SECTOR = 512
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for a place on the disk; or a flush, if there are none.  forced: on the disk when it ends."""

    offset: int
    data: bytes
    forced: bool = False

    @property
    def is_flush(self) -> bool:
        return not self.data


def read_log(path: Path) -> list[Write]:
    """Return what was written and flushed, in the order in which it ended."""
    data = path.read_bytes()
    magic, version, count, sector = SUPER.unpack_from(data)
    assert (magic, version, sector) == (MAGIC, 1, SECTOR)
    return list(_entries(data, count))


def _entries(data: bytes, count: int) -> Iterator[Write]:
    at = SECTOR
    for _ in range(count):
        sector, sectors, flags, _ = ENTRY.unpack_from(data, at)
        at += SECTOR
        size = sectors * SECTOR
        # a flush comes before what it is sent with
        if flags & FLUSH:
            yield Write(0, b"")
        if flags & DISCARD:
            # no promise either way; whoever discards does not look
            continue
        if size:
            yield Write(sector * SECTOR, data[at : at + size], bool(flags & FUA))
            at += size


def flushes(log: Sequence[Write]) -> list[int]:
    """Return the places of the flushes."""
    return [place for place, write in enumerate(log) if write.is_flush]


def crash(base: bytes, log: Sequence[Write], end: int, rng: random.Random) -> bytes:
    """Return a disk that was `base` and lost power after `end` entries of its log.

    What ended before the last flush is there; of the rest some sectors are, those of a write in any order.
    """
    disk = bytearray(base)
    last = max((place for place in flushes(log[:end])), default=0)
    keep = rng.choice((0.0, 0.5, 0.9, 1.0))
    for place, write in enumerate(log[:end]):
        if place < last or write.forced:
            disk[write.offset : write.offset + len(write.data)] = write.data
            continue
        for at in range(0, len(write.data), SECTOR):
            if rng.random() < keep:
                disk[write.offset + at : write.offset + at + SECTOR] = write.data[at : at + SECTOR]
    return bytes(disk)
