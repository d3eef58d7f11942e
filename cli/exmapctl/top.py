"""`exmapctl top`: regions, live.

What is shown is a function of two samples, and of the view, which keys change.
"""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from exmap_netlink import Interface, Reader
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from exmapctl.sampling import Rate, Sample, rates, take_sample

__all__ = ["SORTS", "View", "press", "read_keys", "render", "run"]

# key, column, what it sorts by; all but the region from the largest down
SORTS = {
    "r": "region",
    "p": "pool",
    "m": "mapped",
    "a": "allocs",
    "f": "frees",
    "l": "flushes",
    "c": "copies",
}
COLUMNS = ("region", "pid", "pool", "free", "mapped", "lazy", "alloc/s", "free/s", "flush/s", "copy/s")
SORTED_COLUMN = dict(zip(SORTS.values(), (0, 2, 4, 6, 7, 8, 9), strict=True))
HELP = "q quit  ↑↓ pick  enter interfaces  sort: " + " ".join(f"{key} {name}" for key, name in SORTS.items())
ESCAPES = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down"}


class View(NamedTuple):
    """What the keys have chosen: `picked` is a region, or None for the first; `open` shows its interfaces."""

    sort: str = "allocs"
    picked: int | None = None
    open: bool = False
    quit: bool = False


def press(view: View, key: str, order: list[int]) -> View:
    """Follow a key; `order` is that of the regions on the screen."""
    if key in SORTS:
        return view._replace(sort=SORTS[key])
    if key in ("up", "k", "down", "j") and order:
        at = order.index(view.picked) if view.picked in order else 0
        at += -1 if key in ("up", "k") else 1
        return view._replace(picked=order[max(0, min(at, len(order) - 1))])
    if key in ("\r", "\n"):
        return view._replace(open=not view.open)
    return view._replace(quit=True) if key in ("q", "\x03", "\x04") else view


def sort_key(rate: Rate, sort: str) -> float:
    """Give what a region is sorted by."""
    if sort == "region":
        return -rate.region.region
    if sort in ("pool", "mapped"):
        pool = rate.pool
        return (pool.pool_pages if sort == "pool" else pool.mapped) if pool else -1
    if sort == "flushes":
        return rate.flushes + rate.flushes_ranged
    return float(getattr(rate, sort))


def ordered(found: list[Rate], sort: str) -> list[Rate]:
    """Sort the regions."""
    return sorted(found, key=lambda rate: sort_key(rate, sort), reverse=True)


def short(number: float) -> str:
    """Write a number in five characters at most."""
    for unit in ("", "k", "M", "G"):
        if number < 9999.5:
            return f"{number:.0f}{unit}" if number >= 100 or not unit else f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def render(
    view: View, found: list[Rate], interfaces: list[Interface], lines: int, problem: str = ""
) -> RenderableType:
    """Draw the screen, in so many lines."""
    shown = ordered(found, view.sort)
    picked = view.picked if view.picked in [rate.region.region for rate in shown] else None
    room = lines - 5 - (min(len(interfaces), lines // 3) + 2 if interfaces else 0)
    at = next((i for i, rate in enumerate(shown) if rate.region.region == picked), 0)
    first = max(0, min(at - room + 1, len(shown) - room))
    parts: list[RenderableType] = [
        header(shown, problem),
        draw_regions(view, shown[first : first + room], picked),
    ]
    if interfaces:
        parts.append(draw_interfaces(interfaces[: lines // 3]))
    parts.append(Text(HELP, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def header(found: list[Rate], problem: str) -> Text:
    """Draw the first line: sums over all regions."""
    if problem:
        return Text(problem, style="red", no_wrap=True, overflow="ellipsis")
    pools = [rate.pool for rate in found if rate.pool]
    frames, mapped = sum(pool.pool_pages for pool in pools), sum(pool.mapped for pool in pools)
    low = sum(pool.low for pool in pools)
    text = (
        f"exmap: {len(found)} regions, {short(frames)} frames, {short(mapped)} mapped, "
        f"{short(sum(rate.allocs for rate in found))} allocs/s, "
        f"{short(sum(rate.flushes for rate in found))} flushes/s"
    )
    return Text(text + (f", {low} pools low" if low else ""), no_wrap=True, overflow="ellipsis")


def draw_regions(view: View, shown: list[Rate], picked: int | None) -> Table:
    """Draw the table of regions."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), expand=False)
    for number, column in enumerate(COLUMNS):
        style = "bold underline" if number == SORTED_COLUMN[view.sort] else "bold"
        table.add_column(Text(column, style=style), justify="right", no_wrap=True, min_width=6)
    for rate in shown:
        pool = rate.pool
        frames = (pool.pool_pages, pool.free, pool.mapped, pool.quarantine) if pool else ()
        cells = [str(rate.region.region), str(rate.region.pid), *(map(short, frames) if pool else "----")]
        cells += [short(rate.allocs), short(rate.frees), short(rate.flushes + rate.flushes_ranged)]
        style = "reverse" if rate.region.region == picked else ("yellow" if pool and pool.low else "")
        table.add_row(*cells, short(rate.copies), style=style)
    return table


def draw_interfaces(interfaces: list[Interface]) -> Table:
    """Draw the interfaces of the picked region, with what they have done in all."""
    columns = ("interface", "free", "ring", "allocs", "frees", "rescues", "flushes", "IPIs")
    table = Table(box=None, pad_edge=False, padding=(0, 1), title_justify="left")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for one in interfaces:
        name = "control" if one.interface == 0xFFFFFFFF else str(one.interface)
        done = (one.allocs, one.frees, one.rescues, one.flushes + one.flushes_ranged, one.flush_ipis)
        table.add_row(name, short(one.free), short(one.ring), *map(short, done))
    return table


@contextmanager
def cbreak(fd: int) -> Iterator[None]:
    """Have keys come at once, and unseen."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def read_keys(fd: int, seconds: float) -> list[str]:
    """Wait for keys; names for arrows, else what was typed. The end of the input is q."""
    if not select.select([fd], [], [], seconds)[0]:
        return []
    typed = os.read(fd, 64).decode(errors="replace")
    if not typed:
        return ["q"]
    if typed in ESCAPES:
        return [ESCAPES[typed]]
    for sequence, name in ESCAPES.items():
        typed = typed.replace(sequence, {"up": "k", "down": "j"}[name])
    return list(typed)


def interfaces_of(reader: Reader, view: View, order: list[int]) -> list[Interface]:
    """Read the interfaces of the picked region, if they are to be shown."""
    if not view.open or not order:
        return []
    try:
        return reader.interfaces(view.picked if view.picked in order else order[0])
    except OSError:
        return []


def run(interval: float, iterations: int | None) -> None:
    """Show regions until q, or so many times."""
    fd = sys.stdin.fileno()
    console = Console()
    with Reader() as reader, cbreak(fd), Live(console=console, screen=True, auto_refresh=False) as live:
        view, before = View(), take_sample(reader)
        found = rates(before, before)
        rounds = 0
        while not view.quit and (iterations is None or rounds <= iterations):
            order = [rate.region.region for rate in ordered(found, view.sort)]
            interfaces = interfaces_of(reader, view, order)
            live.update(render(view, found, interfaces, console.height), refresh=True)
            rounds += 1
            view, waited = wait(fd, view, order, before.time + interval)
            if waited:
                after: Sample = take_sample(reader)
                found, before = rates(before, after), after


def wait(fd: int, view: View, order: list[int], until: float) -> tuple[View, bool]:
    """Wait for a key or the time; tell whether it was the time."""
    left = until - time.monotonic()
    keys = read_keys(fd, max(left, 0))
    for key in keys:
        view = press(view, key, order)
    return view, not keys
