"""The record that every bench prints; docs/reference/bench-records.schema.json is its schema."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COLUMNS", "Record", "find", "rows"]

COLUMNS = ("case", "metric", "value", "unit", "baseline", "ratio")


@dataclass(frozen=True, slots=True)
class Record:
    """One figure.

    `case` is key=value pairs joined by commas, `baseline` names what the figure was compared with, and a
    `ratio` above 1 means that the figure is better than the baseline's.
    """

    bench: str
    case: str
    metric: str
    unit: str
    value: float
    baseline: str
    ratio: float


def find(records: Sequence[Record], case: str, metric: str) -> Record | None:
    """Find the record of a case and metric, or None."""
    for record in records:
        if record.case == case and record.metric == metric:
            return record
    return None


def rows(records: Sequence[Record]) -> list[tuple[object, ...]]:
    """Lay records out as rows below COLUMNS."""
    return [tuple(getattr(record, column) for column in COLUMNS) for record in records]
