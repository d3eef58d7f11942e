"""drgn helpers for exmap: regions, frames, snapshots and chunks, out of kernel memory.

    sudo drgn
    >>> from exmap_drgn import *
    >>> load_exmap(prog, "kmod/exmap.ko")
    >>> [int(region.id) for region in for_each_exmap_region(prog)]

Nothing here uses the module's interfaces, so that it works where these do not. Types come from the DWARF of
exmap.ko; the kernel's own debug package is not needed.
"""

from exmap_drgn.check import Finding, check_region
from exmap_drgn.helpers import (
    ChunkState,
    exmap_chunk_state,
    exmap_pool_conservation,
    exmap_pte_of,
    exmap_region_frames,
    for_each_exmap_chunk,
    for_each_exmap_region,
    for_each_exmap_snapshot,
)
from exmap_drgn.program import ExmapNotLoaded, NoDebugInfo, load_exmap, open_live

__all__ = [
    "ChunkState",
    "ExmapNotLoaded",
    "Finding",
    "NoDebugInfo",
    "check_region",
    "exmap_chunk_state",
    "exmap_pool_conservation",
    "exmap_pte_of",
    "exmap_region_frames",
    "for_each_exmap_chunk",
    "for_each_exmap_region",
    "for_each_exmap_snapshot",
    "load_exmap",
    "open_live",
]
