"""The command line: exmapdb bench."""

import dataclasses
import enum
import json
from pathlib import Path
from typing import Annotated

import typer
from exmapctl.bench.record import COLUMNS, rows
from rich.console import Console
from rich.table import Table as Grid

from exmapdb.bench.engines import ENGINES, available
from exmapdb.bench.runner import Config, run_ycsb
from exmapdb.bench.ycsb import WORKLOADS
from exmapdb.errors import ExmapdbError

__all__ = ["bench"]


class Data(enum.StrEnum):
    """How much of the data the caches hold."""

    MEMORY = "memory"
    FOUR = "4x"


class Popular(enum.StrEnum):
    """How keys are chosen."""

    ZIPFIAN = "zipfian"
    UNIFORM = "uniform"


def parse_names(text: str, known: list[str]) -> list[str]:
    """Return the names in a list with commas. BadParameter for others."""
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"no {', '.join(unknown)}; there is {', '.join(known)}")
    return names


def bench(
    workloads: Annotated[str, typer.Option(help="Some of ycsb-a to ycsb-f.")] = ",".join(WORKLOADS),
    peers: Annotated[str, typer.Option(help="Some of sqlite and lmdb.")] = "sqlite,lmdb",
    data: Annotated[Data, typer.Option(help="All of it in the cache, or a quarter.")] = Data.MEMORY,
    record_count: Annotated[int, typer.Option("--rows", min=1000, help="Rows of 100 bytes.")] = 100_000,
    operations: Annotated[int, typer.Option(min=256, help="Operations a round.")] = 5_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which medians are taken.")] = 3,
    keys: Annotated[Popular | None, typer.Option(help="How keys are chosen. Default: as YCSB says.")] = None,
    durable: Annotated[bool, typer.Option(help="Changes are on the disk when they return.")] = True,
    backend: Annotated[str, typer.Option(help="auto, kernel or posix.")] = "auto",
    folder: Annotated[Path | None, typer.Option(help="Where files go. Default: a temporary one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Run YCSB beside SQLite (WAL) and LMDB, and scan against memcpy.

    In batches 256 operations are a lookup and a transaction. LMDB's cache is the page cache, which nothing
    bounds here: it is left out of --data 4x.
    """
    chosen = parse_names(peers, [name for name in ENGINES if name != "exmapdb"])
    if data is Data.FOUR:
        chosen = [name for name in chosen if name != "lmdb"]
    config = Config(
        parse_names(workloads, list(WORKLOADS)),
        chosen,
        record_count,
        operations,
        rounds,
        str(data),
        durable,
        None if keys is None else str(keys),
        backend,
        folder,
    )
    console = Console(stderr=True)
    try:
        available(chosen)
        with console.status("") as status:
            records = run_ycsb(config, lambda step: status.update(step))
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
