"""The command `bench snapshot`."""

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from exmapctl.bench.cli import (
    CheckOption,
    PlotOption,
    QuickOption,
    RoundsOption,
    check_plot,
    choose_timing,
    measure_with_progress,
)
from exmapctl.bench.measure import on_first_cpu
from exmapctl.bench.plot import Line, draw_timelines
from exmapctl.bench.record import Record
from exmapctl.bench.snapshot import (
    BUCKET_MS,
    Case,
    Figures,
    Settings,
    Way,
    measure_all,
    needed_bytes,
)
from exmapctl.bench.snapshot_records import COLUMNS, compare, tables, targets
from exmapctl.bench.targets import COLUMNS as TARGET_COLUMNS
from exmapctl.bench.targets import rows as target_rows
from exmapctl.errors import BenchFailedError
from exmapctl.machine import Machine
from exmapctl.options import JsonOption
from exmapctl.output import print_json, print_table

__all__ = ["parse_size", "snapshot_command"]

SIZES = "64MiB,256MiB,1GiB,2GiB"
CHUNK = 2 << 20
UNSHARE = 64
THETA = 0.99


class Reader(StrEnum):
    """How a snapshot is scanned."""

    VIEW = "view"
    PREAD = "pread"


Timelines = dict[Case, dict[Way, Figures]]


def parse_size(text: str) -> int:
    """Read a size such as 64MiB."""
    match = re.fullmatch(r"([1-9]\d*)(MiB|GiB)", text.strip())
    size = int(match[1]) << {"MiB": 20, "GiB": 30}[match[2]] if match else 0
    if not size or size % CHUNK:
        raise typer.BadParameter(f"{text}: a size is a number of MiB or GiB, and a multiple of 2MiB")
    return size


def parse_writers(text: str) -> list[int]:
    """Read numbers of writers, such as 1,2."""
    if not re.fullmatch(r"[1-9]\d?(,[1-9]\d?)*", text):
        raise typer.BadParameter(f"{text}: numbers of writers are joined by commas")
    return [int(n) for n in text.split(",")]


def available_bytes(machine: Machine) -> int:
    """Return what the kernel calls available memory."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", machine.read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) << 10 if match else 0


def choose_sizes(sizes: list[int], available: int) -> list[int]:
    """Leave out, and say so, what does not fit; raises BenchFailedError if nothing does."""
    for size in sizes:
        if needed_bytes(size) > available:
            print(
                f"left out: {size >> 20} MiB needs {needed_bytes(size) >> 20} MiB of memory, "
                f"{available >> 20} MiB are available",
                file=sys.stderr,
            )
    fitting = [size for size in sizes if needed_bytes(size) <= available]
    if not fitting:
        raise BenchFailedError("not enough memory for any of the sizes")
    return fitting


def choose_writers(numbers: list[int], cpus: int) -> list[int]:
    """Leave out, and say so, more writers than CPUs; raises BenchFailedError if none are left."""
    for n in numbers:
        if n > cpus:
            print(f"left out: {n} writers need as many CPUs, there are {cpus}", file=sys.stderr)
    usable = [n for n in numbers if n <= cpus]
    if not usable:
        raise BenchFailedError("not enough CPUs for any number of writers")
    return usable


def draw(timelines: Timelines, path: Path) -> None:
    """Draw the writers' throughput of the last round of each case."""
    panels = {
        str(case): {
            str(way): Line(
                [n * 1000 / BUCKET_MS for n in found.timeline],
                BUCKET_MS,
                {"freeze": found.marks_ms[0], "drop": found.marks_ms[-1]},
            )
            for way, found in figures.items()
        }
        for case, figures in timelines.items()
    }
    draw_timelines("exmapctl bench snapshot: what the writers get done", panels, path)


def choose_ways(share: bool, unshare: bool) -> list[Way]:
    """List the ways to measure, and say so if one is not to be had."""
    ways = [Way("exmap")]
    if share:
        ways.append(Way("exmap", share=True))
    if unshare:
        ways.append(Way("exmap", UNSHARE))
    if share and unshare:
        ways.append(Way("exmap", UNSHARE, share=True))
    userfaultfd = Way("userfaultfd")
    if userfaultfd.supported:
        ways.append(userfaultfd)
    else:
        print("left out: userfaultfd cannot protect from writes here", file=sys.stderr)
    return [*ways, Way("fork")]


def snapshot_command(
    sizes: Annotated[
        str, typer.Option(help="Sizes of the memory; those that do not fit are left out.")
    ] = SIZES,
    writers: Annotated[str, typer.Option(help="Numbers of writing threads.")] = "1,2",
    uniform: Annotated[bool, typer.Option("--uniform", help="All pages alike, not zipfian.")] = False,
    unshare: Annotated[
        bool, typer.Option("--unshare", help=f"Also with an UNSHARE ahead of {UNSHARE} transactions.")
    ] = False,
    share: Annotated[
        bool, typer.Option("--share", help="Also with snapshots that only writers copy pages of.")
    ] = False,
    reader: Annotated[Reader, typer.Option(help="How the snapshot is scanned.")] = Reader.VIEW,
    seconds: Annotated[float, typer.Option(min=0.01, help="Length of the phases before and after.")] = 0.5,
    rounds: RoundsOption = 3,
    quick: QuickOption = False,
    check: CheckOption = False,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Freeze memory under writers.

    What the freeze, a scan of the copy and its end cost threads that go on writing (read 512 bytes, checksum,
    write 64; pages zipfian with theta 0.99), against fork and a child that scans, and against userfaultfd's
    write protection. Throughput, latency, stalls and shootdowns before, during and after;
    cli/exmapctl/bench/snapshot.py says what each figure is.

    With as many writers as CPUs the scan and a writer share one, so the scheduler is measured too.
    """
    check_plot(plot)
    timing = choose_timing(seconds, rounds, quick)
    numbers = parse_writers(writers)
    ways = choose_ways(share, unshare)
    timelines: Timelines = {}
    with on_first_cpu() as cpus:
        usable = choose_writers(numbers, len(cpus))
        fitting = choose_sizes(
            [parse_size(size) for size in sizes.split(",")], available_bytes(Machine.here())
        )
        settings = Settings(fitting, usable, ways, 0 if uniform else THETA, reader, timing)
        steps = len(fitting) * len(usable) * timing.rounds * len(ways)

        def work(advance: Callable[[str], None]) -> list[Record]:
            timelines.update(measure_all(settings, cpus, advance))
            return [record for case, figures in timelines.items() for record in compare(case, figures)]

        records = measure_with_progress("snapshot", steps, work)
    if as_json:
        print_json(records)
    else:
        for name, rows in tables(records).items():
            print_table(f"{name}: medians of all rounds", COLUMNS, rows)
    if plot:
        draw(timelines, plot)
    held = targets(records, usable) if check else []
    if held:
        print_table("targets", TARGET_COLUMNS, target_rows(held), to_stderr=as_json)
    raise typer.Exit(int(not all(target.passed for target in held)))
