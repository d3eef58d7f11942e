"""The command line: exmapdb demo, stat, check, import, export, drop, backup, restore, shell, bench."""

import code
import contextlib
import dataclasses
import enum
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from exmapdb.backup import BackupResult, restore
from exmapdb.bench.cli import bench
from exmapdb.database import Backend, Database
from exmapdb.demo import Demo, DemoConfig, DemoResult
from exmapdb.errors import ExmapdbError
from exmapdb.files import export_table, import_table
from exmapdb.opening import open_database

__all__ = ["app"]

PAGES_PER_MIB = 256

app = typer.Typer(help="A database whose pages live in memory that it maps itself.", no_args_is_help=True)


app.command()(bench)


class BackendName(enum.StrEnum):
    """Where the frames come from."""

    AUTO = "auto"
    KERNEL = "kernel"
    POSIX = "posix"


BackendOption = Annotated[BackendName, typer.Option(help="kernel needs the module; auto finds out.")]
MemoryOption = Annotated[str, typer.Option(help="Size of the frame pool.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]


class BarReporter:
    """Shows how far the demo has come, on stderr."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, name: str, total: int) -> None:
        """Begin a new bar, leaving the last one full."""
        self._finish()
        self._task = self._progress.add_task(name, total=total)

    def advance(self, done: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=self._progress.tasks[self._task].total)


def make_progress() -> Progress:
    """Make a progress bar on stderr, shown only if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<14}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def make_grid(title: str, *columns: str) -> Grid:
    """Make a table whose columns but the first are aligned to the right."""
    grid = Grid(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        grid.add_column(column, justify="right" if i else "left")
    return grid


def fail(error: Exception) -> typer.Exit:
    """Say what went wrong in one line, and return what ends the program with 1."""
    typer.echo(f"exmapdb: {error}", err=True)
    return typer.Exit(1)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn what goes wrong in the block into a line, and end the program with 1."""
    try:
        yield
    except (ExmapdbError, OSError, ValueError, ImportError) as error:
        raise fail(error) from error


def open_existing(path: Path, memory: str, backend: BackendName) -> Database:
    """Open a database that there is; see open_database."""
    return open_database(path, memory=memory, backend=cast("Backend", str(backend)), flag="w")


@app.command()
def demo(
    backend: BackendOption = BackendName.AUTO,
    device: Annotated[
        Path | None,
        typer.Option(
            help="Block device, file, or nvme:ADDRESS to use; its content is lost. Default: a temporary file."
        ),
    ] = None,
    memory: MemoryOption = "16MiB",
    rows: Annotated[int | None, typer.Option(min=1, help="Load only the first rows.")] = None,
    lookups: Annotated[int, typer.Option(min=1, help="Random point lookups.")] = 5_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the random choice of rows.")] = 2013,
    force: Annotated[bool, typer.Option(help="Overwrite a file system or other data on the device.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load a year of flights into a table larger than its memory, query it, and check every result."""
    chosen = cast("Backend", str(backend))
    config = DemoConfig(chosen, device, memory, rows, lookups, seed, force)
    try:
        with make_progress() as progress:
            result = Demo(config, BarReporter(progress)).run()
    except (ExmapdbError, OSError, ValueError) as error:
        if not as_json:
            typer.echo(f"demo: FAILED: {error}")
            raise typer.Exit(1) from error
        raise fail(error) from error
    if as_json:
        typer.echo(json.dumps(demo_as_json(result), indent=2))
    else:
        print_demo(result)
    if not result.ok:
        raise typer.Exit(1)


def demo_as_json(result: DemoResult) -> dict[str, Any]:
    """Return the demo's result as plain values."""
    plain = dataclasses.asdict(result)
    for entry, phase in zip(plain["phases"], result.phases, strict=True):
        entry |= {"rate": phase.rate, "hit_rate": phase.hit_rate}
    for entry, check in zip(plain["checks"], result.checks, strict=True):
        entry["ok"] = check.ok
    for name, carrier in result.carriers.items():
        plain["carriers"][name]["mean_delay"] = carrier.mean_delay
    return plain | {"ok": result.ok, "verdict": result.verdict}


def print_demo(result: DemoResult) -> None:
    """Print the demo's tables, and its verdict as the last line."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    headline = (
        f"{result.rows:,} flights on {result.path} ({result.storage}), {result.backend} backend: "
        f"{result.table_pages / PAGES_PER_MIB:.1f} MiB of pages in a pool of "
        f"{result.pool_pages / PAGES_PER_MIB:.1f} MiB, region {result.region_pages / PAGES_PER_MIB:,.0f} MiB"
    )
    names = ("", "rows", "s", "rows/s", "hit rate", "read", "written", "evicted", "flushes", "rescues")
    grid = make_grid(headline, *names)
    for p in result.phases:
        counts = (p.pages_read, p.pages_written, p.evicted, p.tlb_flushes, p.rescues)
        grid.add_row(
            p.name,
            f"{p.operations:,}",
            f"{p.seconds:.2f}",
            f"{p.rate:,.0f}",
            f"{p.hit_rate:.1%}",
            *(f"{n:,}" for n in counts),
        )
    console.print(grid)
    if result.snapshot is not None:
        s = result.snapshot
        columns = ("freeze, µs", "pages frozen", "copied", "changed", "rows rewritten", "compared")
        grid = make_grid("Frozen pages, while a writer deletes and reinserts rows", *columns)
        counts = (s.pages, s.copied, s.changed, s.rows, s.comparisons)
        grid.add_row(f"{s.microseconds:,.0f}", *(f"{n:,}" for n in counts))
        console.print(grid)
    grid = make_grid("Departures by carrier", "carrier", "flights", "departed", "mean delay, min")
    for name, carrier in result.carriers.items():
        mean = "-" if carrier.mean_delay is None else f"{carrier.mean_delay:.2f}"
        grid.add_row(name, f"{carrier.flights:,}", f"{carrier.departed:,}", mean)
    console.print(grid)
    grid = make_grid(
        "Checked against the source, the snapshot against the file", "check", "compared", "result"
    )
    for check in result.checks:
        grid.add_row(check.name, f"{check.compared:,}", "[green]ok[/]" if check.ok else "[red]WRONG[/]")
    console.print(grid)
    typer.echo(f"{result.seconds:.1f} s in all")
    typer.echo(result.verdict)


@app.command()
def stat(
    path: Annotated[Path, typer.Argument(help="File or block device with a database.")],
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "16MiB",
    as_json: JsonOption = False,
) -> None:
    """Show what is in a database: its tables, their columns and rows, its pages."""
    with errors_in_one_line(), open_existing(path, memory, backend) as database:
        summary = summarise(database)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(f"{summary['path']}: {summary['pages']:,} pages, {len(summary['tables'])} tables")
    for table in summary["tables"]:
        grid = make_grid(f"{table['name']}: {table['rows']:,} rows", "column", "type", "key")
        for column in table["columns"]:
            place = table["key"].index(column["name"]) + 1 if column["name"] in table["key"] else ""
            grid.add_row(column["name"], column["type"], str(place))
        Console().print(grid)


PathArgument = Annotated[Path, typer.Argument(help="File or block device with a database.")]
TableArgument = Annotated[str, typer.Argument(help="Name of a table.")]


@app.command()
def check(
    path: PathArgument,
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "16MiB",
    as_json: JsonOption = False,
) -> None:
    """Check every page of a database: order, checksums, and that none is lost; recovers it if need be."""
    with errors_in_one_line(), open_existing(path, memory, backend) as database:
        found = dataclasses.asdict(database.check()) | {"recovered": database.stats().recovered}
    if as_json:
        typer.echo(json.dumps({"path": str(path), "ok": True} | found, indent=2))
        return
    pages = f"{found['tree_pages']:,} pages of {found['trees']:,} trees"
    pages += f", {found['extent_pages']:,} of large values, {found['free_pages']:,} free"
    typer.echo(f"{path}: ok: {pages}, {found['stored_pages']:,} read from the disk")
    if found["recovered"]:
        typer.echo(f"{found['recovered']:,} transactions were replayed from the log")


@app.command("import")
def import_file(
    path: Annotated[Path, typer.Argument(help="File or block device; a new file becomes a database.")],
    table: TableArgument,
    source: Annotated[Path, typer.Argument(help="What to read: .csv, .parquet or .arrow.")],
    key: Annotated[list[str] | None, typer.Option(help="Column of the key, to make the table.")] = None,
    replace: Annotated[bool, typer.Option(help="Replace rows whose keys are there.")] = False,
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "64MiB",
    as_json: JsonOption = False,
) -> None:
    """Insert the rows of a file into a table."""
    with errors_in_one_line():
        database = open_database(path, memory=memory, backend=cast("Backend", str(backend)))
        with database, make_progress() as progress:
            bar = partial(move_bar, progress, progress.add_task("import", total=None))
            moved = import_table(database, table, source, tuple(key or ()), replace, bar)
    report_rows(as_json, table, source, moved)


@app.command("export")
def export_file(
    path: PathArgument,
    table: TableArgument,
    target: Annotated[Path, typer.Argument(help="What to write: .csv, .parquet or .arrow.")],
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "64MiB",
    as_json: JsonOption = False,
) -> None:
    """Write the rows of a table to a file."""
    with errors_in_one_line():
        database = open_existing(path, memory, backend)
        with database, make_progress() as progress:
            bar = partial(move_bar, progress, progress.add_task("export", total=None))
            moved = export_table(database.table(table), target, bar)
    report_rows(as_json, table, target, moved)


@app.command("drop")
def drop_table(
    path: PathArgument,
    table: TableArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "16MiB",
    as_json: JsonOption = False,
) -> None:
    """Drop a table with its rows and indexes, after a question; its pages serve again."""
    with errors_in_one_line(), open_existing(path, memory, backend) as database:
        database.table(table)
        if not yes:
            typer.confirm(f"{path}: drop table {table} with all its rows?", abort=True, err=True)
        before = database.stats().free_pages
        database.drop_table(table)
        freed = database.stats().free_pages - before
    if as_json:
        typer.echo(json.dumps({"table": table, "freed_pages": freed}, indent=2))
    else:
        typer.echo(f"table {table}: {freed:,} pages given back")


@app.command()
def backup(
    path: PathArgument,
    target: Annotated[Path, typer.Argument(help="File to write.")],
    base: Annotated[Path | None, typer.Option(help="An earlier backup: store what differs.")] = None,
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "64MiB",
    as_json: JsonOption = False,
) -> None:
    """Write all pages of a database to a file, or those that have changed since an earlier backup."""
    with errors_in_one_line(), open_existing(path, memory, backend) as database:
        done = database.backup(target, base)
    report_pages(as_json, done)


@app.command("restore")
def restore_database(
    path: Annotated[Path, typer.Argument(help="File or block device for the database.")],
    backups: Annotated[
        list[Path], typer.Argument(help="A backup, and the ones based on it, in their order.")
    ],
    force: Annotated[bool, typer.Option(help="Overwrite what is there.")] = False,
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "64MiB",
    as_json: JsonOption = False,
) -> None:
    """Make a database of backups, and check every page of it."""
    with errors_in_one_line():
        done = restore(path, backups, force=force, memory=memory, backend=cast("Backend", str(backend)))
    report_pages(as_json, done)


@app.command()
def shell(
    path: Annotated[Path, typer.Argument(help="File or block device; a new file becomes a database.")],
    command: Annotated[str | None, typer.Option("--command", "-c", help="Run this, and end.")] = None,
    backend: BackendOption = BackendName.AUTO,
    memory: MemoryOption = "64MiB",
) -> None:
    """Run Python with the database open as `db`, and each table under its name."""
    chosen = cast("Backend", str(backend))
    with errors_in_one_line(), open_database(path, memory=memory, backend=chosen) as database:
        tables = {name: database.table(name) for name in database.tables() if name.isidentifier()}
        names = {"exmapdb": sys.modules["exmapdb"], **tables, "db": database}
        if command is None:
            code.interact(f"db: {database.path}; tables: {', '.join(tables) or 'none'}", local=names)
        else:
            exec(compile(command, "<command>", "single"), names)


def report_pages(as_json: bool, done: BackupResult) -> None:
    """Print what backup and restore have done."""
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done), indent=2))
    else:
        typer.echo(
            f"{done.path}: {done.stored:,} of {done.pages:,} pages, {done.read:,} read, {done.bytes:,} bytes"
        )


def move_bar(progress: Progress, task: TaskID, rows: int) -> None:
    """Show how far it has come."""
    progress.update(task, completed=rows)


def report_rows(as_json: bool, table: str, file: Path, rows: int) -> None:
    """Print what import and export have done."""
    if as_json:
        typer.echo(json.dumps({"table": table, "file": str(file), "rows": rows}, indent=2))
    else:
        typer.echo(f"{rows:,} rows, table {table}, {file}")


def summarise(database: Database) -> dict[str, Any]:
    """Return what `stat` shows, as plain values."""
    tables = []
    for name in database.tables():
        table = database.table(name)
        columns = [{"name": field.name, "type": str(field)} for field in table.schema.fields]
        entry = {"name": name, "rows": table.count(), "key": list(table.schema.key), "columns": columns}
        tables.append(entry)
    stats = database.stats()
    return {
        "path": database.path,
        "backend": stats.backend,
        "pages": stats.allocated_pages,
        "free_pages": stats.free_pages,
        "recovered": stats.recovered,
        "tables": tables,
    }
