"""Column types, fields and schemas."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from exmapdb._core import lib
from exmapdb.errors import SchemaError

__all__ = ["ColumnType", "Field", "Schema"]

COLUMNS_MAX: Final[int] = lib.EXDB_COLUMNS_MAX
DECIMAL_DIGITS: Final = 18  # of an int64


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of a column; `Schema.of` takes its name.

    code: its number in the native core.  storage: the type of a vector's values; for text and bytes that of
    their bytes.  precision, scale: of a decimal, its digits, and how many of them are behind the point.
    has_offsets: whether values are text or bytes, of any length.
    """

    name: str
    code: int
    storage: np.dtype[np.generic]
    precision: int = 0
    scale: int = 0
    has_offsets: bool = field(init=False, repr=False, compare=False)

    BOOL: ClassVar[ColumnType]
    INT32: ClassVar[ColumnType]
    INT64: ClassVar[ColumnType]
    FLOAT64: ClassVar[ColumnType]
    TEXT: ClassVar[ColumnType]
    BYTES: ClassVar[ColumnType]
    DATE: ClassVar[ColumnType]
    TIMESTAMP: ClassVar[ColumnType]

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_offsets", self.code in (lib.EXDB_TEXT, lib.EXDB_BYTES))

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def decimal(cls, precision: int, scale: int) -> ColumnType:
        """Return the type of decimals with so many digits, `scale` of them behind the point. SchemaError."""
        if not 1 <= precision <= DECIMAL_DIGITS or not 0 <= scale <= precision:
            raise SchemaError(f"a decimal has 1 to {DECIMAL_DIGITS} digits, not ({precision},{scale})")
        name = f"decimal({precision},{scale})"
        return cls(name, lib.EXDB_DECIMAL, np.dtype(np.int64), precision, scale)

    @classmethod
    def parse(cls, text: str) -> ColumnType:
        """Return the type of a name, as `int32` or `decimal(10,2)`. SchemaError."""
        if text in _TYPES:
            return _TYPES[text]
        match = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", text)
        if match is None:
            known = ", ".join([*_TYPES, "decimal(digits,scale)"])
            raise SchemaError(f"no type {text!r}; there is {known}")
        return cls.decimal(int(match[1]), int(match[2]))

    @classmethod
    def from_stored(cls, number: int) -> ColumnType:
        """Return the type that the catalog has this number for. KeyError."""
        code, precision, scale = number & 0xFF, number >> 8 & 0xFF, number >> 16
        if code == lib.EXDB_DECIMAL:
            return cls.decimal(precision, scale)
        return {kind.code: kind for kind in _TYPES.values()}[code]

    @property
    def stored(self) -> int:
        """Return the catalog's number."""
        return self.code | self.precision << 8 | self.scale << 16

    @property
    def is_decimal(self) -> bool:
        """Return whether values are decimals; each of those has a type of its own."""
        return self.precision > 0

    @property
    def is_plain(self) -> bool:
        """Return whether values are stored as numpy has them."""
        return not (self.has_offsets or self.is_decimal)

    def __str__(self) -> str:
        return self.name


ColumnType.BOOL = ColumnType("bool", lib.EXDB_BOOL, np.dtype(np.bool_))
ColumnType.INT32 = ColumnType("int32", lib.EXDB_INT32, np.dtype(np.int32))
ColumnType.INT64 = ColumnType("int64", lib.EXDB_INT64, np.dtype(np.int64))
ColumnType.FLOAT64 = ColumnType("float64", lib.EXDB_FLOAT64, np.dtype(np.float64))
ColumnType.TEXT = ColumnType("text", lib.EXDB_TEXT, np.dtype(np.uint8))
ColumnType.BYTES = ColumnType("bytes", lib.EXDB_BYTES, np.dtype(np.uint8))
ColumnType.DATE = ColumnType("date", lib.EXDB_DATE, np.dtype(np.int32))
ColumnType.TIMESTAMP = ColumnType("timestamp", lib.EXDB_TIMESTAMP, np.dtype(np.int64))

_TYPES: Final[dict[str, ColumnType]] = {
    kind.name: kind
    for kind in (
        ColumnType.BOOL,
        ColumnType.INT32,
        ColumnType.INT64,
        ColumnType.FLOAT64,
        ColumnType.TEXT,
        ColumnType.BYTES,
        ColumnType.DATE,
        ColumnType.TIMESTAMP,
    )
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a table: its name, its type, and whether it takes nulls."""

    name: str
    type: ColumnType
    nullable: bool = False

    @classmethod
    def parse(cls, name: str, text: str) -> Field:
        """Read `int32`, or `int32?` for one that takes nulls. SchemaError for other types."""
        try:
            return cls(name, ColumnType.parse(text.removesuffix("?")), text.endswith("?"))
        except SchemaError as error:
            raise SchemaError(f"column {name!r}: {error}") from None

    def __str__(self) -> str:
        return f"{self.type}{'?' if self.nullable else ''}"


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table, in order, and the names of those that make its key."""

    fields: tuple[Field, ...]
    key: tuple[str, ...]
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # each call of a table asks for them
        object.__setattr__(self, "names", tuple(field.name for field in self.fields))

    @classmethod
    def of(cls, fields: Mapping[str, str] | Iterable[Field], key: str | Sequence[str]) -> Schema:
        """Make a checked schema of `{"id": "int64", "name": "text?"}` or fields. SchemaError."""
        if isinstance(fields, Mapping):
            parsed = tuple(Field.parse(name, text) for name, text in fields.items())
        else:
            parsed = tuple(fields)
        schema = cls(parsed, (key,) if isinstance(key, str) else tuple(key))
        schema.check()
        return schema

    @property
    def key_indexes(self) -> tuple[int, ...]:
        """Return where the key's columns are among the columns."""
        names = self.names
        return tuple(names.index(name) for name in self.key)

    def check(self) -> None:
        """Raise SchemaError if this cannot be a table."""
        names = self.names
        if not 1 <= len(names) <= COLUMNS_MAX:
            raise SchemaError(f"a table has 1 to {COLUMNS_MAX} columns, not {len(names)}")
        if len(set(names)) < len(names) or not all(names):
            raise SchemaError("column names must be different, and not empty")
        if not self.key or len(set(self.key)) < len(self.key) or not set(self.key) <= set(names):
            raise SchemaError(f"the key {self.key} must name one or more different columns")
        for index in self.key_indexes:
            if self.fields[index].nullable:
                raise SchemaError(f"key column {names[index]!r} must not take nulls")
