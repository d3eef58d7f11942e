"""Columns as vectors of the native core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from exmapdb._core import ffi
from exmapdb.column import Column
from exmapdb.errors import NullViolationError, SchemaError
from exmapdb.layout import Layout
from exmapdb.schema import ColumnType, Field

__all__ = ["make_vectors"]


def make_vectors(
    layout: Layout, given: Mapping[str, Any], key_only: bool = False
) -> tuple[Any, list[Any], int]:
    """Return vectors for the native core, what keeps their memory, and the number of rows."""
    schema = layout.schema
    unknown = set(given) - set(schema.names)
    if unknown:
        raise SchemaError(f"table {layout.info.name!r} has no column {', '.join(sorted(unknown))}")
    columns = {
        field.name: Column.of(field.type, given[field.name]) for field in schema.fields if field.name in given
    }
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise SchemaError(f"columns of different lengths: {sorted(lengths)}")
    rows = lengths.pop()
    vectors = ffi.new("struct exdb_vector[]", len(schema.fields))
    keep: list[Any] = []
    for field, vector in zip(schema.fields, vectors, strict=True):
        column = columns.get(field.name)
        if column is None and key_only:
            continue
        if column is None:
            column = _nulls(field.type, rows)
        _check_nulls(field, column)
        _point(vector, column, keep)
    return vectors, keep, rows


def _nulls(kind: ColumnType, rows: int) -> Column:
    text = kind.has_offsets
    values = np.zeros(0 if text else rows, kind.storage)
    return Column(kind, values, np.zeros(rows, np.bool_), np.zeros(rows + 1, np.int32) if text else None)


def _check_nulls(field: Field, column: Column) -> None:
    if field.nullable or column.valid is None or column.valid.all():
        return
    row = int(np.argmin(column.valid))
    raise NullViolationError(f"row {row}: column {field.name!r} takes no null")


def _point(vector: Any, column: Column, keep: list[Any]) -> None:
    def pin(kind: str, array: Any) -> Any:
        keep.append(ffi.from_buffer(kind, np.ascontiguousarray(array)))
        return keep[-1]

    vector.values = pin("char[]", column.values)
    if column.valid is not None:
        vector.valid = pin("uint8_t[]", column.valid)
    if column.offsets is not None:
        vector.offsets = pin("int32_t[]", column.offsets)
