"""How results reach people (tables, on stdout) and programs (JSON, alone on stdout).

Tables are laid out here, and nothing heavy is imported before it is needed: `exmapctl status` has to be quick
on slow machines.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["emit", "lay_out", "make_progress", "print_json", "print_table", "to_plain"]

COLOURS = {"ok": 32, "pass": 32, "warn": 33, "fail": 31}
GAP = 2
NARROWEST = 8
NO_TERMINAL = 80


def print_json(value: Any) -> None:
    """Print a value, or dataclasses and named tuples, as JSON on stdout."""
    import json

    print(json.dumps(to_plain(value), indent=2), flush=True)


def to_plain(value: Any) -> Any:
    """Turn dataclasses and named tuples into dictionaries, at any depth."""
    if hasattr(value, "_asdict"):
        return to_plain(value._asdict())
    if hasattr(value, "__dataclass_fields__"):
        return {name: to_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], to_stderr: bool = False
) -> None:
    """Print rows below a title, as wide as the terminal at most; words like ok and fail are coloured."""
    stream: TextIO = sys.stderr if to_stderr else sys.stdout
    coloured = stream.isatty() and "NO_COLOR" not in os.environ
    print(
        title,
        *lay_out(columns, rows, terminal_width(stream), coloured),
        "",
        sep="\n",
        file=stream,
        flush=True,
    )


def terminal_width(stream: TextIO) -> int:
    """Tell how wide lines may be; shutil, which knows that too, takes a while to import."""
    try:
        return (
            int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns or NO_TERMINAL
        )
    except (ValueError, OSError):
        return NO_TERMINAL


def lay_out(
    columns: Sequence[str], rows: Sequence[Sequence[object]], width: int, coloured: bool = False
) -> list[str]:
    """Lay out a table in lines of at most `width` characters; what is too long for its column is folded."""
    cells = [[format_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    shrink(widths, width - GAP * len(widths))
    lines = [*fold_row(columns, widths, False), "─" * min(width, sum(widths) + GAP * len(widths))]
    for row in cells:
        lines += fold_row(row, widths, coloured)
    return lines


def shrink(widths: list[int], whole: int) -> None:
    """Make the widest columns narrower until all fit."""
    while sum(widths) > whole and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1


def fold_row(cells: Sequence[str], widths: Sequence[int], coloured: bool) -> list[str]:
    """Lay one row out, in as many lines as its longest cell needs."""
    folded = [fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for number in range(max(map(len, folded))):
        line = ""
        for part, width in zip(folded, widths, strict=True):
            text = part[number] if number < len(part) else ""
            line += f" {paint(text, coloured)}{' ' * (width - len(text) + GAP - 1)}"
        lines.append(line.rstrip())
    return lines


def fold(text: str, width: int) -> list[str]:
    """Fold a text, at spaces if there are any."""
    parts = []
    while len(text) > width:
        at = text.rfind(" ", 1, width + 1)
        parts.append(text[: at if at > 0 else width])
        text = text[at + 1 :] if at > 0 else text[width:]
    return [*parts, text]


def paint(text: str, coloured: bool) -> str:
    """Colour a state."""
    return f"\x1b[{COLOURS[text]}m{text}\x1b[0m" if coloured and text in COLOURS else text


def format_cell(cell: object) -> str:
    """Write one cell: numbers to four significant digits."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return str(cell)


def emit(
    as_json: bool, value: Any, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Print `value` as JSON, or `rows` as a table."""
    if as_json:
        print_json(value)
    else:
        print_table(title, columns, rows)


def make_progress() -> "Progress":
    """Make a progress bar on stderr, shown only if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
