"""The command line: exmapdb bench."""

import dataclasses
import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from exmapctl.bench.record import COLUMNS, Record, rows
from rich.console import Console
from rich.table import Table as Grid

from exmapdb.bench.config import Config
from exmapdb.bench.engines import ENGINES, FREEZABLE, available
from exmapdb.bench.mixed import run_mixed
from exmapdb.bench.runner import run_ycsb
from exmapdb.bench.tpcc_bench import run_tpcc
from exmapdb.bench.ycsb import WORKLOADS
from exmapdb.errors import ExmapdbError

__all__ = ["bench"]


ALL = [*WORKLOADS, "mixed", "tpcc"]
PEERS = [name for name in {**ENGINES, **FREEZABLE} if name != "exmapdb"]


class Data(enum.StrEnum):
    """How much of the data the caches hold."""

    MEMORY = "memory"
    FOUR = "4x"


class Popular(enum.StrEnum):
    """How keys are chosen."""

    ZIPFIAN = "zipfian"
    UNIFORM = "uniform"


class Beside(enum.StrEnum):
    """What the reader of mixed does."""

    SCAN = "scan"
    BACKGROUND = "background"
    FREEZE = "freeze"
    BURN = "burn"


def parse_names(text: str, known: list[str]) -> list[str]:
    """Return the names in a list with commas. BadParameter for others."""
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"no {', '.join(unknown)}; there is {', '.join(known)}")
    return names


def run_all(config: Config, advance: Callable[[str], None]) -> list[Record]:
    """Run what was asked for."""
    records: list[Record] = []
    if config.among(WORKLOADS):
        records += run_ycsb(config, advance)
    if config.among(["mixed"]):
        records += run_mixed(config, advance)
    if config.among(["tpcc"]):
        records += run_tpcc(config, advance)
    return records


def bench(
    workloads: Annotated[str, typer.Option(help="Some of ycsb-a to ycsb-f, mixed, tpcc.")] = ",".join(ALL),
    peers: Annotated[str, typer.Option(help="Some of sqlite, lmdb and fork.")] = ",".join(PEERS),
    data: Annotated[Data, typer.Option(help="All of it in the cache, or a quarter.")] = Data.MEMORY,
    record_count: Annotated[int, typer.Option("--rows", min=1000, help="Rows of 100 bytes.")] = 100_000,
    operations: Annotated[int, typer.Option(min=256, help="Operations a round.")] = 5_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which medians are taken.")] = 3,
    threads: Annotated[int, typer.Option(min=1, max=32, help="Writers of mixed, terminals of tpcc.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long each run of mixed and tpcc is.")] = 2.0,
    warehouses: Annotated[int, typer.Option(min=1, help="Of tpcc.")] = 1,
    customers: Annotated[int, typer.Option(min=10, help="Of tpcc, in a district.")] = 3_000,
    items: Annotated[int, typer.Option(min=100, help="Of tpcc.")] = 100_000,
    keys: Annotated[Popular | None, typer.Option(help="How keys are chosen. Default: as YCSB says.")] = None,
    durable: Annotated[bool, typer.Option(help="Changes are on the disk when they return.")] = True,
    backend: Annotated[str, typer.Option(help="auto, kernel or posix.")] = "auto",
    folder: Annotated[Path | None, typer.Option(help="Where files go. Default: a temporary one.")] = None,
    beside: Annotated[
        Beside,
        typer.Option(
            help="What mixed's reader does: background: exmapdb scans at the least priority; "
            "freeze: no scan; burn: nothing of the engine."
        ),
    ] = Beside.SCAN,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Run YCSB beside SQLite (WAL) and LMDB, and scan against memcpy.

    In batches 256 operations are a lookup and a transaction. LMDB's cache is the page cache, which nothing
    bounds here: it is left out of --data 4x. Mixed is writers beside a reader that looks at all rows as
    they were, again and again; its peers are SQLite and fork, a child process that sees the memory of this
    engine as it was. It needs all data in memory, and is left out of --data 4x. TPC-C runs its five
    transactions in the standard's mix, with so many terminals, with one, and with as many on SQLite, and
    checks the consistency conditions 1 to 4 afterwards, on both.
    """
    chosen = parse_names(peers, PEERS)
    works = parse_names(workloads, ALL)
    if data is Data.FOUR:
        chosen = [name for name in chosen if name != "lmdb"]
        works = [name for name in works if name != "mixed"]
    config = Config(
        works,
        chosen,
        record_count,
        operations,
        rounds,
        str(data),
        durable,
        None if keys is None else str(keys),
        backend,
        folder,
        threads,
        seconds,
        warehouses,
        customers,
        items,
        str(beside),
    )
    console = Console(stderr=True)
    try:
        available(chosen)
        with console.status("") as status:
            records = run_all(config, lambda step: status.update(step))
    except (ExmapdbError, OSError, ImportError) as error:
        typer.echo(f"exmapdb: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(record) for record in records], indent=2))
        return
    grid = Grid(*COLUMNS)
    for row in rows(records):
        grid.add_row(*(f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(grid)
