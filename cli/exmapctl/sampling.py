"""Regions and pools again and again, and the rates between two looks."""

import time
from typing import NamedTuple

from exmap_netlink import Pool, Reader, Region

__all__ = ["COUNTERS", "Rate", "Sample", "rates", "take_sample"]

COUNTERS = (
    "allocs",
    "frees",
    "reads",
    "writes",
    "faults",
    "rescues",
    "flushes",
    "flushes_ranged",
    "flush_ipis",
    "copies",
)


class Sample(NamedTuple):
    """What was there at a time (in seconds, of a clock that only goes forward)."""

    time: float
    regions: list[Region]
    pools: dict[int, Pool]


class Rate(NamedTuple):
    """A region, and how much it did in a second; its pool is None before SETUP."""

    region: Region
    pool: Pool | None
    allocs: float
    frees: float
    reads: float
    writes: float
    faults: float
    rescues: float
    flushes: float
    flushes_ranged: float
    flush_ipis: float
    copies: float


def take_sample(reader: Reader) -> Sample:
    """Look at all regions that this user may see."""
    now = time.monotonic()
    regions = reader.regions()
    return Sample(now, regions, {pool.region: pool for pool in reader.pools()})


def rates(before: Sample, after: Sample) -> list[Rate]:
    """Compare two samples; a region that is new has done all that it did since."""
    old = {region.region: region for region in before.regions}
    seconds = max(after.time - before.time, 1e-9)
    found = []
    for region in after.regions:
        earlier = old.get(region.region)
        done = (getattr(region, name) - (getattr(earlier, name) if earlier else 0) for name in COUNTERS)
        found.append(Rate(region, after.pools.get(region.region), *(count / seconds for count in done)))
    return found
