"""How results reach people (tables, on stdout) and programs (JSON, alone on stdout)."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["JsonOption", "emit", "make_progress", "print_json", "print_table", "to_plain"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]

STYLES = {"ok": "green", "pass": "green", "warn": "yellow", "fail": "red"}


def print_json(value: Any) -> None:
    """Print a value, or dataclasses, as JSON on stdout."""
    typer.echo(json.dumps(to_plain(value), indent=2))


def to_plain(value: Any) -> Any:
    """Turn dataclasses into dictionaries, at any depth of lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], to_stderr: bool = False
) -> None:
    """Print rows below a title; words like ok and fail are coloured."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(format_cell(cell) for cell in row))
    Console(stderr=to_stderr).print(table)


def format_cell(cell: object) -> str:
    """Write one cell: numbers to four significant digits, states in their colour."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    text = str(cell).replace("[", r"\[")
    return f"[{STYLES[text]}]{text}[/]" if text in STYLES else text


def emit(
    as_json: bool, value: Any, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Print `value` as JSON, or `rows` as a table."""
    if as_json:
        print_json(value)
    else:
        print_table(title, columns, rows)


def make_progress() -> Progress:
    """Make a progress bar on stderr, shown only if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
