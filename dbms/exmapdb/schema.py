"""Column types, fields and schemas."""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from exmapdb._core import lib
from exmapdb.errors import SchemaError

__all__ = ["ColumnType", "Field", "Schema"]

COLUMNS_MAX = 256


class ColumnType(enum.StrEnum):
    """The types of columns; a value of each is written as in `Schema.of`."""

    INT32 = "int32"
    INT64 = "int64"
    FLOAT64 = "float64"
    TEXT = "text"
    DATE = "date"
    TIMESTAMP = "timestamp"

    @property
    def code(self) -> int:
        """Return the number of the type in the native core and in the catalog."""
        return _CODES[self]

    @property
    def storage(self) -> np.dtype[np.generic]:
        """Return the type of a vector's values; for text that of its bytes."""
        return _STORAGE[self]

    @classmethod
    def from_code(cls, code: int) -> "ColumnType":
        """Return the type of a number; KeyError if there is none."""
        return {number: kind for kind, number in _CODES.items()}[code]


_CODES: Final[dict[ColumnType, int]] = {
    ColumnType.INT32: lib.EXDB_INT32,
    ColumnType.INT64: lib.EXDB_INT64,
    ColumnType.FLOAT64: lib.EXDB_FLOAT64,
    ColumnType.TEXT: lib.EXDB_TEXT,
    ColumnType.DATE: lib.EXDB_DATE,
    ColumnType.TIMESTAMP: lib.EXDB_TIMESTAMP,
}

_STORAGE: dict[ColumnType, np.dtype[np.generic]] = {
    ColumnType.INT32: np.dtype(np.int32),
    ColumnType.INT64: np.dtype(np.int64),
    ColumnType.FLOAT64: np.dtype(np.float64),
    ColumnType.TEXT: np.dtype(np.uint8),
    ColumnType.DATE: np.dtype(np.int32),
    ColumnType.TIMESTAMP: np.dtype(np.int64),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a table: its name, its type, and whether it takes nulls."""

    name: str
    type: ColumnType
    nullable: bool = False

    @classmethod
    def parse(cls, name: str, text: str) -> "Field":
        """Read `int32`, or `int32?` for one that takes nulls. SchemaError for other types."""
        try:
            return cls(name, ColumnType(text.removesuffix("?")), text.endswith("?"))
        except ValueError:
            known = ", ".join(ColumnType)
            raise SchemaError(f"column {name!r}: no type {text!r}; there is {known}") from None

    def __str__(self) -> str:
        return f"{self.type}{'?' if self.nullable else ''}"


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table, in order, and the names of those that make its key."""

    fields: tuple[Field, ...]
    key: tuple[str, ...]

    @classmethod
    def of(cls, fields: Mapping[str, str] | Iterable[Field], key: str | Sequence[str]) -> "Schema":
        """Make a checked schema of `{"id": "int64", "name": "text?"}` or fields. SchemaError."""
        if isinstance(fields, Mapping):
            parsed = tuple(Field.parse(name, text) for name, text in fields.items())
        else:
            parsed = tuple(fields)
        schema = cls(parsed, (key,) if isinstance(key, str) else tuple(key))
        schema.check()
        return schema

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all columns."""
        return tuple(field.name for field in self.fields)

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
