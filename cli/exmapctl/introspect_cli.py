"""The commands that look into the module: monitor, tune, snapshot."""

import json
from typing import Annotated

import typer

from exmapctl import introspect, snapshots
from exmapctl.options import JsonOption
from exmapctl.output import emit, print_json

__all__ = ["monitor_command", "snapshot_app", "tune_command"]

RegionOption = Annotated[
    int | None, typer.Option(metavar="ID", help="Only of this region.", show_default=False)
]
LineOption = Annotated[bool, typer.Option("--json", help="Print each event as one line of JSON.")]
TimeoutOption = Annotated[
    float | None,
    typer.Option(min=0.1, help="End after so many seconds without an event.", show_default=False),
]

snapshot_app = typer.Typer(help="Look after snapshots.", no_args_is_help=True, rich_markup_mode=None)


@snapshot_app.command("list")
def snapshot_list(region: RegionOption = None, as_json: JsonOption = False) -> None:
    """List snapshots.

    Their range, the frames set aside for them, and those that hold content for them alone.
    """
    found = introspect.read_snapshots(region)
    emit(as_json, found, "snapshots", introspect.SNAPSHOT_COLUMNS, introspect.snapshot_rows(found))


@snapshot_app.command("diff")
def snapshot_diff(
    one: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="An id (see list), or PID:FD.")],
    other: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Another of the same region.")],
    as_json: JsonOption = False,
) -> None:
    """Show which pages differ between two snapshots of a region.

    Pages that were written, freed or mapped anew between the two; up to eight neighbours of a page that was
    written may be among them. A process has to hold descriptors of both, and this one to be allowed to copy
    them: needs root, or the same user and no ptrace restrictions.
    """
    with snapshots.borrow(one) as first, snapshots.borrow(other) as second:
        found = snapshots.compare(first, second)
    title = (
        f"snapshots {found.older} and {found.newer} of region {found.region}: {found.changed} of "
        f"{found.count} pages differ"
    )
    emit(as_json, found, title, ("first page", "pages"), found.runs)


def monitor_command(timeout: TimeoutOption = None, as_json: LineOption = False) -> None:
    """Print events as they come.

    Regions created and gone, pools low and recovered, snapshots created, broken and gone, NVMe
    controllers lost and back, errors of their queues. Needs root.
    """

    def ready() -> None:
        typer.echo("listening; end with Ctrl-C", err=True)

    try:
        for event in introspect.follow(timeout, ready):
            fields = {name: value for name, value in event._asdict().items() if value is not None}
            if as_json:
                typer.echo(json.dumps(fields))
            else:
                kind = fields.pop("event")
                typer.echo(f"{kind:17} " + " ".join(f"{name}={value}" for name, value in fields.items()))
    except KeyboardInterrupt:
        raise typer.Exit from None


def tune_command(
    region: Annotated[
        int | None, typer.Argument(metavar="REGION", help="Which region (see status).", show_default=False)
    ] = None,
    flush_threshold: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pages that an interface frees lazily before it flushes.", show_default=False
        ),
    ] = None,
    pool_pages: Annotated[
        int | None, typer.Option(min=1, help="Frames in the pool.", show_default=False)
    ] = None,
    event_interval: Annotated[
        int | None,
        typer.Option(
            min=10,
            max=3600000,
            help="Milliseconds between two pool events of a region, or errors of a queue, at least.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change settings at run time, or show them.

    Changes need root. Those of a region happen together or not at all.
    """
    if region is None and (flush_threshold is not None or pool_pages is not None):
        raise typer.BadParameter("--flush-threshold and --pool-pages want a REGION")
    now, interval = introspect.tune(region, flush_threshold, pool_pages, event_interval)
    settings: dict[str, int] = {"event_interval": interval}
    if now:
        settings |= {
            "region": now.region,
            "flush_threshold": now.flush_threshold,
            "quarantine_limit": now.quarantine_limit,
        }
    if as_json:
        print_json(settings)
    else:
        emit(False, None, "settings", ("setting", "value"), list(settings.items()))
