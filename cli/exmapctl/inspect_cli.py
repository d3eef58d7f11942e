"""The command `inspect`: what kernel memory says of regions, past all interfaces of the module."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exmapctl.errors import ExmapctlError, MissingExtraError, NotRootError
from exmapctl.machine import Machine
from exmapctl.module import find_module
from exmapctl.options import JsonOption
from exmapctl.output import emit

if TYPE_CHECKING:
    import drgn

__all__ = ["inspect_app"]

inspect_app = typer.Typer(
    help="Look into kernel memory, with drgn.", no_args_is_help=True, rich_markup_mode=None
)

ModuleOption = Annotated[
    Path | None,
    typer.Option("--module", metavar="FILE", help="The exmap.ko that is loaded.", show_default=False),
]


class InspectionFailedError(ExmapctlError):
    """Kernel memory or the module's debugging information cannot be read."""


def open_kernel(path: Path | None) -> "drgn.Program":
    """Open the running kernel; errors say what to do."""
    try:
        import exmap_drgn
    except ModuleNotFoundError:
        raise MissingExtraError("drgn", "inspect") from None
    try:
        return exmap_drgn.open_live(path or find_module(Machine.here()))
    except PermissionError:
        raise NotRootError("inspect") from None
    except OSError as error:
        raise InspectionFailedError(error.strerror) from None


def describe(region: "drgn.Object") -> dict[str, Any]:
    """Say what a region is, and where its frames are."""
    import exmap_drgn

    chunks = [
        exmap_drgn.exmap_chunk_state(chunk).name for _, chunk in exmap_drgn.for_each_exmap_chunk(region)
    ]
    owner = region.mm.owner
    return {
        "region": int(region.id),
        "pid": int(owner.tgid) if owner else None,
        "command": owner.comm.string_().decode(errors="replace") if owner else None,
        "dead": bool(region.dead),
        "pages": int(region.nr_pages),
        "chunks": len(chunks),
        "parked": chunks.count("PARKED"),
        "snapshots": [int(snap.id) for snap in exmap_drgn.for_each_exmap_snapshot(region)],
        "pool": exmap_drgn.exmap_pool_conservation(region)._asdict(),
    }


@inspect_app.command("regions")
def inspect_regions(module: ModuleOption = None, as_json: JsonOption = False) -> None:
    """List regions.

    Owner, size, chunks, snapshots, and where the pool's frames are. Reads kernel memory, so it needs root and
    the exmap.ko that is loaded, with its debugging information.
    """
    prog = open_kernel(module)
    import exmap_drgn

    regions = [describe(region) for region in exmap_drgn.for_each_exmap_region(prog)]
    columns = ("region", "owner", "pages", "chunks", "parked", "snapshots", "total", "free", "mapped")
    rows = [
        (
            found["region"],
            f"{found['command']}:{found['pid']}" if found["pid"] else "-",
            found["pages"],
            found["chunks"],
            found["parked"],
            len(found["snapshots"]),
            *(found["pool"][name] for name in ("total", "free", "mapped")),
        )
        for found in regions
    ]
    emit(as_json, regions, "regions", columns, rows)


@inspect_app.command("check")
def inspect_check(module: ModuleOption = None, as_json: JsonOption = False) -> None:
    """Report each broken invariant of all regions.

    A frame that is in two places or nowhere, an entry that residency denies, books that do not balance. Exit
    code 1 if there is one. The kernel goes on meanwhile: only what is found three times in a row is reported.
    """
    prog = open_kernel(module)
    import exmap_drgn

    findings = [
        finding
        for region in exmap_drgn.for_each_exmap_region(prog)
        for finding in exmap_drgn.check_region(region)
    ]
    emit(as_json, findings, "broken invariants", ("region", "what", "where"), findings)
    raise typer.Exit(int(bool(findings)))
