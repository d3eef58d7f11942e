"""The command `inspect`: what kernel memory says of regions, past all interfaces of the module."""

import functools
from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from exmapctl import inspection
from exmapctl.options import JsonOption
from exmapctl.output import emit

__all__ = ["inspect_app"]

inspect_app = typer.Typer(
    help="Look into the memory of this kernel, a guest's, or a core dump, with drgn.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ModuleOption = Annotated[
    Path | None,
    typer.Option("--module", metavar="FILE", help="The exmap.ko that is loaded.", show_default=False),
]
CoreOption = Annotated[
    Path | None,
    typer.Option("--core", metavar="FILE", help="A core dump instead of this kernel.", show_default=False),
]
QmpOption = Annotated[
    Path | None,
    typer.Option(
        "--qmp", metavar="SOCKET", help="A guest, by the socket of QEMU's monitor.", show_default=False
    ),
]
RegionOption = Annotated[
    int | None, typer.Option("--region", metavar="ID", help="Only of this region.", show_default=False)
]

MAX_RUNS = 8
TARGET_PARAMETERS = [
    Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option)
    for name, option in (("module", ModuleOption), ("core", CoreOption), ("qmp", QmpOption))
]


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that takes a Target first, which options tell, and --json last."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(
            module: Path | None = None, core: Path | None = None, qmp: Path | None = None, **others: Any
        ) -> None:
            function(inspection.Target(module, core, qmp), **others)

        _, *own, as_json = (
            parameter.replace(kind=Parameter.KEYWORD_ONLY)
            for parameter in signature(function).parameters.values()
        )
        run.__signature__ = signature(function).replace(  # type: ignore[attr-defined]
            parameters=[*own, *TARGET_PARAMETERS, as_json]
        )
        return inspect_app.command(name)(run)

    return register


def text_of(runs: list[tuple[int, int]]) -> str:
    """Write runs of numbers, the first few of them."""
    parts = [str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in runs[:MAX_RUNS]]
    return " ".join(parts) + (f" and {len(runs) - MAX_RUNS} more runs" if len(runs) > MAX_RUNS else "")


def read_regions(target: inspection.Target, number: int | None = None) -> list[Any]:
    """Find the regions, or the one with a number."""
    prog = inspection.open_kernel(target)
    import exmap_drgn

    regions = [
        region
        for region in exmap_drgn.for_each_exmap_region(prog)
        if number is None or int(region.id) == number
    ]
    if number is not None and not regions:
        raise inspection.InspectionFailedError(f"no region {number}: 'exmapctl inspect regions' lists them")
    return regions


@command("regions")
def inspect_regions(target: inspection.Target, as_json: JsonOption = False) -> None:
    """List regions.

    The process that opened each, size, chunks, snapshots, and where the pool's frames are. All commands of
    inspect read kernel memory, so they need root, and the exmap.ko that is loaded, with its debugging
    information.
    """
    regions = [inspection.describe_region(region) for region in read_regions(target)]
    columns = ("region", "owner", "pages", "chunks", "parked", "snapshots", "total", "free", "mapped")
    rows = [
        (
            found["region"],
            f"{found['command']}:{found['pid']}",
            found["pages"],
            found["chunks"],
            found["parked"],
            len(found["snapshots"]),
            *(found["pool"][name] for name in ("total", "free", "mapped")),
        )
        for found in regions
    ]
    emit(as_json, regions, "regions", columns, rows)


@command("check")
def inspect_check(target: inspection.Target, as_json: JsonOption = False) -> None:
    """Report each broken invariant of all regions.

    A frame that is in two places or nowhere, an entry that residency denies, books that do not balance. Exit
    code 1 if there is one. A kernel that runs goes on meanwhile: only what is found three times in a row is
    reported. A kernel that died may have been in the middle of something.
    """
    regions = read_regions(target)
    import exmap_drgn

    findings = [finding for region in regions for finding in exmap_drgn.check_region(region)]
    emit(as_json, findings, "broken invariants", ("region", "what", "where"), findings)
    raise typer.Exit(int(bool(findings)))


@command("frames")
def inspect_frames(
    target: inspection.Target,
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say where all frames are.

    Mapped, free, in quarantine, in the records and reserves of snapshots; with --json all their numbers.
    """
    regions = read_regions(target, region)
    places = [place for found in regions for place in inspection.list_frames(found)]
    rows = [(place.region, place.place, place.total, text_of(place.frames)) for place in places]
    emit(as_json, places, "frames", ("region", "place", "count", "frames"), rows)


@command("chunk")
def inspect_chunk(
    target: inspection.Target,
    address: Annotated[str, typer.Argument(metavar="ADDR", help="An address of the process, as 0x7f...")],
    region: RegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the 512 pages around an address.

    What the residency map says of each, what its page-table entry says, and which frame it has.
    """
    try:
        number = int(address, 0)
    except ValueError:
        raise typer.BadParameter(f"{address} is no address") from None
    prog = inspection.open_kernel(target)
    found = inspection.describe_chunk(prog, number, region)
    title = f"chunk {found['chunk']} of region {found['region']}: {found['state']}"
    columns = ("page", "pages", "residency", "frame", "entry", "page frame")
    rows = [[part if part is not None else "-" for part in page] for page in found["pages"]]
    emit(as_json, found, title, columns, rows)


@command("snapshot")
def inspect_snapshot(
    target: inspection.Target,
    number: Annotated[
        int | None, typer.Argument(metavar="SNAPSHOT", help="Only this one.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List snapshots, with the frames that each holds for itself.

    What it shares with a newer snapshot, or with the live region, is not among them.
    """
    regions = read_regions(target)
    import exmap_drgn

    found = [
        inspection.describe_snapshot(snapshot)
        for region in regions
        for snapshot in exmap_drgn.for_each_exmap_snapshot(region)
        if number is None or int(snapshot.id) == number
    ]
    if number is not None and not found:
        raise inspection.InspectionFailedError(f"no snapshot {number}")
    columns = ("snapshot", "region", "start", "pages", "state", "reserve", "records", "frames", "of pages")
    rows = [
        (
            *(one[name] for name in ("snapshot", "region", "start", "count")),
            "broken" if one["broken"] else "ok",
            *(one[name] for name in ("reserve", "records")),
            len(one["frames"]),
            text_of(inspection.runs_of([frame["page"] for frame in one["frames"]])),
        )
        for one in found
    ]
    emit(as_json, found, "snapshots", columns, rows)


@command("nvme")
def inspect_nvme(target: inspection.Target, as_json: JsonOption = False) -> None:
    """List NVMe queues, and the commands that are in flight.

    With the blocks that each command transfers, and the frames and pages that it does that to.
    """
    prog = inspection.open_kernel(target)
    queues = inspection.describe_queues(prog)
    columns = ("queue", "owner", "command", "id", "block", "blocks", "frames", "pages")
    rows: list[tuple[object, ...]] = []
    for found in queues:
        owner = f"{found['command']}:{found['pid']}" if found["pid"] else "kernel"
        head = f"{found['controller']} {found['queue']}", owner
        rows += [
            (
                *head,
                one.command,
                one.cid,
                one.lba,
                one.blocks,
                text_of(inspection.runs_of([frame for frame in one.frames if frame is not None])),
                text_of(inspection.runs_of([page for page in one.pages if page is not None])),
            )
            for one in found["in_flight"]
        ] or [(*head, *["-"] * 6)]
    emit(as_json, queues, "NVMe queues", columns, rows)


@command("events")
def inspect_events(target: inspection.Target, as_json: JsonOption = False) -> None:
    """Print the last events, up to 256.

    Those that 'exmapctl monitor' prints as they come; the module keeps them whether anyone listens or not.
    """
    prog = inspection.open_kernel(target)
    import exmap_drgn

    events = list(exmap_drgn.for_each_exmap_event(prog))
    columns = ("number", "seconds", "event", "region", "pid", "snapshot", "controller", "queue")
    rows = [
        [f"{part:.6f}" if isinstance(part, float) else "-" if part is None else part for part in event]
        for event in events
    ]
    emit(as_json, events, "events", columns, rows)
