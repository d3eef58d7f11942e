"""Memory that rows are decoded into by the native core."""

import dataclasses
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from exmapdb._core import ffi, lib
from exmapdb.column import Batch, Column, to_python
from exmapdb.schema import ColumnType, Field

__all__ = ["BufferPool", "RowBuffer", "ScanBuffer", "TextRoom"]

ROW_MAX: Final = int(lib.EXDB_ROW_MAX)
TEXT_BYTES = 16  # what a text is expected to need at first; a scan's batch ends where they do not suffice
FEW_ROWS: Final = 256  # for fewer any buffer of no more will do
SPARES, SPARE_BYTES = 8, 8 << 20  # that a database keeps at most for its next scans
BATCH_BYTES: Final = 4 << 20  # that the texts of a column get in a batch, unless one needs more
ROW_BYTES: Final = 4 << 20  # that a worker keeps for the texts of the next row
TEXT_MAX: Final = 2**31 - 1  # Arrow's offsets have 32 bits

_C_ARRAY = {"b1": "uint8_t[1]", "i4": "int32_t[1]", "i8": "int64_t[1]", "f8": "double[1]"}


@dataclasses.dataclass(slots=True)
class TextRoom:
    """The bytes that texts get in a batch.

    expected: for one text, by its column, as far as that is known.  least: what a column needs in all.
    """

    expected: dict[str, int] = dataclasses.field(default_factory=dict)
    least: dict[str, int] = dataclasses.field(default_factory=dict)

    def of(self, column: Field, rows: int) -> int:
        """Return the bytes for the texts of so many rows."""
        expected = min(rows * self.expected.get(column.name, TEXT_BYTES), BATCH_BYTES)
        return max(expected, self.least.get(column.name, 0), ROW_MAX)


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
                values, offsets = ffi.new("char[]", ROW_MAX), ffi.new("int32_t[2]")
                vector.capacity = len(values)
            else:
                values = ffi.new(_C_ARRAY[field.type.storage.str[1:]])
            vector.values, vector.valid, vector.offsets = values, valid, offsets
            convert = bytes.decode if field.type is ColumnType.TEXT else to_python(field.type)
            self._cells.append((field.name, values, valid, offsets, convert))

    def grow(self) -> bool:
        """Make room for the texts that have found none; return whether there were any."""
        grown = False
        for place, vector in enumerate(self.vectors):
            if vector.needed > vector.capacity:
                self._give(place, int(vector.needed))
                grown = True
        return grown

    def shrink(self) -> None:
        """Give back what a long text has taken."""
        for place, vector in enumerate(self.vectors):
            if vector.capacity > ROW_BYTES:
                self._give(place, ROW_MAX)

    def _give(self, place: int, size: int) -> None:
        vector = self.vectors[place]
        name, _, valid, offsets, convert = self._cells[place]
        values = ffi.from_buffer("char[]", np.empty(size, np.uint8))
        vector.values, vector.capacity, vector.needed = values, size, 0
        self._cells[place] = (name, values, valid, offsets, convert)

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
    """The memory that a batch of a scan is decoded into."""

    def __init__(self, fields: Sequence[Field], wanted: frozenset[str], rows: int, texts: TextRoom) -> None:
        self.vectors = ffi.new("struct exdb_vector[]", len(fields))
        self._fields = fields
        self._wanted = wanted
        self._rows = rows
        self._columns: list[tuple[Field, Any, Any, Any]] = []
        self._arrays: list[NDArray[Any]] = []
        self._keep: list[Any] = []
        self._make_columns(texts)
        self.size = sum(array.nbytes for array in self._arrays)
        # nobody else has one yet, this method included
        self._references = self._count_references()

    def _make_columns(self, texts: TextRoom) -> None:
        rows = self._rows
        for field, vector in zip(self._fields, self.vectors, strict=True):
            if field.name not in self._wanted:
                continue
            valid = np.empty(rows, np.bool_) if field.nullable else None
            offsets = None
            if field.type.has_offsets:
                values = np.empty(texts.of(field, rows), np.uint8)
                offsets = np.empty(rows + 1, np.int32)
                offsets[0] = 0
                vector.capacity = len(values)
                vector.offsets = self._pin("int32_t[]", offsets)
            else:
                values = np.empty(rows, field.type.storage)
            vector.values = self._pin("char[]", values)
            if valid is not None:
                vector.valid = self._pin("uint8_t[]", valid)
            self._columns.append((field, values, valid, offsets))

    def _pin(self, kind: str, array: Any) -> Any:
        self._arrays.append(array)
        self._keep.append(ffi.from_buffer(kind, array))
        return self._keep[-1]

    def _count_references(self) -> int:
        return sum(map(sys.getrefcount, self._arrays))

    def is_idle(self) -> bool:
        """Return whether nobody has a batch, or anything that shares its memory, any more."""
        return self._count_references() == self._references

    def fits(self, fields: Sequence[Field], wanted: frozenset[str], rows: int, texts: TextRoom) -> bool:
        """Return whether it would do in place of a new one, without keeping much more memory."""
        if self._rows != rows and not rows < self._rows <= FEW_ROWS:
            return False
        if self._wanted != wanted or self._fields != fields:
            return False
        for field, values, _, offsets in self._columns:
            if offsets is not None and len(values) < texts.of(field, rows):
                return False
        return True

    def teach(self, texts: TextRoom, rows: int) -> None:
        """Note what texts should get from now on, by those of the first rows."""
        ends = {field.name: offsets[rows] for field, _, _, offsets in self._columns if offsets is not None}
        texts.expected |= {name: int(end) * 9 // (8 * rows) + 8 for name, end in ends.items()}

    def needs(self, texts: TextRoom) -> bool:
        """Say what texts that have found no room need; return whether there were any, and it can be had."""
        found = {
            field.name: max(int(vector.needed), 2 * int(vector.capacity))
            for field, vector in zip(self._fields, self.vectors, strict=True)
            if vector.needed > vector.capacity
        }
        texts.least |= {name: min(size, TEXT_MAX) for name, size in found.items()}
        return any(size > self._capacity(name) for name, size in texts.least.items())

    def _capacity(self, name: str) -> int:
        return next((len(values) for field, values, _, _ in self._columns if field.name == name), TEXT_MAX)

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


class BufferPool:
    """Memory that scans are done with, for others: what is new costs a page fault for each 4 KiB."""

    def __init__(self) -> None:
        self._spare: list[ScanBuffer] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, fields: Sequence[Field], wanted: frozenset[str], rows: int, texts: TextRoom) -> ScanBuffer:
        """Take one whose batch nobody has any more, or make one."""
        with self._lock:
            for place in range(len(self._spare) - 1, -1, -1):
                spare = self._spare[place]
                if spare.fits(fields, wanted, rows, texts) and spare.is_idle():
                    self._bytes -= spare.size
                    return self._spare.pop(place)
        room = rows if rows > FEW_ROWS else 1 << (rows - 1).bit_length()
        return ScanBuffer(fields, wanted, room, texts)

    def give(self, buffer: ScanBuffer) -> None:
        """Give one back, though its batch may still be used."""
        # a scan that is garbage ends anywhere, in this thread's `take`, too
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._spare.append(buffer)
            self._bytes += buffer.size
            while len(self._spare) > SPARES or self._bytes > SPARE_BYTES:
                self._bytes -= self._spare.pop(0).size
        finally:
            self._lock.release()
