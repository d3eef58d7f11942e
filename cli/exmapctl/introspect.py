"""What the module tells over netlink: regions, pools, snapshots, events, and what may be changed.

What lists things does without pyroute2, which takes longer to import than all the rest together.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from exmap_netlink import FamilyAbsent, Pool, Reader, Region, Snapshot

from exmapctl.errors import CommandFailedError, ModuleNotLoadedError, NotPermittedError, NotRootError

if TYPE_CHECKING:
    from exmap_netlink import Event

__all__ = [
    "RegionStatus",
    "follow",
    "read_regions",
    "read_regions_if_permitted",
    "read_snapshots",
    "region_rows",
    "snapshot_rows",
    "tune",
]

REGION_COLUMNS = ("region", "pid", "pages", "pool", "free", "mapped", "lazy", "snap.", "rescued", "per flush")
SNAPSHOT_COLUMNS = ("snapshot", "region", "start", "pages", "reserve", "frames", "state")


class RegionStatus(NamedTuple):
    """A region with its pool (None before SETUP) and its snapshots.

    `rescue_rate` is the share of mapped pages that were still in quarantine: no flush, no I/O.
    `pages_per_flush` is how many freed pages one full flush has served. Both are None without any.
    """

    region: Region
    pool: Pool | None
    snapshots: list[Snapshot]
    rescue_rate: float | None
    pages_per_flush: float | None


def ratio(part: int, whole: int) -> float | None:
    """Divide, unless there is nothing to divide by."""
    return part / whole if whole else None


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Translate errors of the client.

    Raises ModuleNotLoadedError, NotRootError, NotPermittedError, CommandFailedError.
    """
    try:
        yield
    except FamilyAbsent as error:
        raise ModuleNotLoadedError from error
    except OSError as error:
        raise translate(error, what) from error


def translate(error: OSError, what: str) -> Exception:
    """Say in one line what to do about a refusal."""
    if error.errno == errno.EPERM:
        return NotRootError(what)
    if error.errno == errno.EACCES:
        return NotPermittedError(what)
    return CommandFailedError(f"{what}: {error.strerror}")


def read_regions() -> list[RegionStatus]:
    """Read everything about the regions that this user may see.

    What goes away meanwhile is left out. Raises NotPermittedError if there are only others' regions.
    """
    with asking("status"), Reader() as reader:
        regions, pools, snapshots = reader.regions(), reader.pools(), reader.snapshots()
    pool_of = {pool.region: pool for pool in pools}
    return [
        RegionStatus(
            region=region,
            pool=pool_of.get(region.region),
            snapshots=[snapshot for snapshot in snapshots if snapshot.region == region.region],
            rescue_rate=ratio(region.rescues, region.allocs),
            pages_per_flush=ratio(region.frees, region.flushes),
        )
        for region in regions
    ]


def read_regions_if_permitted() -> list[RegionStatus] | None:
    """Do the same; None if this user may not see them."""
    try:
        return read_regions()
    except NotPermittedError:
        return None


def region_rows(regions: list[RegionStatus]) -> list[tuple[object, ...]]:
    """Lay regions out for people."""
    rows: list[tuple[object, ...]] = []
    for one in regions:
        pool = one.pool
        frames: tuple[object, ...] = ("-",) * 5
        if pool:
            size = f"{pool.pool_pages} (low)" if pool.low else pool.pool_pages
            frames = (size, pool.free, pool.mapped, pool.quarantine, pool.snapshot_frames)
        rescued = "-" if one.rescue_rate is None else f"{100 * one.rescue_rate:.1f} %"
        served = "-" if one.pages_per_flush is None else one.pages_per_flush
        rows.append((one.region.region, one.region.pid, one.region.pages, *frames, rescued, served))
    return rows


def read_snapshots(region: int | None) -> list[Snapshot]:
    """List the snapshots of one region, or of all."""
    with asking("snapshot list"), Reader() as reader:
        return reader.snapshots(region)


def snapshot_rows(snapshots: list[Snapshot]) -> list[tuple[object, ...]]:
    """Lay snapshots out for people."""
    return [
        (
            one.snapshot,
            one.region,
            one.start,
            one.count,
            one.reserve,
            one.frames,
            "broken" if one.broken else "ok",
        )
        for one in snapshots
    ]


def tune(
    region: int | None, flush_threshold: int | None, pool_pages: int | None, event_interval: int | None
) -> tuple[Region | None, int]:
    """Change what is not None; return the region, if one was named, and the event interval in ms."""
    from exmap_netlink import Client

    with asking("tune"), Client() as client:
        if region is not None and (flush_threshold is not None or pool_pages is not None):
            client.set(region, flush_threshold=flush_threshold, pool_pages=pool_pages)
        if event_interval is not None:
            client.set_event_interval(event_interval)
        now = None if region is None else client.region(region)
        return now, client.event_interval()


def follow(timeout: float | None, ready: Callable[[], None]) -> "Iterator[Event]":
    """Yield events as they come; call `ready` when none will be missed any more."""
    from exmap_netlink import Events

    with asking("monitor"), Events(timeout) as events:
        ready()
        yield from events
