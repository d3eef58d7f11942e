"""Walk a region, and say which of the module's invariants do not hold.

A frame is in exactly one place; an entry says what its residency word says; the books agree with what is
there. A live kernel changes while it is read, so what is found once is only a suspicion: `check_region`
looks again, and reports what it finds each time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import drgn
import numpy as np
import numpy.typing as npt

from exmap_drgn.helpers import (
    CHUNK_PAGES,
    PTE_FRAME_MASK,
    RES_BUSY,
    RES_FRAME_MASK,
    RES_SNAPSHOT,
    RES_STATE_MASK,
    ChunkState,
    Words,
    exmap_chunk_state,
    exmap_interfaces,
    exmap_pool_conservation,
    exmap_record_frames,
    exmap_region_frames,
    for_each_exmap_chunk,
    for_each_exmap_record,
    for_each_exmap_snapshot,
    read_array,
)

__all__ = ["Finding", "check_region", "frames_by_place"]

LOOKS = 3
NO_FRAME = 0xFFFFFFFF
BIND_LAZY = 1 << 32
# Intel SDM volume 3, 4.5: present, and a bit for software
PTE_PRESENT = 0x1
PTE_SPECIAL = 0x200

Places = dict[str, list[npt.NDArray[np.uint32]]]


class Finding(NamedTuple):
    """A broken invariant: of which region, which one, and where."""

    region: int
    what: str
    where: str


def check_region(region: drgn.Object) -> list[Finding]:
    """Return what is broken in a `struct exmap_region *`, each time out of LOOKS.

    >>> check_region(region)
    []
    """
    found = set(_look(region))
    for _ in range(LOOKS - 1):
        if not found:
            break
        found &= set(_look(region))
    return sorted(found)


def frames_by_place(region: drgn.Object) -> dict[str, Words]:
    """Return the numbers of the frames of a region that are in each place: mapped, free, record and so on.

    >>> {place: len(frames) for place, frames in frames_by_place(region).items()}
    {'mapped': 590, 'free': 2399, 'quarantine': 0, 'record': 11}
    """
    places: Places = {}
    if not int(region.pool.capacity):
        return {}
    for _ in _check_chunks(region, places):
        pass
    _add_free(region, places)
    for _ in _check_snapshots(region, places):
        pass
    return {place: np.concatenate(frames) for place, frames in places.items()}


def _look(region: drgn.Object) -> Iterator[Finding]:
    number = int(region.id)
    places: Places = {}
    if not int(region.pool.capacity):
        return
    for what, where in _check_chunks(region, places):
        yield Finding(number, what, where)
    _add_free(region, places)
    for what, where in _check_snapshots(region, places):
        yield Finding(number, what, where)
    for what, where in _check_places(places, exmap_region_frames(region)):
        yield Finding(number, what, where)
    books = exmap_pool_conservation(region)
    if not books.holds:
        yield Finding(number, "the books of the pool do not balance", repr(books))


def _check_chunks(region: drgn.Object, places: Places) -> Iterator[tuple[str, str]]:
    pfns = exmap_region_frames(region)
    for nr, chunk in for_each_exmap_chunk(region):
        # the table of the last chunk may have entries of other mappings, too
        count = min(CHUNK_PAGES, int(region.nr_pages) - nr * CHUNK_PAGES)
        words = read_array(region.prog_, chunk.words.value_(), count, np.uint32)
        state = words & np.uint32(RES_STATE_MASK)
        mapped = (state > 0) & (state <= RES_FRAME_MASK)
        frames = (words & np.uint32(RES_FRAME_MASK)) - np.uint32(1)
        # a lazy word may be out of date; what is in quarantine, the frames' binds say
        held = mapped | ((words & np.uint32(RES_BUSY)) != 0)
        outside = held & (frames >= len(pfns))
        for i in np.flatnonzero(outside):
            yield "a residency word names no frame", f"page {nr * CHUNK_PAGES + int(i)}"
        held &= ~outside
        places.setdefault("mapped", []).append(frames[held])
        if region.dead or exmap_chunk_state(chunk) is ChunkState.NO_TABLE:
            continue
        entries = read_array(region.prog_, chunk.table.value_(), count, np.uint64)
        yield from _check_entries(nr, words, mapped & ~outside, frames, entries, pfns)


def _check_entries(
    nr: int,
    words: npt.NDArray[np.uint32],
    mapped: npt.NDArray[np.bool_],
    frames: npt.NDArray[np.uint32],
    entries: npt.NDArray[np.uint64],
    pfns: npt.NDArray[np.uint64],
) -> Iterator[tuple[str, str]]:
    present = (entries & np.uint64(PTE_PRESENT)) != 0
    zero_page = present & ((entries & np.uint64(PTE_SPECIAL)) != 0)
    numbers = (entries & np.uint64(PTE_FRAME_MASK)) >> np.uint64(12)
    wanted = np.where(mapped, pfns[np.where(mapped, frames, 0)], np.uint64(0))
    wrong = {
        "residency says mapped, the entry does not": mapped & ~present,
        "the entry maps what residency denies": ~mapped & present & ~zero_page,
        "the entry maps another frame than residency says": mapped & present & (numbers != wanted),
        "a page that a snapshot shares is writable": mapped
        & ((words & np.uint32(RES_SNAPSHOT)) != 0)
        & ((entries & np.uint64(2)) != 0),
    }
    for what, pages in wrong.items():
        for i in np.flatnonzero(pages):
            yield what, f"page {nr * CHUNK_PAGES + int(i)}"


def _add_free(region: drgn.Object, places: Places) -> None:
    prog, pool = region.prog_, region.pool
    stack = read_array(prog, pool.free.value_(), int(pool.nr_free), np.uint32)
    places.setdefault("free", []).append(stack)
    for itf in exmap_interfaces(region):
        cache = read_array(prog, itf.cache.address_, int(itf.nr_cache), np.uint32)
        places["free"].append(cache)
    places.setdefault("quarantine", []).extend(_quarantine(region))
    record = pool.spares
    while record:
        places.setdefault("spare", []).append(exmap_record_frames(record))
        record = record.next


def _quarantine(region: drgn.Object) -> Iterator[npt.NDArray[np.uint32]]:
    """Yield the frames that wait for a flush, and those whose foreign references keep them."""
    prog, pool = region.prog_, region.pool
    kind = prog.type("struct exmap_frame")
    longs = drgn.sizeof(kind) // 8
    table = read_array(prog, pool.frames.value_(), int(pool.capacity) * longs, np.uint64)
    binds = table.reshape(-1, longs)[:, drgn.offsetof(kind, "bind") // 8]
    yield np.flatnonzero(binds & np.uint64(BIND_LAZY)).astype(np.uint32)
    pinned: list[int] = []
    frame = int(pool.pinned)
    while frame != NO_FRAME and len(pinned) <= int(pool.capacity):
        pinned.append(frame)
        frame = int(binds[frame]) & NO_FRAME
    yield np.array(pinned, np.uint32)


def _check_snapshots(region: drgn.Object, places: Places) -> Iterator[tuple[str, str]]:
    for snap in for_each_exmap_snapshot(region):
        count = int(snap.nr_reserve)
        if count:
            reserve = read_array(region.prog_, snap.reserve.value_(), count, np.uint32)
            places.setdefault("reserve", []).append(reserve)
        for nr, record in for_each_exmap_record(snap):
            own = exmap_record_frames(record)
            places.setdefault("record", []).append(own)
            if len(own) != int(record.nr_frames):
                yield (
                    "a record's count of frames is wrong",
                    f"snapshot {int(snap.id)}, chunk {nr}: {len(own)}, not {int(record.nr_frames)}",
                )


def _check_places(places: Places, pfns: npt.NDArray[np.uint64]) -> Iterator[tuple[str, str]]:
    capacity = len(pfns)
    names = list(places)
    first = np.full(capacity, -1, np.int8)
    for index, arrays in enumerate(places.values()):
        frames = np.concatenate(arrays)
        for frame in frames[frames >= capacity]:
            yield "no such frame", f"frame {int(frame)}, {names[index]}"
        counts = np.bincount(frames[frames < capacity], minlength=capacity)
        for frame in np.flatnonzero((counts > 1) | ((counts > 0) & (first >= 0))):
            other = names[first[frame]] if first[frame] >= 0 else names[index]
            yield "a frame is in two places", f"frame {int(frame)}: {other} and {names[index]}"
        first[(counts > 0) & (first < 0)] = index
    exists = pfns != 0
    for frame in np.flatnonzero(exists & (first < 0)):
        yield "a frame is nowhere", f"frame {int(frame)}"
    for frame in np.flatnonzero(~exists & (first >= 0)):
        yield "a hole of the pool is in use", f"frame {int(frame)}, {names[first[frame]]}"
