"""The command `bench nvme`."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from exmapctl.bench.cli import (
    CheckOption,
    PlotOption,
    QuickOption,
    RoundsOption,
    SecondsOption,
    check_plot,
    choose_timing,
    measure_with_progress,
    report,
)
from exmapctl.bench.measure import counts_instructions, on_first_cpu
from exmapctl.bench.nvme import DEPTHS, HOWS, METRIC, URING, Bench, plan, run_nvme, targets
from exmapctl.controllers import STOCK, bind, find_controller, wait_for_disk
from exmapctl.errors import NotRootError
from exmapctl.machine import Machine
from exmapctl.options import JsonOption

__all__ = ["nvme_command"]

PAGE = 4096


def parse_depths(text: str) -> list[int]:
    """Read queue depths, such as 1,32."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise typer.BadParameter(f"{text}: queue depths are joined by commas")
    depths = sorted({int(n) for n in text.split(",")})
    if depths[-1] > 256:
        raise typer.BadParameter(f"{text}: a queue depth is at most 256")
    return depths


def parse_paths(text: str) -> list[str]:
    """Read names of paths, such as user,uring."""
    paths = text.split(",")
    for path in paths:
        if path not in HOWS:
            raise typer.BadParameter(f"{path}: a path is one of {', '.join(HOWS)}")
    if "user" not in paths or not set(URING) & set(paths):
        raise typer.BadParameter(f"{text}: the bench compares user with one of {', '.join(URING)} at least")
    return [path for path in HOWS if path in paths]


def nvme_command(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="PCI address, nvme0, or /dev/nvme0n1.")],
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Yes: lose what is on the device; the bench writes to all of it."),
    ] = False,
    depths: Annotated[
        str, typer.Option(metavar="N,N", help="Transfers in flight in each thread.")
    ] = ",".join(map(str, DEPTHS)),
    paths: Annotated[str, typer.Option(metavar="PATH,PATH", help="Ways to transfer pages.")] = ",".join(HOWS),
    seconds: SecondsOption = 0.3,
    rounds: RoundsOption = 3,
    quick: QuickOption = False,
    check: CheckOption = False,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read and write random pages of an NVMe device.

    An owned queue, against pread and io_uring (with interrupts, with polling, with passthrough). The device
    goes to exmap-nvme and to the stock driver in turn. Destroys what is on it. Needs root.
    """
    chosen, ways = parse_depths(depths), parse_paths(paths)
    check_plot(plot)
    if os.geteuid():
        raise NotRootError("bench nvme")
    if not overwrite:
        raise typer.BadParameter(f"the bench overwrites {device}: say --overwrite if that is what you want")
    machine = Machine.here()
    controller = find_controller(machine, device)
    timing = choose_timing(seconds, rounds, quick)
    if controller.driver != STOCK:
        bind(machine, controller, STOCK)
    disk = wait_for_disk(machine, controller).disks[0]
    pages = int(Path(f"/sys/block/{disk}/size").read_text()) * 512 // PAGE
    with on_first_cpu() as cpus:
        bench = Bench(machine, controller, cpus, timing)
        variants = plan(len(cpus), chosen, ways)
        steps = len(variants) * (1 if counts_instructions() else timing.rounds)
        records = measure_with_progress(
            "nvme", steps, lambda advance: run_nvme(bench, pages, variants, advance)
        )
    metric = "instructions_per_io" if counts_instructions() else METRIC
    report(records, metric, as_json, plot, targets(records) if check else [])
