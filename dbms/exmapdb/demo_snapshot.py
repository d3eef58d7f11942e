"""The demo's snapshot: frozen pages stay what they were while a writer changes the table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from exmapdb.column import Batch
from exmapdb.database import Database
from exmapdb.frozen import Frozen
from exmapdb.table import Table

__all__ = ["SnapshotResult", "run_snapshot"]

WRITER_ROWS: Final = 8_000
BATCH_ROWS: Final = 500
CHANGED_SHARE: Final = 0.05  # of the frozen pages, lest the comparison prove nothing

Pages = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """What came of it; changed: frozen pages that the file has with other content afterwards."""

    microseconds: float
    pages: int
    copied: int
    changed: int
    rows: int
    comparisons: int
    problem: str = ""


class Writer(threading.Thread):
    """Deletes rows and inserts them again."""

    def __init__(self, table: Table, batches: list[Batch]) -> None:
        super().__init__(name="writer")
        self._table = table
        self._batches = batches
        self.done = 0
        self.error: Exception | None = None

    def run(self) -> None:
        """Run to the end, or to the first error."""
        try:
            for change in (self._table.delete_many, self._table.insert_many):
                for batch in self._batches:
                    self.done += change(batch.columns)
        except Exception as error:
            self.error = error


def run_snapshot(
    database: Database, table: Table, rows: int, start: Callable[[int], None], advance: Callable[[int], None]
) -> SnapshotResult:
    """Freeze, and compare the frozen pages with the file as it was, during writes and after them."""
    batches = last_rows(table, min(WRITER_ROWS, max(rows // 2, 1)))
    before = as_rows(batches)
    start(2 * len(before))
    database.checkpoint()
    with database.freeze() as frozen:
        expected = read_stored(database, frozen)
        writer = Writer(table, batches)
        writer.start()
        problem, comparisons = "", 0
        while writer.is_alive():
            problem = problem or compare(frozen, expected)
            comparisons += len(expected)
            advance(writer.done)
        writer.join()
        if writer.error is not None:
            raise writer.error
        database.checkpoint()
        problem = problem or compare(frozen, expected)
        comparisons += len(expected)
        after = read_stored(database, frozen)
        changed = sum(after[page] != content for page, content in expected.items())
        stats = frozen.stats()
    if not problem and changed < max(CHANGED_SHARE * len(expected), 1):
        problem = f"only {changed} of {len(expected)} pages changed: nothing is proved"
    if not problem and writer.done != 2 * len(before):
        problem = f"{writer.done} rows deleted and inserted, not {2 * len(before)}"
    if not problem and as_rows(last_rows(table, len(before))) != before:
        problem = "the writer's rows are not what they were"
    return SnapshotResult(
        stats.microseconds, stats.pages, stats.copied, changed, len(before), comparisons, problem
    )


def compare(frozen: Frozen, expected: Pages) -> str:
    """Return what differs first, or nothing."""
    for page, content in expected.items():
        if frozen.page(page) != content:
            return f"page {page} is not what it was"
    return ""


def last_rows(table: Table, rows: int) -> list[Batch]:
    """Return the rows with the largest keys, at least so many, descending."""
    batches: list[Batch] = []
    for batch in table.scan(reverse=True, batch_rows=BATCH_ROWS):
        batches.append(batch)
        rows -= len(batch)
        if rows <= 0:
            break
    return batches


def as_rows(batches: list[Batch]) -> list[tuple[Any, ...]]:
    """Return the rows of all batches."""
    return [tuple(row) for batch in batches for row in batch.to_rows()]


def read_stored(database: Database, frozen: Frozen) -> Pages:
    """Return the frozen pages as they were written last."""
    return {page: database.stored_page(page) for page in frozen.pages.tolist()}
