"""Explicit page mapping: regions of memory whose pages the caller maps and unmaps itself.

>>> import libexmap
>>> with libexmap.Region.open(pages=1024, pool=64, backend="posix") as region:
...     region[0].alloc(range(4))
...     region.page(2)[:5] = list(b"hello")
...     bytes(region.page(2)[:5])
4
b'hello'
"""

from libexmap.errors import (
    BeyondBacking,
    DeviceUnavailable,
    ExmapError,
    ForeignAddressSpace,
    ForeignSnapshot,
    InvalidArgument,
    NoBacking,
    NoController,
    NotInSnapshot,
    OutsideRegion,
    OutsideSnapshot,
    OwnershipRefused,
    PageAbsent,
    PageBusy,
    PoolBusy,
    PoolExhausted,
    QueueBusy,
    QueueClosed,
    QueueDead,
    QueueTimeout,
    RegionClosed,
    RegionDead,
    SnapshotBroken,
    SnapshotClosed,
    SnapshotsDisabled,
    TransferFailed,
)
from libexmap.interface import Interface
from libexmap.nvme import NvmeQueue, nvme_backing
from libexmap.region import Region
from libexmap.snapshot import Snapshot
from libexmap.types import Backend, Counters, Info, Results, Scan, SnapshotInfo

__all__ = [
    "Backend",
    "BeyondBacking",
    "Counters",
    "DeviceUnavailable",
    "ExmapError",
    "ForeignAddressSpace",
    "ForeignSnapshot",
    "Info",
    "Interface",
    "InvalidArgument",
    "NoBacking",
    "NoController",
    "NotInSnapshot",
    "NvmeQueue",
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
    "Region",
    "RegionClosed",
    "RegionDead",
    "Results",
    "Scan",
    "Snapshot",
    "SnapshotBroken",
    "SnapshotClosed",
    "SnapshotInfo",
    "SnapshotsDisabled",
    "TransferFailed",
    "nvme_backing",
]
