"""Indexes of tables whose entries do not fit one transaction.

The index is written down as unfinished: writers keep it from then on, and nobody reads it. Then the rows that
were there get their entries, in transactions of their own, and the last one finishes it. A crash in between
leaves an unfinished one, which goes when the index is made again, or dropped.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from exmapdb._core import ffi
from exmapdb.errors import ExmapdbError

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.transaction import Transaction

__all__ = ["build_index", "fill", "has_leftover"]

ATTEMPTS = 1000  # of the entries of a part: each conflict means that a writer has got in between


def has_leftover(database: Database, table: str, index: str) -> bool:
    """Return whether there is an index of this name that was never finished. NoSuchTableError."""
    info = database.run(lambda txn: database.catalog.load(table, txn))
    return any(known.name == index and known.unfinished for known in info.indexes)


def build_index(
    database: Database, table: str, index: str, columns: tuple[str, ...], unique: bool, rows: int
) -> None:
    """Make an index, so many rows in a transaction. Raises what Database.create_index raises."""
    database.run(lambda txn: txn.declare_index(table, index, columns, unique))
    try:
        start: Any = ffi.new("struct exdb_key *")
        more = True
        while more:
            part = functools.partial(fill, table=table, index=index, start=start, rows=rows)
            more, start = database.run(part, attempts=ATTEMPTS)
        database.run(lambda txn: database.catalog.finish_index(txn, table, index))
    except BaseException:
        with contextlib.suppress(ExmapdbError):
            database.drop_index(table, index)
        raise


def fill(txn: Transaction, table: str, index: str, start: Any, rows: int) -> tuple[bool, Any]:
    """Fill a part of an index; whether there is more, and from where."""
    # one that conflicts begins at the same place again
    end = ffi.new("struct exdb_key *", start[0])
    return txn.fill_index(table, index, end, rows), end
