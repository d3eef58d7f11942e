"""Tables to and from files: CSV, Parquet and Arrow, by way of pyarrow."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from exmapdb import arrow
from exmapdb.database import Database
from exmapdb.errors import SchemaError
from exmapdb.table import Table

__all__ = ["export_table", "import_table"]

IMPORT_ROWS: Final = 20_000
IMPORT_BYTES: Final = 8 << 20
KINDS: Final = (".csv", ".parquet", ".arrow")

Progress = Callable[[int], None]


def check_kind(path: Path) -> str:
    """Return what the file's name says it is. SchemaError."""
    if path.suffix not in KINDS:
        raise SchemaError(f"{path.name}: not one of {', '.join(KINDS)}")
    return path.suffix


@contextlib.contextmanager
def open_reader(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Open a file: its schema, and an iterator over its record batches."""
    arrow.load_pyarrow()
    match check_kind(path):
        case ".csv":
            import pyarrow.csv

            # types are guessed from the first block: let that be long
            options = pyarrow.csv.ReadOptions(block_size=16 << 20)
            with pyarrow.csv.open_csv(path, read_options=options) as reader:
                yield reader.schema, iter(reader)
        case ".parquet":
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:
                size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
                yield file.schema_arrow, file.iter_batches(rows_of(file.metadata.num_rows, size))
        case _:
            import pyarrow.ipc

            with pyarrow.ipc.open_file(path) as file:
                yield file.schema, (file.get_batch(i) for i in range(file.num_record_batches))


def import_table(
    database: Database, name: str, path: Path, key: tuple[str, ...], replace: bool, progress: Progress
) -> int:
    """Insert the rows of a file into a table, which is made if there is none, and return how many.

    key: of a table that is made.  Each part of 20,000 rows, or of 8 MiB, is a transaction of its own.
    Raises SchemaError, the errors of pyarrow, and those of Table.insert_many.
    """
    with open_reader(path) as (schema, batches):
        table = find_or_make(database, name, schema, key)
        rows = 0
        for batch in batches:
            part = rows_of(batch.num_rows, batch.nbytes)
            for start in range(0, batch.num_rows, part):
                rows += table.insert_many(batch.slice(start, part), replace)
                progress(rows)
    return rows


def rows_of(rows: int, size: int) -> int:
    """Return how many of rows that have so many bytes together make a transaction."""
    return max(1, min(IMPORT_ROWS, IMPORT_BYTES * rows // max(size, 1)))


def find_or_make(database: Database, name: str, schema: Any, key: tuple[str, ...]) -> Table:
    """Return the table, or make it as the file has it."""
    if name in database:
        return database.table(name)
    if not key:
        raise SchemaError(f"there is no table {name!r}: name the columns of its key to make it")
    return database.create_table(name, arrow.fields_of(schema, key), key)


@contextlib.contextmanager
def open_writer(path: Path, schema: Any) -> Iterator[Callable[[Any], None]]:
    """Make a file; the function writes a record batch to it."""
    match check_kind(path):
        case ".csv":
            import pyarrow.csv as writers

            make = functools.partial(writers.CSVWriter, path, schema)
        case ".parquet":
            import pyarrow.parquet as parquet

            make = functools.partial(parquet.ParquetWriter, path, schema)
        case _:
            import pyarrow.ipc as ipc

            make = functools.partial(ipc.new_file, path, schema)
    with make() as writer:
        yield writer.write_batch if hasattr(writer, "write_batch") else writer.write


def export_table(table: Table, path: Path, progress: Progress) -> int:
    """Write all rows of a table to a file, in the order of its key, and return how many. SchemaError."""
    check_kind(path)
    rows = 0
    reader = table.record_batches()
    with open_writer(path, reader.schema) as write:
        for batch in reader:
            write(batch)
            rows += batch.num_rows
            progress(rows)
    return rows
