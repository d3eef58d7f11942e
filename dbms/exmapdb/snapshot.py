"""All tables of a database as they were at one moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from exmapdb._core import ffi
from exmapdb.frozen import FreezeStats, Frozen
from exmapdb.layout import Key, Layout
from exmapdb.table import Table

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.workers import Worker

__all__ = ["Snapshot"]


class Snapshot:
    """A read-only transaction: it sees what had been committed when it was made, and never conflicts.

    Writers go on, and neither waits for the other.  Any thread may read, one at a time.  Close it: while
    there is one, half the pool is left to copies, and no block that it refers to is used again.
    Made by Database.snapshot.  background: its scans run at the least priority.
    """

    writable: ClassVar[bool] = False

    def __init__(self, database: Database, frozen: Frozen, background: bool = False) -> None:
        self.background = background
        self._database = database
        self._frozen = frozen
        self._closed = False
        self._tables: dict[str, Table] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tables(self) -> list[str]:
        """Return the names of all tables that there were."""
        return self._database.catalog.names(self)

    def table(self, name: str) -> Table:
        """Return a table as it was, for reading. NoSuchTableError."""
        if name not in self._tables:
            known = self._database.known_layout(name, self._frozen.schema)
            info = known.info if known else self._database.catalog.load(name, self)
            # what it sees never changes, so that no generation of the catalog matters
            self._tables[name] = Table(self._database, Layout(info, 0), self)
        return self._tables[name]

    def stats(self) -> FreezeStats:
        """Return what it has cost so far. ValueError after close."""
        return self._frozen.stats()

    def close(self) -> None:
        """Give back what it holds; again does nothing."""
        if not self._closed:
            self._closed = True
            self._frozen.close()

    @contextlib.contextmanager
    def session(self) -> Iterator[tuple[Worker, Any]]:
        """Lend the channel that sees the tables as they were. ValueError after close."""
        if self._closed:
            raise ValueError("the snapshot is closed")
        with self._frozen.reader() as worker:
            yield worker, ffi.NULL

    def read(self, _layout: Layout, _key: Key) -> Any:
        """Leave it to what takes a session: the quick way knows no snapshots."""
        return NotImplemented
