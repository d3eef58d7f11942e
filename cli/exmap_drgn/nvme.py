"""NVMe queues, of user space and of the kernel: what stands in them, and what is in flight.

Entries are decoded as the NVM Express Base Specification 2.0 (3.3.3.1, 3.3.3.2, 4.1.1) and the NVM Command
Set Specification 1.0 (3) have them. Doorbells cannot be read back, so the tail of a submission queue is known
only if its owner has left a note, as libexmap does (EXMAP_NVME_TAIL_MARK), or is the kernel.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import drgn
import numpy as np
from drgn.helpers.linux.list import list_for_each_entry

from exmap_drgn.helpers import NO_PAGE, exmap_frame_pages, exmap_region_frames

__all__ = [
    "CqEntry",
    "Inflight",
    "SqEntry",
    "cq_entries",
    "exmap_inflight",
    "exmap_nvme_address",
    "for_each_nvme_channel",
    "for_each_nvme_controller",
    "for_each_nvme_queue",
    "sq_entries",
    "sq_tail",
]

PAGE = 4096
SQ_ENTRY = struct.Struct("<BBHI16xQQQI12x")
CQ_ENTRY = struct.Struct("<IIHHHH")
OPCODES = {0x00: "flush", 0x01: "write", 0x02: "read", 0x08: "write zeroes", 0x09: "deallocate"}
TRANSFERS = ("write", "read")
# libexmap/include/exmap_nvme.h; a test compares them
TAIL_MARK = 0x65786D71
LIST_ENTRIES = 128
CHANNEL = "struct exmap_nvme_channel"


class SqEntry(NamedTuple):
    """A submission queue entry; what was never written is all zeros."""

    slot: int
    opcode: int
    cid: int
    nsid: int
    prp1: int
    prp2: int
    lba: int
    blocks: int

    @property
    def name(self) -> str:
        """Name the command."""
        return OPCODES.get(self.opcode, f"opcode {self.opcode:#x}")


class CqEntry(NamedTuple):
    """A completion queue entry; `status` is type and code of an error."""

    slot: int
    cid: int
    sq_head: int
    sq_id: int
    phase: int
    status: int
    result: int


class Inflight(NamedTuple):
    """A command that the controller has not completed.

    Frames, and the pages of the region that have them, are in the order of the transfer. None: memory that is
    no frame, or a frame that no page has any more.
    """

    slot: int
    cid: int
    command: str
    lba: int
    blocks: int
    region: int | None
    frames: list[int | None]
    pages: list[int | None]


def for_each_nvme_controller(prog: drgn.Program) -> Iterator[drgn.Object]:
    """Yield each `struct exmap_nvme_controller *`: those that are bound to exmap-nvme.

    >>> [exmap_nvme_address(ctrl) for ctrl in for_each_nvme_controller(prog)]
    ['0000:00:04.0']
    """
    head = prog.variable("controllers", "pci.c").address_of_()
    yield from list_for_each_entry("struct exmap_nvme_controller", head, "node")


def exmap_nvme_address(controller: drgn.Object) -> str:
    """Return the PCI address of a `struct exmap_nvme_controller *`.

    >>> exmap_nvme_address(ctrl)
    '0000:00:04.0'
    """
    return str(controller.pdev.dev.kobj.name.string_().decode())


def for_each_nvme_queue(prog: drgn.Program) -> Iterator[drgn.Object]:
    """Yield each `struct exmap_nvme_queue *` that a controller knows.

    >>> [int(queue.pair.depth) for queue in for_each_nvme_queue(prog)]
    [32]
    """
    for controller in for_each_nvme_controller(prog):
        yield from list_for_each_entry("struct exmap_nvme_queue", controller.queues.address_of_(), "node")


def for_each_nvme_channel(prog: drgn.Program) -> Iterator[drgn.Object]:
    """Yield each `struct exmap_nvme_channel *`: the queues that the kernel drives, as a backing.

    >>> [exmap_inflight(channel) for channel in for_each_nvme_channel(prog)]
    [[], []]
    """
    for controller in for_each_nvme_controller(prog):
        for i in range(int(controller.nr_channels)):
            yield controller.channels[i]


def _read_block(block: drgn.Object, offset: int, size: int) -> bytes:
    """Read memory that a controller uses, through the kernel's map of all memory."""
    prog = block.prog_
    first = int(block.pages.value_()) - _read_long(prog, "vmemmap_base")
    number = first // drgn.sizeof(prog.type("struct page"))
    data: bytes = prog.read(_read_long(prog, "page_offset_base") + number * PAGE + offset, size)
    return data


def _read_long(prog: drgn.Program, symbol: str) -> int:
    return int.from_bytes(prog.read(prog.symbol(symbol).address, 8), "little")


def sq_entries(queue: drgn.Object) -> list[SqEntry]:
    """Decode the submission queue of a `struct exmap_nvme_queue *`, in the order of slots.

    >>> sq_entries(queue)[0].name
    'read'
    """
    pair = queue.pair
    data = _read_block(pair.sq, 0, int(pair.depth) * SQ_ENTRY.size)
    return [
        SqEntry(slot, opcode, cid, nsid, prp1, prp2, lba, (length & 0xFFFF) + 1)
        for slot, (opcode, _, cid, nsid, prp1, prp2, lba, length) in enumerate(SQ_ENTRY.iter_unpack(data))
    ]


def cq_entries(queue: drgn.Object) -> list[CqEntry]:
    """Decode the completion queue of a `struct exmap_nvme_queue *`, in the order of slots.

    >>> cq_entries(queue)[0].status
    0
    """
    pair = queue.pair
    data = _read_block(pair.cq, 0, int(pair.depth) * CQ_ENTRY.size)
    return [
        CqEntry(slot, cid, sq_head, sq_id, status & 1, status >> 1 & 0x7FF, result)
        for slot, (result, _, sq_head, sq_id, cid, status) in enumerate(CQ_ENTRY.iter_unpack(data))
    ]


def sq_tail(queue: drgn.Object) -> int | None:
    """Return the tail that the controller was told last; None if the owner has left no note of it.

    >>> sq_tail(queue)
    6
    """
    if queue.type_.type.type_name() == CHANNEL:
        return int(queue.rung)
    pair = queue.pair
    offset = (int(pair.depth) - 1) * LIST_ENTRIES * 8
    if int(pair.prp.nr) * PAGE < offset + 8:
        return None
    note = int.from_bytes(_read_block(pair.prp, offset, 8), "little")
    return note & 0xFFFFFFFF if note >> 32 == TAIL_MARK else None


def order_completions(entries: list[CqEntry]) -> list[CqEntry]:
    """Put the entries of a completion queue in the order in which they were posted, oldest first.

    The phase tag changes where the newest ends: Base 2.0, 4.2.4. The number of an I/O queue is never 0, so an
    entry that was never written can be told.
    """
    first = entries[0].phase
    newest = next((i for i, entry in enumerate(entries) if entry.phase != first), len(entries))
    return [entry for entry in entries[newest:] + entries[:newest] if entry.sq_id]


def unfinished(submitted: list[SqEntry], completed: list[CqEntry], tail: int | None) -> list[SqEntry]:
    """Tell which entries of a submission queue have not been completed, oldest first.

    Identifiers of commands in flight differ, so a completion with the identifier of an entry is that entry's
    if the controller had fetched the entry by then: it says how far it had got. Positions count entries from
    when the queue was made, as far as they can be seen: that of the tail is 0, older ones are negative.

    :param completed: in the order in which they were posted.
    :param tail: None if it is not known: then what was not fetched before the last completion may be missed.
    """
    depth = len(submitted)
    if tail is None:
        tail = completed[-1].sq_head if completed else sum(entry.nsid != 0 for entry in submitted) % depth
    done: dict[int, int] = {}
    head = -((tail - completed[-1].sq_head) % depth) if completed else 0
    newer = completed[-1] if completed else None
    for entry in reversed(completed):
        assert newer
        head -= (newer.sq_head - entry.sq_head) % depth
        done.setdefault(entry.cid, head)
        newer = entry
    # older completions than these are not in the queue any more
    oldest = head if len(completed) >= depth else -2 * depth
    found = []
    for position in range(-depth, 0):
        command = submitted[(tail + position) % depth]
        if command.nsid and done.get(command.cid, -2 * depth) <= position and oldest <= position:
            found.append(command)
    return found


def exmap_inflight(queue: drgn.Object) -> list[Inflight]:
    """List the commands that the controller has not completed.

    >>> [(command.command, command.lba, command.pages) for command in exmap_inflight(queue)]
    [('read', 248, [31]), ('read', 256, [32])]

    What the owner has not reaped is not among them. A command that stayed in flight while its entry was
    used again cannot be seen.

    :param queue: ``struct exmap_nvme_queue *`` or ``struct exmap_nvme_channel *``
    """
    entries = unfinished(sq_entries(queue), order_completions(cq_entries(queue)), sq_tail(queue))
    pools = [_Pool(queue.pair.ctrl, pool) for pool in queue.pair.ctrl.pools if pool.region] if entries else []
    return [_describe(queue, entry, pools) for entry in entries]


class _Pool:
    """The frames of a region as a controller sees them."""

    def __init__(self, controller: drgn.Object, pool: drgn.Object) -> None:
        self.region = int(pool.region.id)
        self._base = int(pool.base) if controller.domain else None
        self._numbers = exmap_region_frames(pool.region)
        self._pages = exmap_frame_pages(pool.region)

    def frame(self, address: int) -> int | None:
        """Tell which frame is at an address of the controller's, if any."""
        if self._base is not None:
            number = (address - self._base) // PAGE
            return number if 0 <= number < len(self._numbers) else None
        found = np.flatnonzero(self._numbers == np.uint64(address // PAGE))
        return int(found[0]) if len(found) else None

    def page(self, frame: int | None) -> int | None:
        """Tell which page has a frame."""
        return None if frame is None or self._pages[frame] == NO_PAGE else int(self._pages[frame])


def _describe(queue: drgn.Object, entry: SqEntry, pools: list[_Pool]) -> Inflight:
    addresses = _addresses(queue.pair, entry) if entry.name in TRANSFERS else []
    frames: list[int | None] = [None] * len(addresses)
    pages: list[int | None] = [None] * len(addresses)
    region = None
    for pool in pools:
        there = [pool.frame(address) for address in addresses]
        if any(frame is not None for frame in there):
            region, frames, pages = pool.region, there, [pool.page(frame) for frame in there]
            break
    return Inflight(entry.slot, entry.cid, entry.name, entry.lba, entry.blocks, region, frames, pages)


def _addresses(pair: drgn.Object, entry: SqEntry) -> list[int]:
    """Return where the controller sees the pages of a transfer: Base 2.0, 4.1.1."""
    count = -(-(entry.blocks << int(pair.ctrl.lba_shift)) // PAGE)
    if count == 1:
        return [entry.prp1]
    if count == 2:
        return [entry.prp1, entry.prp2]
    offset = entry.prp2 - int(pair.prp.addr)
    if not 0 <= offset <= int(pair.prp.nr) * PAGE - 8 * (count - 1):
        return [entry.prp1]
    listed = np.frombuffer(_read_block(pair.prp, offset, 8 * (count - 1)), np.uint64)
    return [entry.prp1, *listed.tolist()]
