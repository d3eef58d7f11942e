"""Memory that rows are decoded into by the native core."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from exmapdb._core import ffi, lib
from exmapdb.column import Batch, Column, to_python
from exmapdb.schema import ColumnType, Field

__all__ = ["RowBuffer", "ScanBuffer"]

TEXT_BYTES = 16  # what a text is expected to need; a scan's batch ends where they do not suffice

_C_ARRAY = {"b1": "uint8_t[1]", "i4": "int32_t[1]", "i8": "int64_t[1]", "f8": "double[1]"}


class RowBuffer:
    """One row's worth of vectors, for `get`; belongs to one worker of the database."""

    __slots__ = ("_cells", "key", "vectors")

    def __init__(self, fields: Sequence[Field]) -> None:
        self.key = ffi.new("struct exdb_key *")
        self.vectors = ffi.new("struct exdb_vector[]", len(fields))
        self._cells: list[tuple[str, Any, Any, Any, Callable[[Any], Any] | None]] = []
        for field, vector in zip(fields, self.vectors, strict=True):
            valid = ffi.new("uint8_t[1]")
            offsets = ffi.NULL
            if field.type.has_offsets:
                values, offsets = ffi.new("char[]", lib.EXDB_ROW_MAX), ffi.new("int32_t[2]")
                vector.capacity = lib.EXDB_ROW_MAX
            else:
                values = ffi.new(_C_ARRAY[field.type.storage.str[1:]])
            vector.values, vector.valid, vector.offsets = values, valid, offsets
            convert = bytes.decode if field.type is ColumnType.TEXT else to_python(field.type)
            self._cells.append((field.name, values, valid, offsets, convert))

    def to_row(self) -> dict[str, Any]:
        """Return what the vectors hold as Python's values."""
        row: dict[str, Any] = {}
        for name, values, valid, offsets, convert in self._cells:
            if not valid[0]:
                row[name] = None
            elif offsets:
                found = ffi.unpack(values, offsets[1])
                row[name] = found if convert is None else convert(found)
            else:
                row[name] = values[0] if convert is None else convert(values[0])
        return row


class ScanBuffer:
    """The memory that a scan's next batch is decoded into; each batch gets a new one.

    text: bytes that each text is expected to have.
    """

    def __init__(
        self, fields: Sequence[Field], wanted: frozenset[str], rows: int, text: int = TEXT_BYTES
    ) -> None:
        self.vectors = ffi.new("struct exdb_vector[]", len(fields))
        self._columns: list[tuple[Field, Any, Any, Any]] = []
        self._keep: list[Any] = []
        for field, vector in zip(fields, self.vectors, strict=True):
            if field.name not in wanted:
                continue
            valid = np.empty(rows, np.bool_) if field.nullable else None
            offsets = None
            if field.type.has_offsets:
                values = np.empty(max(rows * text, lib.EXDB_ROW_MAX), np.uint8)
                offsets = np.zeros(rows + 1, np.int32)
                vector.capacity = len(values)
                vector.offsets = self._pin("int32_t[]", offsets)
            else:
                values = np.empty(rows, field.type.storage)
            vector.values = self._pin("char[]", values)
            if valid is not None:
                vector.valid = self._pin("uint8_t[]", valid)
            self._columns.append((field, values, valid, offsets))

    def _pin(self, kind: str, array: Any) -> Any:
        self._keep.append(ffi.from_buffer(kind, array))
        return self._keep[-1]

    def to_batch(self, rows: int, names: Sequence[str]) -> Batch:
        """Return the first rows as columns that share this memory."""
        columns = {}
        for field, values, valid, offsets in self._columns:
            used = None if valid is None or valid[:rows].all() else valid[:rows]
            if offsets is None:
                columns[field.name] = Column(field.type, values[:rows], used)
            else:
                ends = offsets[: rows + 1]
                columns[field.name] = Column(field.type, values[: ends[-1]], used, ends)
        return Batch({name: columns[name] for name in names}, rows)
