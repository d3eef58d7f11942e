"""What calls return."""

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "Counters", "Info", "Results", "Scan", "SnapshotInfo"]


class Backend(enum.StrEnum):
    """Which implementation a region runs on."""

    AUTO = "auto"
    KERNEL = "kernel"
    POSIX = "posix"


@dataclass(frozen=True, slots=True)
class Info:
    """What a region is; see struct exmap_info. Sizes are in pages."""

    abi_version: int
    page_size: int
    features: int
    setup_flags: int
    region_pages: int
    pool_pages: int
    backing_pages: int
    flush_threshold: int
    max_interfaces: int
    chunk_pages: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Where all frames are, and what has happened; see struct exmap_counters."""

    total: int
    free: int
    mapped: int
    quarantine: int
    busy: int
    snapshot: int
    allocs: int
    frees: int
    reads: int
    writes: int
    faults: int
    rescues: int
    flushes: int
    flushes_ranged: int
    flush_ipis: int
    pinned: int
    copies: int

    @property
    def conserved(self) -> bool:
        """Tell whether every frame is in exactly one place."""
        return self.total == self.free + self.mapped + self.quarantine + self.busy + self.snapshot


@dataclass(frozen=True, slots=True)
class Scan:
    """Bits of pages, one bool a page, in the order that was asked for."""

    present: NDArray[np.bool_]
    accessed: NDArray[np.bool_]
    dirty: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a snapshot is; see struct exmap_snapshot_info. Sizes are in pages."""

    start: int
    count: int
    reserve: int
    frames: int
    id: int
    region: int
    broken: bool


@dataclass(frozen=True, slots=True)
class Results:
    """What became of NVMe commands: the tag of each, and its status, which is 0 if it succeeded."""

    tags: NDArray[np.uint64]
    statuses: NDArray[np.uint32]

    @property
    def errors(self) -> NDArray[np.uint64]:
        """Tags of the commands that failed."""
        failed: NDArray[np.uint64] = self.tags[self.statuses != 0]
        return failed
