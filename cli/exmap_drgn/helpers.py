"""Helpers named like the kernel's structures; each takes and gives drgn objects."""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, TypeVar

import drgn
import numpy as np
import numpy.typing as npt
from drgn.helpers.linux.list import list_for_each_entry

__all__ = [
    "CHUNK_PAGES",
    "LONG",
    "NO_PAGE",
    "PTE_FRAME_MASK",
    "RES_BUSY",
    "RES_FRAME_MASK",
    "RES_LAZY",
    "RES_SNAPSHOT",
    "RES_STATE_MASK",
    "WORD",
    "ChunkState",
    "Conservation",
    "Words",
    "describe_residency",
    "exmap_chunk_state",
    "exmap_frame_pages",
    "exmap_interfaces",
    "exmap_pool_conservation",
    "exmap_pte_of",
    "exmap_record_frames",
    "exmap_region_frames",
    "exmap_snapshot_frames",
    "for_each_exmap_chunk",
    "for_each_exmap_record",
    "for_each_exmap_region",
    "for_each_exmap_snapshot",
    "read_array",
]

CHUNK_PAGES = 512
# kmod/uapi/exmap.h; a test compares them
RES_FRAME_MASK = 0x1FFFFFFF
RES_BUSY = 0x20000000
RES_LAZY = 0x40000000
RES_SNAPSHOT = 0x80000000
RES_STATE_MASK = 0x7FFFFFFF
# Intel SDM volume 3, 4.5: the frame's number in an entry
PTE_FRAME_MASK = 0x000FFFFFFFFFF000
NO_PAGE = np.uint64(0xFFFFFFFFFFFFFFFF)

WORD, LONG = np.uint32, np.uint64
Number = TypeVar("Number", np.uint32, np.uint64)
Longs = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint32]


class ChunkState(Enum):
    """The states of a chunk; see struct exmap_chunk in kmod/exmap.h."""

    NO_TABLE = "no table"
    PARKED = "parked"
    IN_USE = "in use"


class Conservation(NamedTuple):
    """Where a pool's frames are, by the module's own books; total = the sum of the others."""

    total: int
    free: int
    mapped: int
    quarantine: int
    busy: int
    snapshot: int

    @property
    def holds(self) -> bool:
        """Tell whether the books balance. On a live kernel they may not for a moment, while calls run."""
        return self.total == self.free + self.mapped + self.quarantine + self.busy + self.snapshot


def read_array(prog: drgn.Program, address: int, count: int, dtype: type[Number]) -> npt.NDArray[Number]:
    """Read `count` numbers from kernel memory.

    >>> read_array(prog, region.chunks[0].words.value_(), 2, WORD)
    array([2401, 2402], dtype=uint32)
    """
    return np.frombuffer(prog.read(address, count * np.dtype(dtype).itemsize), dtype)


def for_each_exmap_region(prog: drgn.Program) -> Iterator[drgn.Object]:
    """Yield each `struct exmap_region *`.

    >>> [int(region.pool.total) for region in for_each_exmap_region(prog)]
    [65536]
    """
    head = prog["exmap_regions"].address_of_()
    yield from list_for_each_entry("struct exmap_region", head, "node")


def for_each_exmap_snapshot(region: drgn.Object) -> Iterator[drgn.Object]:
    """Yield each `struct exmap_snapshot *` of a region, oldest first.

    >>> [(int(snap.id), bool(snap.broken)) for snap in for_each_exmap_snapshot(region)]
    [(1, False)]
    """
    yield from list_for_each_entry("struct exmap_snapshot", region.snapshots.address_of_(), "node")


def for_each_exmap_chunk(region: drgn.Object) -> Iterator[tuple[int, drgn.Object]]:
    """Yield the number of each chunk that has been touched, and its `struct exmap_chunk *`.

    >>> [(nr, exmap_chunk_state(chunk).value) for nr, chunk in for_each_exmap_chunk(region)]
    [(0, 'in use'), (1, 'in use')]
    """
    count = -(-int(region.nr_pages) // CHUNK_PAGES)
    if not count:
        return
    pointers = read_array(region.prog_, region.chunks.value_(), count, np.uint64)
    for nr in np.flatnonzero(pointers):
        yield int(nr), drgn.Object(region.prog_, "struct exmap_chunk *", int(pointers[nr]))


def exmap_chunk_state(chunk: drgn.Object) -> ChunkState:
    """Tell the state of a `struct exmap_chunk *`.

    >>> exmap_chunk_state(region.chunks[0])
    <ChunkState.IN_USE: 'in use'>
    """
    if not chunk.table:
        return ChunkState.NO_TABLE
    return ChunkState.IN_USE if chunk.ptes else ChunkState.PARKED


def exmap_pte_of(region: drgn.Object, page: int) -> int | None:
    """Return the page-table entry of a page, also of a parked chunk; None where there is no table.

    >>> hex(exmap_pte_of(region, 0))
    '0x84000001056d3067'
    """
    chunk = region.chunks[page // CHUNK_PAGES]
    if not chunk or not chunk.table:
        return None
    return int(chunk.table[page % CHUNK_PAGES].pte.value_())


def exmap_region_frames(region: drgn.Object) -> Longs:
    """Return the page frame number of each frame of the pool, as an array; 0 for a hole that RESIZE left.

    >>> exmap_region_frames(region)[:2]
    array([1070803, 1070802], dtype=uint64)
    """
    prog = region.prog_
    pages = read_array(prog, region.pool.pages.value_(), int(region.pool.capacity), np.uint64).astype(
        np.uint64
    )
    base = int.from_bytes(prog.read(prog.symbol("vmemmap_base").address, 8), "little")
    size = np.uint64(drgn.sizeof(prog.type("struct page")))
    numbers: Longs = np.where(pages == 0, np.uint64(0), (pages - np.uint64(base)) // size)
    return numbers


def describe_residency(word: int) -> str:
    """Say in words what a residency word says.

    >>> describe_residency(int(region.chunks[0].words[7]))
    'mapped, shared'
    """
    state = word & RES_STATE_MASK
    if not state:
        return "absent"
    kind = "mapped" if state <= RES_FRAME_MASK else "busy" if word & RES_BUSY else "freed lazily"
    return f"{kind}, shared" if word & RES_SNAPSHOT else kind


def exmap_frame_pages(region: drgn.Object) -> Longs:
    """Return the page of the region that has each frame of the pool, or NO_PAGE.

    >>> exmap_frame_pages(region)[:2]
    array([600, 18446744073709551615], dtype=uint64)
    """
    pages = np.full(int(region.pool.capacity), NO_PAGE, np.uint64)
    for nr, chunk in for_each_exmap_chunk(region):
        words = read_array(region.prog_, chunk.words.value_(), CHUNK_PAGES, np.uint32)
        state = words & np.uint32(RES_STATE_MASK)
        has_frame = (state > 0) & (state & np.uint32(RES_LAZY) == 0)
        frames = (words & np.uint32(RES_FRAME_MASK)) - np.uint32(1)
        has_frame &= frames < len(pages)
        pages[frames[has_frame]] = np.flatnonzero(has_frame).astype(np.uint64) + np.uint64(nr * CHUNK_PAGES)
    return pages


def for_each_exmap_record(snapshot: drgn.Object) -> Iterator[tuple[int, drgn.Object]]:
    """Yield each `struct exmap_record *` that is a snapshot's own, with the number of its chunk.

    >>> [(nr, int(record.nr_frames)) for nr, record in for_each_exmap_record(snap)]
    [(0, 8)]
    """
    prog = snapshot.prog_
    shared = {prog["all_absent"].address_, prog["all_same"].address_, 0}
    pointers = read_array(prog, snapshot.records.value_(), int(snapshot.nr_chunks), np.uint64)
    for i, address in enumerate(pointers.tolist()):
        if address not in shared:
            yield int(snapshot.first) + i, drgn.Object(prog, "struct exmap_record *", address)


def exmap_record_frames(record: drgn.Object) -> Words:
    """Return the frames that a `struct exmap_record *` holds for its snapshot alone.

    >>> exmap_record_frames(record)
    array([2999, 2998], dtype=uint32)
    """
    words = read_array(record.prog_, record.words.address_, CHUNK_PAGES, np.uint32)
    own: Words = words[(words != 0) & (words != RES_SNAPSHOT)] - np.uint32(1)
    return own


def exmap_snapshot_frames(snapshot: drgn.Object) -> dict[int, int]:
    """Return the frame of each page that a `struct exmap_snapshot *` holds for itself, by page.

    What it shares with a newer snapshot or with the live region is not among them.

    >>> exmap_snapshot_frames(snap)
    {3: 2399, 10: 2389}
    """
    found = {}
    for nr, record in for_each_exmap_record(snapshot):
        words = read_array(snapshot.prog_, record.words.address_, CHUNK_PAGES, np.uint32)
        for i in np.flatnonzero((words != 0) & (words != RES_SNAPSHOT)).tolist():
            found[nr * CHUNK_PAGES + i] = int(words[i]) - 1
    return found


def exmap_interfaces(region: drgn.Object) -> list[drgn.Object]:
    """List the `struct exmap_interface *` of a region, the module's own one first."""
    count = int(region.nr_interfaces)
    return [region.ctl, *(region.interfaces[i] for i in range(count))]


def exmap_pool_conservation(region: drgn.Object) -> Conservation:
    """Add up the books of a pool.

    >>> exmap_pool_conservation(region).holds
    True
    """
    pool = region.pool
    interfaces = exmap_interfaces(region)

    def total(name: str) -> int:
        return sum(int(itf.counts.member_(name)) for itf in interfaces)

    pinned = int(pool.nr_pinned)
    return Conservation(
        total=int(pool.total),
        free=int(pool.nr_free) + int(pool.nr_spare) + sum(int(itf.nr_cache) for itf in interfaces),
        mapped=total("mapped"),
        quarantine=total("quarantine") + pinned,
        busy=total("busy"),
        snapshot=total("snapshot"),
    )
