"""What `exmapctl inspect` says of a kernel's memory, as values; nothing here prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from exmapctl.errors import ExmapctlError, MissingExtraError, NotRootError
from exmapctl.machine import Machine
from exmapctl.module import find_module

if TYPE_CHECKING:
    import drgn

__all__ = [
    "ChunkPages",
    "InspectionFailedError",
    "PlaceFrames",
    "Target",
    "describe_chunk",
    "describe_queues",
    "describe_region",
    "describe_snapshot",
    "list_frames",
    "open_kernel",
    "runs_of",
]

PTE_BITS = {0: "present", 1: "write", 5: "accessed", 6: "dirty", 9: "special"}


class InspectionFailedError(ExmapctlError):
    """Kernel memory or the module's debugging information cannot be read."""


class Target(NamedTuple):
    """Whose memory: a core dump's, a guest's (the socket of QEMU's monitor), or the running kernel's."""

    module: Path | None
    core: Path | None
    qmp: Path | None


class PlaceFrames(NamedTuple):
    """The frames of a region in one place, as runs of (first, count)."""

    region: int
    place: str
    total: int
    frames: list[tuple[int, int]]


class ChunkPages(NamedTuple):
    """Neighbouring pages of a chunk that are alike; the numbers are those of the first of them."""

    page: int
    pages: int
    residency: str
    frame: int | None
    entry: str
    pfn: int | None


def open_kernel(target: Target) -> "drgn.Program":
    """Open the memory; errors say what to do.

    Raises MissingExtraError, NotRootError, InspectionFailedError.
    """
    try:
        import exmap_drgn
    except ModuleNotFoundError:
        raise MissingExtraError("drgn", "inspect") from None
    if target.core and target.qmp:
        raise InspectionFailedError("--core and --qmp are two kernels: name one")
    if (target.core or target.qmp) and not target.module:
        raise InspectionFailedError("another kernel's memory wants --module: the exmap.ko that it had loaded")
    try:
        if target.core:
            return exmap_drgn.open_dump(target.core, target.module or "")
        if target.qmp:
            return exmap_drgn.open_qemu(target.qmp, target.module or "")
        return exmap_drgn.open_live(target.module or find_module(Machine.here()))
    except PermissionError:
        raise NotRootError("inspect") from None
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        raise InspectionFailedError(f"{file}{error.strerror}") from None


def runs_of(numbers: list[int]) -> list[tuple[int, int]]:
    """Put sorted numbers into runs of (first, count)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


def describe_region(region: "drgn.Object") -> dict[str, Any]:
    """Say what a region is, and where its frames are."""
    import exmap_drgn

    chunks = [
        exmap_drgn.exmap_chunk_state(chunk).name for _, chunk in exmap_drgn.for_each_exmap_chunk(region)
    ]
    return {
        "region": int(region.id),
        "pid": int(region.pid),
        "command": region.comm.string_().decode(errors="replace"),
        "dead": bool(region.dead),
        "address": int(region.start),
        "pages": int(region.nr_pages),
        "chunks": len(chunks),
        "parked": chunks.count("PARKED"),
        "snapshots": [int(snap.id) for snap in exmap_drgn.for_each_exmap_snapshot(region)],
        "pool": exmap_drgn.exmap_pool_conservation(region)._asdict(),
    }


def list_frames(region: "drgn.Object") -> list[PlaceFrames]:
    """Say which frames are in which place."""
    import exmap_drgn

    return [
        PlaceFrames(int(region.id), place, len(frames), runs_of(sorted(frames.tolist())))
        for place, frames in exmap_drgn.frames_by_place(region).items()
    ]


def find_page(prog: "drgn.Program", address: int, number: int | None) -> tuple["drgn.Object", int]:
    """Find the region, and the page in it, of an address. Raises InspectionFailedError."""
    import exmap_drgn

    found = [
        region
        for region in exmap_drgn.for_each_exmap_region(prog)
        if number in (None, int(region.id)) and 0 <= address - int(region.start) < int(region.nr_pages) << 12
    ]
    if not found:
        raise InspectionFailedError(f"no region at {address:#x}: 'exmapctl inspect regions' shows them")
    if len(found) > 1:
        numbers = " or ".join(str(int(region.id)) for region in found)
        raise InspectionFailedError(f"{address:#x} is in several processes: name one with --region {numbers}")
    return found[0], (address - int(found[0].start)) >> 12


def describe_chunk(prog: "drgn.Program", address: int, number: int | None) -> dict[str, Any]:
    """Say what the chunk around an address is, page by page: residency, entry, frame."""
    import exmap_drgn

    region, page = find_page(prog, address, number)
    nr = page // exmap_drgn.CHUNK_PAGES
    chunk = region.chunks[nr]
    found: dict[str, Any] = {"region": int(region.id), "chunk": nr, "state": "untouched", "snapshots": []}
    if not chunk:
        return found | {"pages": []}
    for snap in exmap_drgn.for_each_exmap_snapshot(region):
        if any(nr == other for other, _ in exmap_drgn.for_each_exmap_record(snap)):
            found["snapshots"].append(int(snap.id))
    return found | {
        "state": exmap_drgn.exmap_chunk_state(chunk).value,
        "pages": list(_chunk_pages(region, nr, chunk)),
    }


def _chunk_pages(region: "drgn.Object", nr: int, chunk: "drgn.Object") -> Iterator[ChunkPages]:
    import exmap_drgn

    size = exmap_drgn.CHUNK_PAGES
    words = exmap_drgn.read_array(region.prog_, chunk.words.value_(), size, exmap_drgn.WORD).tolist()
    entries = [0] * size
    if chunk.table:
        entries = exmap_drgn.read_array(region.prog_, chunk.table.value_(), size, exmap_drgn.LONG).tolist()
    last: ChunkPages | None = None
    for i in range(size):
        frame = (words[i] & exmap_drgn.RES_FRAME_MASK) - 1
        present = bool(entries[i] & 1)
        page = ChunkPages(
            nr * size + i,
            1,
            exmap_drgn.describe_residency(words[i]),
            frame if frame >= 0 else None,
            " ".join(name for bit, name in PTE_BITS.items() if entries[i] >> bit & 1) or "empty",
            (entries[i] & exmap_drgn.PTE_FRAME_MASK) >> 12 if present else None,
        )
        if last and (last.residency, last.entry) == (page.residency, page.entry):
            last = last._replace(pages=last.pages + 1)
            continue
        if last:
            yield last
        last = page
    if last:
        yield last


def describe_snapshot(snapshot: "drgn.Object") -> dict[str, Any]:
    """Say what a snapshot covers, and which frames it holds."""
    import exmap_drgn

    frames = exmap_drgn.exmap_snapshot_frames(snapshot)
    return {
        "snapshot": int(snapshot.id),
        "region": int(snapshot.region.id),
        "pid": int(snapshot.region.pid),
        "start": int(snapshot.start),
        "count": int(snapshot.nr_pages),
        "broken": bool(snapshot.broken),
        "reserve": int(snapshot.nr_reserve),
        "records": sum(1 for _ in exmap_drgn.for_each_exmap_record(snapshot)),
        "frames": [{"page": page, "frame": frame} for page, frame in sorted(frames.items())],
    }


def describe_queues(prog: "drgn.Program") -> list[dict[str, Any]]:
    """Say which queues there are, whose, and which commands are in flight; the kernel's own have no owner."""
    import exmap_drgn

    found = []
    for queue in exmap_drgn.for_each_nvme_queue(prog):
        owner = queue.region
        name = owner.comm.string_().decode(errors="replace")
        found.append(
            describe_queue(queue) | {"region": int(owner.id), "pid": int(owner.pid), "command": name}
        )
    for channel in exmap_drgn.for_each_nvme_channel(prog):
        found.append(describe_queue(channel) | {"region": None, "pid": None, "command": None})
    return found


def describe_queue(queue: "drgn.Object") -> dict[str, Any]:
    """Say what a queue, or a channel, is, and which commands are in flight."""
    import exmap_drgn

    pair = queue.pair
    return {
        "controller": exmap_drgn.exmap_nvme_address(pair.ctrl),
        "queue": int(pair.qid),
        "depth": int(pair.depth),
        "tail": exmap_drgn.sq_tail(queue),
        "in_flight": exmap_drgn.exmap_inflight(queue),
    }
