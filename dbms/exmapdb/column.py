"""Columns and batches of them: what goes into tables and comes out."""

import datetime as dt
import decimal
import functools
import itertools
import operator
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exmapdb._core import lib
from exmapdb.errors import InvalidValueError
from exmapdb.schema import ColumnType

__all__ = ["Batch", "Column", "from_python", "to_python"]

EPOCH_DAY = dt.date(1970, 1, 1)
EPOCH = dt.datetime(1970, 1, 1)
WIDE = decimal.Context(prec=60, traps=[decimal.InvalidOperation])
MICROSECOND = dt.timedelta(microseconds=1)

Bools = NDArray[np.bool_]
Offsets = NDArray[np.int32]


def to_date(days: int) -> dt.date:
    """Convert days since 1970."""
    return EPOCH_DAY + dt.timedelta(days=days)


def to_timestamp(microseconds: int) -> dt.datetime:
    """Convert microseconds since 1970, UTC, to a datetime without a zone."""
    return EPOCH + dt.timedelta(microseconds=microseconds)


def from_date(value: Any) -> int:
    """Convert a date, or a datetime64, to days since 1970."""
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[D]").astype(np.int64))
    return int((value - EPOCH_DAY).days)


def from_timestamp(value: Any) -> int:
    """Convert a datetime (without a zone: UTC), or a datetime64, to microseconds since 1970."""
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[us]").astype(np.int64))
    if value.tzinfo is not None:
        value = value.astimezone(dt.UTC).replace(tzinfo=None)
    return int((value - EPOCH) // MICROSECOND)


def from_bool(value: Any) -> bool:
    """Take True or False, of Python or numpy, and no number."""
    if value is not True and value is not False and not isinstance(value, np.bool_):
        raise TypeError("not True or False")
    return bool(value)


def to_decimal(value: Any) -> decimal.Decimal:
    """Convert an int or a text. TypeError, DecimalException."""
    if not isinstance(value, decimal.Decimal | int | str | np.integer) or isinstance(value, bool):
        raise TypeError("not a Decimal")
    return decimal.Decimal(int(value) if isinstance(value, np.integer) else value)


def from_decimal(kind: ColumnType, value: Any) -> int:
    """Convert a Decimal, an int or a text to a number without the point. ValueError for lost digits."""
    try:
        exact = value if type(value) is decimal.Decimal else to_decimal(value)
        number = exact.scaleb(kind.scale, WIDE)
        # before it becomes an int, which may have any number of digits
        whole = int(number) if number.adjusted() < kind.precision or not number else None
    except (decimal.DecimalException, OverflowError, ValueError) as error:
        raise ValueError("no number, or too long a one") from error
    if whole is None or whole != number:
        raise ValueError("digits would be lost")
    return whole


_TO_PYTHON: dict[ColumnType, Callable[[Any], Any]] = {
    ColumnType.BOOL: bool,
    ColumnType.DATE: to_date,
    ColumnType.TIMESTAMP: to_timestamp,
}
_FROM_PYTHON: dict[ColumnType, Callable[[Any], Any]] = {
    ColumnType.BOOL: from_bool,
    ColumnType.INT32: operator.index,
    ColumnType.INT64: operator.index,
    ColumnType.FLOAT64: float,
    ColumnType.DATE: from_date,
    ColumnType.TIMESTAMP: from_timestamp,
}

# what the module array calls numbers of that size
_CODES = {lib.EXDB_INT32: "i", lib.EXDB_INT64: "q", lib.EXDB_FLOAT64: "d", lib.EXDB_DECIMAL: "q"}


def to_python(kind: ColumnType) -> Callable[[Any], Any] | None:
    """Return what turns a stored value into Python's, or None if it is that already."""
    if kind.is_decimal:
        return lambda number: decimal.Decimal(number).scaleb(-kind.scale, WIDE)
    return _TO_PYTHON.get(kind)


def to_stored(kind: ColumnType) -> Callable[[Any], Any] | None:
    """Return what turns a value of Python into what is stored, or None if it is that already."""
    if kind.is_decimal or kind in (ColumnType.DATE, ColumnType.TIMESTAMP):
        return functools.partial(from_python, kind)
    return None


def to_utf8(text: str) -> bytes:
    """Encode a text. InvalidValueError for half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"{text!r} is no text: {error.reason}") from error


def from_python(kind: ColumnType, value: Any) -> Any:
    """Turn a value of Python or numpy into what is stored. InvalidValueError."""
    if kind is ColumnType.TEXT:
        if not isinstance(value, str):
            raise InvalidValueError(f"{value!r} is no text")
        return to_utf8(value)
    if kind is ColumnType.BYTES:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise InvalidValueError(f"{value!r} is no bytes")
        return bytes(value)
    try:
        stored = from_decimal(kind, value) if kind.is_decimal else _FROM_PYTHON[kind](value)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidValueError(f"{value!r} is no {kind}: {error}") from error
    if kind.storage.kind == "i":
        limit = 1 << (8 * kind.storage.itemsize - 1)
        if not -limit <= stored < limit:
            raise InvalidValueError(f"{value!r} is out of the range of {kind}")
    return stored


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one column for a run of rows, laid out as in Arrow.

    values: numbers; days (int32) and microseconds (int64) since 1970; for text the UTF-8 bytes of
    all texts, text i being values[offsets[i]:offsets[i + 1]].  valid: one bool for each row, or None
    if there is no null; what stands in `values` for a null means nothing.
    """

    type: ColumnType
    values: NDArray[Any]
    valid: Bools | None = None
    offsets: Offsets | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @classmethod
    def of(cls, kind: ColumnType, data: Any) -> "Column":
        """Make a column of a Column, a numpy array (masked or not) or a sequence with None for null.

        Raises InvalidValueError if a value does not fit.
        """
        if isinstance(data, Column):
            if data.type != kind:
                raise InvalidValueError(f"a column of {data.type} is no column of {kind}")
            return data
        if type(data) is np.ndarray and data.dtype is kind.storage and data.ndim == 1 and kind.is_plain:
            return cls(kind, np.ascontiguousarray(data))
        if isinstance(data, np.ndarray) and data.dtype != object:
            if data.ndim != 1:
                raise InvalidValueError("a column has one dimension")
            return _of_text_array(kind, data) if kind.has_offsets else _of_array(kind, data)
        return _of_text_list(kind, list(data)) if kind.has_offsets else _of_list(kind, list(data))

    def to_numpy(self) -> NDArray[Any]:
        """Return bools, numbers, datetime64[D], datetime64[us], or objects; masked where null."""
        if self.type.has_offsets or self.type.is_decimal:
            values: NDArray[Any] = np.array(self.to_pylist(), dtype=object)
        elif self.type is ColumnType.DATE:
            values = self.values.astype("datetime64[D]")
        elif self.type is ColumnType.TIMESTAMP:
            values = self.values.view("datetime64[us]")
        else:
            values = self.values
        return values if self.valid is None else np.ma.MaskedArray(values, mask=~self.valid)

    def to_bytes(self) -> NDArray[np.bytes_]:
        """Return texts (or bytes) as an array of fixed-width UTF-8, quick to compare and to group by.

        NUL bytes at the end of a text are lost.
        """
        if self.offsets is None:
            raise TypeError(f"a column of {self.type} is no text")
        lengths = np.diff(self.offsets)
        width = max(int(lengths.max(initial=0)), 1)
        table = np.zeros((len(lengths), width), np.uint8)
        table[np.arange(width) < lengths[:, None]] = self.values
        return table.reshape(-1).view(f"S{width}")

    def to_pylist(self) -> list[Any]:
        """Return bool, int, float, Decimal, str, bytes, date, datetime, and None for null."""
        if self.offsets is None:
            convert = None if self.type is ColumnType.BOOL else to_python(self.type)
            plain = self.values.tolist()
            items = plain if convert is None else list(map(convert, plain))
        else:
            data, ends = self.values.tobytes(), self.offsets.tolist()
            items = [data[a:b] for a, b in itertools.pairwise(ends)]
            if self.type is ColumnType.TEXT:
                items = [item.decode() for item in items]
        if self.valid is None:
            return items
        return [item if ok else None for item, ok in zip(items, self.valid.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a table, column by column."""

    columns: Mapping[str, Column]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Return an array for each column; see Column.to_numpy."""
        return {name: column.to_numpy() for name, column in self.columns.items()}

    def to_rows(self) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows as tuples of Python's values."""
        return zip(*(column.to_pylist() for column in self.columns.values()), strict=True)


def _valid_of(data: NDArray[Any]) -> Bools | None:
    mask = np.ma.getmaskarray(data) if isinstance(data, np.ma.MaskedArray) else None
    if data.dtype.kind == "M":
        missing: Bools = np.isnat(np.ma.getdata(data))
        mask = missing if mask is None else mask | missing
    return None if mask is None or not mask.any() else ~mask


def _narrow(kind: ColumnType, values: NDArray[Any], valid: Bools | None) -> NDArray[Any]:
    """Cast numbers without loss."""
    if kind is ColumnType.FLOAT64:
        if values.dtype.kind not in "fiu":
            raise InvalidValueError(f"{values.dtype} is no {kind}")
        return np.ascontiguousarray(values, np.float64)
    if kind is ColumnType.BOOL:
        if values.dtype.kind != "b":
            raise InvalidValueError(f"{values.dtype} is no {kind}")
        return np.ascontiguousarray(values)
    if values.dtype.kind not in "iu":
        raise InvalidValueError(f"{values.dtype} is no {kind}")
    if values.dtype == kind.storage:
        return np.ascontiguousarray(values)
    narrow = np.ascontiguousarray(values.astype(kind.storage))
    lost = narrow != values
    if valid is not None:
        lost &= valid
    if lost.any():
        raise InvalidValueError(f"{values[lost][0]} is out of the range of {kind}")
    return narrow


def _of_array(kind: ColumnType, data: NDArray[Any]) -> Column:
    valid = _valid_of(data)
    values = np.ma.getdata(data)
    if values.dtype.kind == "M":
        unit = {ColumnType.DATE: "datetime64[D]", ColumnType.TIMESTAMP: "datetime64[us]"}.get(kind)
        if unit is None:
            raise InvalidValueError(f"{values.dtype} is no {kind}")
        values = values.astype(unit).astype(np.int64)
    if kind.is_decimal:
        return _of_list(kind, [None if gone else value for gone, value in _items(values, valid)])
    return Column(kind, _narrow(kind, values, valid), valid)


def _items(values: NDArray[Any], valid: Bools | None) -> Iterator[tuple[bool, Any]]:
    gone = np.zeros(len(values), np.bool_) if valid is None else ~valid
    return zip(gone.tolist(), values.tolist(), strict=True)


def _of_text_array(kind: ColumnType, data: NDArray[Any]) -> Column:
    valid = _valid_of(data)
    values = np.ma.getdata(data)
    if values.dtype.kind == "U" and kind is ColumnType.TEXT:
        values = np.char.encode(values, "utf-8")
    if values.dtype.kind != "S":
        raise InvalidValueError(f"{values.dtype} is no {kind}")
    values = np.ascontiguousarray(values)
    width = values.dtype.itemsize
    # numpy cannot divide no bytes into rows
    table = np.frombuffer(values.tobytes(), np.uint8).reshape(len(values), width) if width else None
    lengths = np.char.str_len(values).astype(np.int64)
    offsets = _offsets(lengths)
    data = np.empty(0, np.uint8) if table is None else table[np.arange(width) < lengths[:, None]]
    return Column(kind, data, valid, offsets)


def _of_text_list(kind: ColumnType, data: Sequence[Any]) -> Column:
    # what most lists are made of
    own = set(map(type, data)) == {bytes if kind is ColumnType.BYTES else str}
    if own and kind is ColumnType.BYTES:
        encoded = data
    elif own:
        encoded = [to_utf8(text) for text in data]
    else:
        encoded = [b"" if item is None else from_python(kind, item) for item in data]
    values = np.frombuffer(b"".join(encoded), np.uint8)
    return Column(kind, values, None if own else _valid_list(data), _offsets_of(encoded))


def _of_list(kind: ColumnType, data: Sequence[Any]) -> Column:
    plain = _of_plain(kind, data)
    if plain is not None:
        return Column(kind, plain)
    stored = [0 if item is None else from_python(kind, item) for item in data]
    return Column(kind, np.array(stored, dtype=kind.storage), _valid_list(data))


def _of_plain(kind: ColumnType, data: Sequence[Any]) -> NDArray[Any] | None:
    """Convert a list without nulls the quick way; None if that cannot be, or something does not fit."""
    if kind is ColumnType.BOOL:
        return np.array(data, np.bool_) if set(map(type, data)) == {bool} else None
    code = _CODES.get(kind.code)
    if code is None:
        return None
    try:
        numbers = array(code, [from_decimal(kind, item) for item in data] if kind.is_decimal else data)
    except (TypeError, ValueError, OverflowError):
        return None
    return np.frombuffer(numbers, kind.storage)


def _valid_list(data: Sequence[Any]) -> Bools | None:
    if all(item is not None for item in data):
        return None
    return np.array([item is not None for item in data], dtype=np.bool_)


def _offsets_of(items: Sequence[bytes]) -> Offsets:
    try:
        ends = array("i", itertools.accumulate(map(len, items), initial=0))
    except OverflowError as error:
        raise InvalidValueError("more than 2 GiB of text in one batch: insert it in parts") from error
    return np.frombuffer(ends, np.int32)


def _offsets(lengths: NDArray[np.int64]) -> Offsets:
    ends = np.cumsum(lengths)
    if len(ends) and ends[-1] > np.iinfo(np.int32).max:
        raise InvalidValueError("more than 2 GiB of text in one batch: insert it in parts")
    return np.concatenate((np.zeros(1, np.int64), ends)).astype(np.int32)
