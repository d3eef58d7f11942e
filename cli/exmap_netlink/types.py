"""What the kernel tells, as values.  Sizes are in pages of 4096 bytes, or frames, which is the same.

Named tuples, since making dataclasses takes longer than to read a value of each kind from the kernel.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

__all__ = ["Event", "Interface", "Pool", "Region", "Snapshot", "Value", "make"]


class Region(NamedTuple):
    """A region; its counters are sums over its interfaces since SETUP.

    `pid` is the process that opened it, in the initial namespace. Before SETUP `interfaces` is 0.
    """

    region: int
    pid: int
    setup_flags: int
    pages: int
    backing_pages: int
    interfaces: int
    snapshots: int
    flush_threshold: int
    quarantine_limit: int
    dead: bool
    allocs: int
    frees: int
    reads: int
    writes: int
    faults: int
    rescues: int
    flushes: int
    flushes_ranged: int
    flush_ipis: int
    copies: int


class Interface(NamedTuple):
    """An interface of a region, and what it has done; INTERFACE_CONTROL is the module's own.

    `free` counts the frames that it keeps, `ring` the entries of its quarantine.
    """

    region: int
    interface: int
    free: int
    ring: int
    allocs: int
    frees: int
    reads: int
    writes: int
    faults: int
    rescues: int
    flushes: int
    flushes_ranged: int
    flush_ipis: int
    copies: int


class Pool(NamedTuple):
    """Where all frames of a region are at one moment."""

    region: int
    pool_pages: int
    free: int
    mapped: int
    quarantine: int
    busy: int
    snapshot_frames: int
    pinned: int
    low: bool

    @property
    def conserved(self) -> bool:
        """Tell whether every frame is in exactly one place."""
        return self.pool_pages == self.free + self.mapped + self.quarantine + self.busy + self.snapshot_frames


class Snapshot(NamedTuple):
    """A snapshot of pages `start` to `start + count` of a region."""

    region: int
    snapshot: int
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    reserve: int
    frames: int
    broken: bool


class Event(NamedTuple):
    """Something that happened; what does not apply is None.

    `event` is one of region_created, region_gone, pool_low, pool_recovered, snapshot_created,
    snapshot_broken, snapshot_gone, controller_lost, controller_back and queue_error. `controller` is
    segment << 16 | bus << 8 | device << 3 | function of a PCI address, `error` an errno, `queue` the id of a
    queue at its controller, `commands` how many have failed, `status` what NVMe says of the last of them:
    status code type << 8 | status code.
    """

    event: str
    region: int | None = None
    pid: int | None = None
    interfaces: int | None = None
    pool_pages: int | None = None
    available: int | None = None
    snapshot: int | None = None
    start: int | None = None
    count: int | None = None  # type: ignore[assignment]  # hides tuple.count
    controller: int | None = None
    error: int | None = None
    queue: int | None = None
    commands: int | None = None
    status: int | None = None


Value = TypeVar("Value", Region, Interface, Pool, Snapshot, Event)


def make(kind: type[Value], attribute: Callable[[str], Any], **fields: Any) -> Value:
    """Make a value of attributes, by their names; flags that are not there are False, others None."""
    for name, of in kind.__annotations__.items():
        if name not in fields:
            value = attribute(name.upper())
            fields[name] = value is not None if of is bool else value
    return kind(**fields)
