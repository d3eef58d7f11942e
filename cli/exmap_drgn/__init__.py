"""drgn helpers for exmap: regions, frames, snapshots and chunks, out of kernel memory.

    sudo drgn
    >>> from exmap_drgn import *
    >>> load_exmap(prog, "kmod/exmap.ko")
    >>> [int(region.id) for region in for_each_exmap_region(prog)]

The same works on a core dump (`open_dump`), and on a guest from outside (`open_qemu`).

Nothing here uses the module's interfaces, so that it works where these do not. Types come from the DWARF of
exmap.ko; the kernel's own debug package is not needed.
"""

from exmap_drgn.check import Finding, check_region, frames_by_place
from exmap_drgn.events import Event, for_each_exmap_event
from exmap_drgn.helpers import (
    CHUNK_PAGES,
    LONG,
    NO_PAGE,
    PTE_FRAME_MASK,
    RES_FRAME_MASK,
    WORD,
    ChunkState,
    describe_residency,
    exmap_chunk_state,
    exmap_frame_pages,
    exmap_pool_conservation,
    exmap_pte_of,
    exmap_record_frames,
    exmap_region_frames,
    exmap_snapshot_frames,
    for_each_exmap_chunk,
    for_each_exmap_record,
    for_each_exmap_region,
    for_each_exmap_snapshot,
    read_array,
)
from exmap_drgn.nvme import (
    CqEntry,
    Inflight,
    SqEntry,
    cq_entries,
    exmap_inflight,
    exmap_nvme_address,
    for_each_nvme_channel,
    for_each_nvme_controller,
    for_each_nvme_queue,
    sq_entries,
    sq_tail,
)
from exmap_drgn.program import (
    ExmapNotLoaded,
    NoDebugInfo,
    NoKernelNotes,
    load_exmap,
    open_dump,
    open_live,
    open_qemu,
)

__all__ = [
    "CHUNK_PAGES",
    "LONG",
    "NO_PAGE",
    "PTE_FRAME_MASK",
    "RES_FRAME_MASK",
    "WORD",
    "ChunkState",
    "CqEntry",
    "Event",
    "ExmapNotLoaded",
    "Finding",
    "Inflight",
    "NoDebugInfo",
    "NoKernelNotes",
    "SqEntry",
    "check_region",
    "cq_entries",
    "describe_residency",
    "exmap_chunk_state",
    "exmap_frame_pages",
    "exmap_inflight",
    "exmap_nvme_address",
    "exmap_pool_conservation",
    "exmap_pte_of",
    "exmap_record_frames",
    "exmap_region_frames",
    "exmap_snapshot_frames",
    "for_each_exmap_chunk",
    "for_each_exmap_event",
    "for_each_exmap_record",
    "for_each_exmap_region",
    "for_each_exmap_snapshot",
    "for_each_nvme_channel",
    "for_each_nvme_controller",
    "for_each_nvme_queue",
    "frames_by_place",
    "load_exmap",
    "open_dump",
    "open_live",
    "open_qemu",
    "read_array",
    "sq_entries",
    "sq_tail",
]
