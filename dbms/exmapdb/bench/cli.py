"""The command line: exmapdb bench."""

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from exmapctl.bench import targets as target
from exmapctl.bench.record import COLUMNS, Record, rows
from exmapctl.errors import MissingExtraError
from exmapctl.output import emit, print_table
from rich.console import Console

from exmapdb.bench.bounded import can_bound
from exmapdb.bench.config import Config
from exmapdb.bench.engines import ENGINES, FREEZABLE, available
from exmapdb.bench.mixed import run_mixed
from exmapdb.bench.report import require_report, write_report
from exmapdb.bench.runner import run_ycsb
from exmapdb.bench.targets import targets_of
from exmapdb.bench.tpcc_bench import run_tpcc
from exmapdb.bench.ycsb import WORKLOADS
from exmapdb.errors import ExmapdbError

__all__ = ["bench"]


ALL = [*WORKLOADS, "mixed", "tpcc"]
PEERS = [*(name for name in {**ENGINES, **FREEZABLE} if name != "exmapdb"), "duckdb"]


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
    workloads: Annotated[str, typer.Option(help="Some of ycsb-a to ycsb-f, update, mixed, tpcc.")] = ",".join(
        ALL
    ),
    peers: Annotated[str, typer.Option(help="Some of sqlite, lmdb, fork and duckdb.")] = ",".join(PEERS),
    data: Annotated[Data, typer.Option(help="All of it in the cache, or a quarter.")] = Data.MEMORY,
    record_count: Annotated[int, typer.Option("--rows", min=1000, help="Rows of 100 bytes.")] = 100_000,
    operations: Annotated[int, typer.Option(min=256, help="Operations a round.")] = 5_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which medians are taken.")] = 3,
    threads: Annotated[int, typer.Option(min=1, max=32, help="That work at the same time.")] = 1,
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
    device: Annotated[
        str | None,
        typer.Option(
            help="Where exmapdb has its database: a disk, or nvme: and an address. Its content is lost.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Hold the figures against the targets; exit code 1 if one is missed."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a report with figures drawn.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Run YCSB beside SQLite (WAL) and LMDB, and scan beside memcpy, these, and DuckDB.

    In batches 256 operations are a lookup and a transaction. LMDB's cache is the page cache: with --data 4x
    it gets a process and a memory cgroup, and is left out where that cannot be made. With several threads
    each has as many operations, and one is a peer. Mixed is writers beside a reader that looks at all rows as
    they were, again and again; its peers are SQLite and fork, a child process that sees the memory of this
    engine as it was. It needs all data in memory, and is left out of --data 4x. TPC-C runs its five
    transactions in the standard's mix, with so many terminals, with one, and with as many on SQLite, and
    checks the consistency conditions 1 to 4 afterwards, on both.
    """
    chosen = parse_names(peers, PEERS)
    works = parse_names(workloads, ALL)
    if data is Data.FOUR:
        if "lmdb" in chosen and not can_bound():
            chosen.remove("lmdb")
            typer.echo("without LMDB, whose page cache only root and cgroups (v2) can bound", err=True)
        works = [name for name in works if name != "mixed"]
    config = Config(
        works,
        chosen,
        rows=record_count,
        operations=operations,
        rounds=rounds,
        data=str(data),
        durable=durable,
        popular=None if keys is None else str(keys),
        backend=backend,
        folder=folder,
        threads=threads,
        seconds=seconds,
        warehouses=warehouses,
        customers=customers,
        items=items,
        beside=str(beside),
        device=device,
    )
    try:
        available(chosen)
        if html:
            require_report(html)
        with Console(stderr=True).status("") as status:
            records = run_all(config, lambda step: status.update(step))
    except (ExmapdbError, MissingExtraError, OSError, ImportError) as error:
        typer.echo(f"exmapdb: {error}", err=True)
        raise typer.Exit(1) from error
    targets = targets_of(records) if check else []
    if html:
        write_report(records, targets, html)
    emit(as_json, records, "medians of all rounds", COLUMNS, rows(records))
    if targets:
        print_table("targets", target.COLUMNS, target.rows(targets), to_stderr=as_json)
    raise typer.Exit(int(not all(found.passed for found in targets)))
