"""How the rows of a table lie: its columns, past and present, and its indexes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from exmapdb._core import ffi, lib
from exmapdb._reader import Channel, Reader
from exmapdb._writer import Writer
from exmapdb.buffers import RowBuffer
from exmapdb.column import from_python, to_python, to_stored
from exmapdb.errors import InvalidValueError, NoSuchIndexError, SchemaError
from exmapdb.schema import ColumnType, Field, Schema
from exmapdb.workers import address_of

__all__ = ["Index", "Key", "Layout", "StoredColumn", "TableInfo"]

Key = object | tuple[object, ...]

_PUT: dict[int, Any] = {
    lib.EXDB_BOOL: lib.exdb_key_put_byte,
    lib.EXDB_INT32: lib.exdb_key_put_int32,
    lib.EXDB_DATE: lib.exdb_key_put_int32,
    lib.EXDB_INT64: lib.exdb_key_put_int64,
    lib.EXDB_TIMESTAMP: lib.exdb_key_put_int64,
    lib.EXDB_DECIMAL: lib.exdb_key_put_int64,
    lib.EXDB_FLOAT64: lib.exdb_key_put_float64,
}


@dataclass(frozen=True, slots=True)
class Index:
    """A secondary index: its name, the columns that it is ordered by, and whether their values are unique.

    unfinished: rows that were there before it have no entries yet; only writers know it.
    """

    name: str
    columns: tuple[str, ...]
    unique: bool
    tree: int = field(repr=False, compare=False)
    unfinished: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column that rows may have: there from version `added` on, and, unless 0, to before `dropped`."""

    field: Field
    added: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class TableInfo:
    """What the catalog knows of a table; columns: all that there ever were."""

    name: str
    tree: int
    version: int
    columns: tuple[StoredColumn, ...]
    key: tuple[str, ...]
    indexes: tuple[Index, ...] = ()

    @property
    def schema(self) -> Schema:
        """Return the columns that there are."""
        return Schema.of((column.field for column in self.columns if not column.dropped), self.key)

    def place(self, name: str) -> int:
        """Return the number of a column that there is, among all. SchemaError."""
        for place, column in enumerate(self.columns):
            if column.field.name == name and not column.dropped:
                return place
        raise SchemaError(f"table {self.name!r} has no column {name}")

    def index_number(self, name: str, unfinished: bool = False) -> int:
        """Return the place of an index. NoSuchIndexError."""
        for number, index in enumerate(self.indexes):
            if index.name == name and index.unfinished == unfinished:
                return number
        raise NoSuchIndexError(self.name, name, [i.name for i in self.indexes if not i.unfinished])


class Layout:
    """A table's rows as the native core reads and writes them.

    generation: of the catalog, when `info` was read; 0 for the tables of the catalog, which never change.
    read: takes a key, and the address of a transaction if it is one that looks, and returns the row, None
    if there is none, or NotImplemented if that would take longer; always the last one without a channel.
    write: takes the addresses of a worker and of a transaction, a row, and whether it may replace one;
    returns what the native core says, or NotImplemented for rows that take conversions, or are wrong.
    text_bytes: what texts of each column took where they were last scanned, and an eighth.
    """

    def __init__(self, info: TableInfo, generation: int, channel: Channel | None = None) -> None:
        self.info = info
        self.generation = generation
        self.schema = info.schema
        self.key_types = tuple(self.schema.fields[i].type for i in self.schema.key_indexes)
        self.handle = self._make_handle()
        self.buffers: dict[int, RowBuffer] = {}
        self.text_bytes: dict[str, int] = {}
        self.write = self._make_writer()
        self.read: Callable[..., Any] = self._make_reader(channel) if channel else lambda *_: NotImplemented

    def copy(self) -> Layout:
        """Return the same with buffers of its own."""
        return Layout(self.info, self.generation)

    def _make_reader(self, channel: Channel) -> Reader:
        columns = tuple((f.name, f.type.code, to_python(f.type)) for f in self.schema.fields)
        types = bytes(kind.code for kind in self.key_types)
        return Reader(channel, address_of(self.handle), self.handle, self.info.tree, types, columns)

    def _make_writer(self) -> Writer:
        columns = tuple((f.name, f.type.code, to_stored(f.type), f.nullable) for f in self.schema.fields)
        insert = address_of(ffi.addressof(lib, "exdb_table_insert"))
        return Writer(insert, address_of(self.handle), self.handle, self.info.tree, columns)

    def _make_handle(self) -> Any:
        info = self.info
        columns = ffi.new("struct exdb_column[]", len(info.columns))
        for raw, column in zip(columns, info.columns, strict=True):
            raw.type, raw.added, raw.dropped = column.field.type.code, column.added, column.dropped
        key = [info.place(name) for name in info.key]
        made = lib.exdb_layout_new(len(columns), columns, len(key), key, info.version, self.generation)
        if not made:
            raise SchemaError("a row does not fit a quarter of a page: take fewer columns")
        handle = ffi.gc(made, lib.exdb_layout_free)
        for index in info.indexes:
            places = [info.place(name) for name in index.columns]
            if lib.exdb_layout_add_index(handle, index.tree, index.unique, len(places), places):
                raise SchemaError(
                    f"a table has at most {lib.EXDB_INDEXES_MAX} indexes,"
                    f" an index {lib.EXDB_INDEX_COLUMNS_MAX} columns"
                )
        return handle

    def buffer(self, worker: int) -> RowBuffer:
        """Return the memory that `get` of this worker decodes into."""
        buffer = self.buffers.get(worker)
        if buffer is None:
            buffer = self.buffers[worker] = RowBuffer(self.schema.fields)
        return buffer

    def index_number(self, name: str) -> int:
        """Return the place of an index. NoSuchIndexError."""
        return self.info.index_number(name)

    def encode_key(self, key: Any, parts: Sequence[object]) -> None:
        """Encode the first columns of the table's key. InvalidValueError."""
        lib.exdb_key_clear(key)
        code = 0
        for kind, part in zip(self.key_types, parts, strict=False):
            code = code or put(key, kind, part)
        check_key(code, parts)

    def encode_index_key(self, number: int, parts: Sequence[object]) -> Any:
        """Return the first columns of an index's key, None for null. InvalidValueError."""
        index = self.info.indexes[number]
        if len(parts) > len(index.columns):
            raise InvalidValueError(f"index {index.name!r} has {index.columns}, not {parts!r}")
        key = ffi.new("struct exdb_key *")
        code = 0
        for name, part in zip(index.columns, parts, strict=False):
            kind = self.info.columns[self.info.place(name)].field.type
            code = code or lib.exdb_key_put_byte(key, part is not None)
            if part is not None:
                code = code or put(key, kind, part)
        check_key(code, parts)
        return key


def put(key: Any, kind: ColumnType, part: object) -> int:
    """Add a value to a key; what the native core says."""
    value = from_python(kind, part)
    if kind.has_offsets:
        return int(lib.exdb_key_put_text(key, value, len(value)))
    return int(_PUT[kind.code](key, value))


def check_key(code: int, parts: Sequence[object]) -> None:
    """Raise InvalidValueError if a key could not be made."""
    if code:
        raise InvalidValueError(f"{tuple(parts)!r} cannot be a key: it is too long, or NaN")
