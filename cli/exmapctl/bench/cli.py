"""The bench commands."""

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from exmapctl.bench import record
from exmapctl.bench import targets as target
from exmapctl.bench.measure import Timing, on_first_cpu
from exmapctl.bench.pages import METRIC as PAGES_METRIC
from exmapctl.bench.pages import Pages, plan, run_pages
from exmapctl.bench.pages import targets as pages_targets
from exmapctl.bench.plot import draw, require_matplotlib
from exmapctl.bench.presence import METRIC as PRESENCE_METRIC
from exmapctl.bench.presence import Presence, run_presence
from exmapctl.bench.presence import targets as presence_targets
from exmapctl.options import JsonOption
from exmapctl.output import emit, make_progress, print_table

__all__ = ["bench_app"]

QUICK = Timing(seconds=0.1, rounds=3)


class Backend(StrEnum):
    """Where the region comes from."""

    KERNEL = "kernel"
    POSIX = "posix"


BackendOption = Annotated[
    Backend, typer.Option(help="kernel: /dev/exmap; posix: plain Linux, for trying it.")
]
SecondsOption = Annotated[float, typer.Option(min=0.001, help="Length of a round of one variant.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="3 rounds of 0.1 s: a look, not a measurement.")]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Hold the figures against the targets; exit code 1 if one is missed.")
]
PlotOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw the figures (.png or .svg).", show_default=False)
]

bench_app = typer.Typer(
    help="Measure exmap against plain Linux.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def check_plot(path: Path | None) -> None:
    """Find out before the measurement whether it can be drawn."""
    if path is None:
        return
    if path.suffix not in (".png", ".svg"):
        raise typer.BadParameter(f"{path}: --plot wants a file that ends in .png or .svg")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"{path}: --plot cannot write there")
    require_matplotlib()


def measure_with_progress(
    title: str, steps: int, work: Callable[[Callable[[str], None]], list[record.Record]]
) -> list[record.Record]:
    """Run `work`, which reports each step, below a progress bar."""
    with make_progress() as progress:
        task = progress.add_task(title, total=steps)

        def advance(step: str) -> None:
            progress.update(task, advance=1, description=f"{title} {step}")

        return work(advance)


def report(
    records: list[record.Record],
    metric: str,
    as_json: bool,
    plot: Path | None,
    targets: list[target.Target],
) -> None:
    """Print records, draw them, and give the verdict on targets, which is an exit code."""
    emit(as_json, records, "medians of all rounds", record.COLUMNS, record.rows(records))
    if plot:
        draw(records, metric, plot)
    if targets:
        print_table("targets", target.COLUMNS, target.rows(targets), to_stderr=as_json)
    raise typer.Exit(int(not all(found.passed for found in targets)))


def choose_timing(seconds: float, rounds: int, quick: bool) -> Timing:
    """Make the timing of the options."""
    return QUICK if quick else Timing(seconds, rounds)


@bench_app.command("pages")
def pages_command(
    backend: BackendOption = Backend.KERNEL,
    seconds: SecondsOption = 0.5,
    rounds: RoundsOption = 5,
    quick: QuickOption = False,
    pool_pages: Annotated[
        int, typer.Option(min=1024, help="Frames in the pool; the region has four times as many pages.")
    ] = 32768,
    check: CheckOption = False,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Map, touch and unmap scattered pages.

    Vectors of 1, 64 and 512, 1 and 2 threads, immediate and lazy, against madvise and process_madvise.
    """
    check_plot(plot)
    timing = choose_timing(seconds, rounds, quick)
    with on_first_cpu() as cpus, Pages(backend, pool_pages, cpus) as pages:
        steps = timing.rounds * len(plan(pages))
        records = measure_with_progress("pages", steps, lambda advance: run_pages(pages, timing, advance))
    report(records, PAGES_METRIC, as_json, plot, pages_targets(records) if check else [])


@bench_app.command("presence")
def presence_command(
    backend: BackendOption = Backend.KERNEL,
    seconds: SecondsOption = 0.5,
    rounds: RoundsOption = 5,
    quick: QuickOption = False,
    region_pages: Annotated[int, typer.Option(min=4096, help="Pages to ask about.")] = 65536,
    check: CheckOption = False,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask whether a page is there.

    Residency map and SCAN, against pagemap, mincore and, where the kernel has it, PAGEMAP_SCAN.
    """
    check_plot(plot)
    timing = choose_timing(seconds, rounds, quick)
    with on_first_cpu() as cpus, Presence(backend, region_pages, cpus[0]) as presence:
        steps = timing.rounds * len(presence.supported())
        records = measure_with_progress(
            "presence", steps, lambda advance: run_presence(presence, timing, advance)
        )
    report(records, PRESENCE_METRIC, as_json, plot, presence_targets(records) if check else [])
