"""The commands that look again and again: stats, top."""

import json
import time
from collections.abc import Iterator
from typing import Annotated

import typer
from exmap_netlink import Reader

from exmapctl.introspect import asking
from exmapctl.options import JsonOption
from exmapctl.output import emit
from exmapctl.sampling import COUNTERS, Rate, rates, take_sample

__all__ = ["stats_command", "top_command"]

HEADINGS = dict(zip(COUNTERS, ("alloc", "free", "read", "write", "fault", "rescue"), strict=False)) | {
    "flushes": "flush",
    "flushes_ranged": "ranged",
    "flush_ipis": "IPIs",
    "copies": "copy",
}
WIDTH = 8

IntervalOption = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")]
CountOption = Annotated[int | None, typer.Option(min=1, help="End after so many looks.", show_default=False)]
StatsRegion = Annotated[
    int | None, typer.Argument(metavar="REGION", help="Which region; else all.", show_default=False)
]


def to_record(rate: Rate) -> dict[str, object]:
    """Make what --json prints of a region in one interval."""
    pool = rate.pool._asdict() if rate.pool else None
    figures = {name: round(getattr(rate, name), 3) for name in COUNTERS}
    return {"region": rate.region.region, "pid": rate.region.pid, "pool": pool, "per_second": figures}


def look(region: int | None, interval: float, count: int | None) -> Iterator[list[Rate]]:
    """Yield the rates in one interval after the other."""
    with asking("stats"), Reader() as reader:
        before = take_sample(reader)
        while count is None or count > 0:
            time.sleep(interval)
            after = take_sample(reader)
            yield [rate for rate in rates(before, after) if region in (None, rate.region.region)]
            before, count = after, None if count is None else count - 1


def print_totals(region: int | None, as_json: bool) -> None:
    """Print what all regions have counted since SETUP."""
    with asking("stats"), Reader() as reader:
        found = [one for one in reader.regions() if region in (None, one.region)]
    columns = ("region", "pid", *HEADINGS.values())
    rows = [(one.region, one.pid, *(getattr(one, name) for name in HEADINGS)) for one in found]
    emit(as_json, found, "counted since SETUP", columns, rows)


def print_rates(found: list[Rate], with_heading: bool, as_json: bool) -> None:
    """Print a line for each region, as vmstat does."""
    if as_json:
        for rate in found:
            typer.echo(json.dumps(to_record(rate)))
        return
    if with_heading:
        typer.echo(" ".join(f"{name:>{WIDTH}}" for name in ("region", *HEADINGS.values())))
    for rate in found:
        cells = (rate.region.region, *(round(getattr(rate, name)) for name in HEADINGS))
        typer.echo(" ".join(f"{cell:>{WIDTH}}" for cell in cells))


def stats_command(
    region: StatsRegion = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print what happens in a second, again and again.")
    ] = False,
    interval: IntervalOption = 1.0,
    count: CountOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the counters of regions, or with --watch how fast they grow.

    With --watch a line for each region and interval, all figures for a second (with --json, a line of JSON);
    Ctrl-C ends it.
    """
    if not watch:
        print_totals(region, as_json)
        return
    try:
        for number, found in enumerate(look(region, interval, count)):
            print_rates(found, number % 20 == 0, as_json)
    except KeyboardInterrupt:
        raise typer.Exit from None


def top_command(
    interval: IntervalOption = 2.0,
    count: CountOption = None,
) -> None:
    """Show regions live.

    Keys: q quits; up and down pick a region, Enter shows its interfaces; r, p, m, a, f, l, c sort by region,
    pool, mapped pages, pages mapped, pages freed, flushes, copies for snapshots.
    """
    from exmapctl import top

    try:
        with asking("top"):
            top.run(interval, count)
    except KeyboardInterrupt:
        raise typer.Exit from None
