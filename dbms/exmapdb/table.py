"""Tables: rows under a key, in batches of columns."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from exmapdb import arrow
from exmapdb._core import ffi, lib
from exmapdb.buffers import RowBuffer, ScanBuffer
from exmapdb.column import Batch, Column, from_python
from exmapdb.errors import (
    DuplicateKeyError,
    InvalidValueError,
    NullViolationError,
    RowTooLargeError,
    SchemaError,
    SnapshotWriteError,
)
from exmapdb.schema import ColumnType, Field, Schema

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.workers import Worker

__all__ = ["BATCH_ROWS", "PREFETCH_PAGES", "Key", "Table", "View", "make_layout"]

BATCH_ROWS = 8192
PREFETCH_PAGES = 64

Key = object | tuple[object, ...]

_PUT: dict[ColumnType, Any] = {
    ColumnType.INT32: lib.exdb_key_put_int32,
    ColumnType.DATE: lib.exdb_key_put_int32,
    ColumnType.INT64: lib.exdb_key_put_int64,
    ColumnType.TIMESTAMP: lib.exdb_key_put_int64,
    ColumnType.FLOAT64: lib.exdb_key_put_float64,
}


def make_layout(schema: Schema) -> Any:
    """Return the native core's description of a table's rows. SchemaError if they cannot be stored."""
    types = bytes(field.type.code for field in schema.fields)
    key = schema.key_indexes
    layout = lib.exdb_layout_new(len(types), types, len(key), key)
    if not layout:
        raise SchemaError("a row does not fit a quarter of a page: take fewer columns")
    return ffi.gc(layout, lib.exdb_layout_free)


class View(Protocol):
    """A transaction or a snapshot: what sees tables in its own way."""

    writable: ClassVar[bool]

    def session(self) -> contextlib.AbstractContextManager[tuple[Worker, Any]]:
        """Lend a channel into the native core, and the transaction's handle, or NULL."""


class Table:
    """A table of an open database, a transaction or a snapshot: the method `table` of each.

    That of a database may be used by several threads at a time; each call that changes rows is a
    transaction.  That of a transaction sees what the transaction has written; that of a snapshot can
    only be read.
    """

    def __init__(
        self, database: Database, name: str, schema: Schema, tree: int, view: View | None = None
    ) -> None:
        self._database = database
        self._view = view
        self._name = name
        self._schema = schema
        self._tree = tree
        self._layout = make_layout(schema)
        self._key_types = tuple(schema.fields[index].type for index in schema.key_indexes)
        self._buffers: dict[int, RowBuffer] = {}

    @property
    def name(self) -> str:
        """Return the table's name."""
        return self._name

    def within(self, view: View) -> Table:
        """Return the same table as a transaction or a snapshot sees it."""
        return Table(self._database, self._name, self._schema, self._tree, view)

    @property
    def schema(self) -> Schema:
        """Return the table's columns and key."""
        return self._schema

    def __repr__(self) -> str:
        return f"<Table {self._name!r} of {self._database.path!r}>"

    def insert_many(self, columns: Mapping[str, Any] | Batch | Any, replace: bool = False) -> int:
        """Insert rows given column by column, and return how many.

        columns: for each column of the schema what Column.of takes, all of one length (a column that
        takes nulls may be left out); or a table or record batch of Arrow.  Sorted keys are quickest and
        fill the pages.  With `replace` a row whose key exists replaces the old one.
        All rows go in or, after an error, none.  Raises SchemaError, InvalidValueError, NullViolationError,
        RowTooLargeError, DuplicateKeyError, TransactionTooLargeError and other StorageErrors.
        """
        self._check_writable()
        if arrow.is_arrow(columns):
            columns = arrow.to_columns(columns, self._schema.fields)
        given = columns.columns if isinstance(columns, Batch) else columns
        vectors, keep, rows = self._input(given)
        failed = ffi.new("uint64_t *")
        with self._session() as (worker, txn):
            code = lib.exdb_table_insert(
                worker.handle, txn, self._layout, self._tree, vectors, rows, replace, failed
            )
            del keep
            if code:
                self._raise(code, worker.error_page, failed[0])
        return rows

    def upsert(self, row: Mapping[str, Any]) -> None:
        """Insert one row, or replace the one with its key."""
        self.insert(row, replace=True)

    def update(self, key: Key, changes: Mapping[str, Any]) -> bool:
        """Change some columns of the row with this key; return whether there is one.

        Raises SchemaError if a column of the key, or none of the table, is named; ConflictError in a
        transaction when it commits; what insert raises.
        """
        wrong = (set(changes) & set(self._schema.key)) | (set(changes) - set(self._schema.names))
        if wrong:
            raise SchemaError(f"update cannot set {', '.join(sorted(wrong))} of {self._name!r}")
        if self._view is None:
            return self._database.run(lambda txn: self.within(txn).update(key, changes))
        row = self.get(key)
        if row is None:
            return False
        self.upsert(row | dict(changes))
        return True

    def get_many(self, keys: Iterable[Key]) -> list[dict[str, Any] | None]:
        """Return what `get` does for each key; see scan for whole ranges."""
        return [self.get(key) for key in keys]

    def insert(self, row: Mapping[str, Any], replace: bool = False) -> None:
        """Insert one row; slow, see insert_many."""
        self.insert_many({name: [value] for name, value in row.items()}, replace)

    def delete_many(self, keys: Mapping[str, Any] | Batch) -> int:
        """Delete the rows with these keys, and return how many there were.

        keys: the key's columns, as for insert_many; other columns are ignored, so that what a scan
        yields will do.  Pages that become empty serve later inserts; the file does not shrink.
        All rows go or, after an error, none.  Raises SchemaError, InvalidValueError, NullViolationError,
        TransactionTooLargeError and other StorageErrors.
        """
        self._check_writable()
        given = keys.columns if isinstance(keys, Batch) else keys
        unknown = set(given) - set(self._schema.names)
        missing = set(self._schema.key) - set(given)
        if unknown or missing:
            raise SchemaError(f"not the key of {self._name!r}: {', '.join(sorted(unknown | missing))}")
        vectors, keep, rows = self._input({name: given[name] for name in self._schema.key}, key_only=True)
        deleted = ffi.new("uint64_t *")
        with self._session() as (worker, txn):
            code = lib.exdb_table_delete(worker.handle, txn, self._layout, self._tree, vectors, rows, deleted)
            del keep
            if code:
                self._raise(code, worker.error_page, 0)
        return int(deleted[0])

    def delete(self, key: Key) -> bool:
        """Delete the row with this key (a tuple, if it has several columns); return whether there was one."""
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(self._key_types):
            raise InvalidValueError(f"the key of {self._name!r} is {self._schema.key}, not {key!r}")
        columns = {name: [part] for name, part in zip(self._schema.key, parts, strict=True)}
        return self.delete_many(columns) == 1

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return the row with this key (a tuple, if it has several columns), or None.

        Raises InvalidValueError for a key that cannot be, and StorageError.
        """
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(self._key_types):
            raise InvalidValueError(f"the key of {self._name!r} is {self._schema.key}, not {key!r}")
        with self._session() as (worker, txn):
            buffer = self._buffers.get(worker.index)
            if buffer is None:
                buffer = self._buffers[worker.index] = RowBuffer(self._schema.fields)
            self._encode(buffer.key, parts)
            code = lib.exdb_table_get(
                worker.handle, txn, self._layout, self._tree, buffer.key, buffer.vectors
            )
            if code == -errno.ENOENT:
                return None
            if code:
                raise self._database.error(code, worker.error_page)
            return buffer.to_row()

    def scan(
        self,
        low: Key | None = None,
        high: Key | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = BATCH_ROWS,
        prefetch: int = PREFETCH_PAGES,
        reverse: bool = False,
    ) -> Iterator[Batch]:
        """Iterate in the key's order, or the reverse of it, over batches of the rows with low <= key < high.

        low, high: None for no bound; tuples compare as Python's do, so the first columns of the key
        suffice.  columns: names, None for all.  batch_rows: rows in a batch at most.  prefetch: leaves
        to read ahead, 0 to 64.  What other threads insert meanwhile is seen or not, each row whole.
        Raises SchemaError, InvalidValueError and StorageError.
        """
        names = self._schema.names if columns is None else tuple(columns)
        unknown = set(names) - set(self._schema.names)
        if unknown or not 0 <= prefetch <= PREFETCH_PAGES or batch_rows < 1:
            raise SchemaError(f"no columns {sorted(unknown)}, or prefetch or batch_rows out of range")
        bounds = [ffi.NULL if bound is None else self._key(bound) for bound in (low, high)]
        with self._session() as (_, txn):
            scan = lib.exdb_scan_new(txn, self._layout, self._tree, *bounds, prefetch, reverse)
        if not scan:
            raise self._database.error(-errno.ENOMEM, 0)
        return self._batches(ffi.gc(scan, lib.exdb_scan_free), names, batch_rows)

    def record_batches(
        self, low: Key | None = None, high: Key | None = None, columns: Sequence[str] | None = None
    ) -> Any:
        """Return a pyarrow.RecordBatchReader over the rows with low <= key < high.

        It has the Arrow C stream interface, so that DuckDB, Polars and pandas read from it directly.
        ImportError without pyarrow; SchemaError, InvalidValueError, and StorageError while it is read.
        """
        names = self._schema.names if columns is None else tuple(columns)
        batches = self.scan(low, high, names)
        fields = [field for name in names for field in self._schema.fields if field.name == name]
        schema = arrow.schema_of(fields)
        made = (arrow.to_record_batch(batch, fields) for batch in batches)
        return arrow.load_pyarrow().RecordBatchReader.from_batches(schema, made)

    def to_arrow(
        self, low: Key | None = None, high: Key | None = None, columns: Sequence[str] | None = None
    ) -> Any:
        """Return the rows with low <= key < high as a pyarrow.Table; see record_batches."""
        return self.record_batches(low, high, columns).read_all()

    def count(self) -> int:
        """Count the rows, by reading all of them."""
        return sum(batch.rows for batch in self.scan(columns=()))

    def _batches(self, scan: Any, names: Sequence[str], batch_rows: int) -> Iterator[Batch]:
        while True:
            buffer = ScanBuffer(self._schema.fields, frozenset(names), batch_rows)
            with self._session() as (worker, _):
                rows = lib.exdb_scan_next(worker.handle, scan, buffer.vectors, batch_rows)
                if rows < 0:
                    raise self._database.error(rows, worker.error_page)
            if not rows:
                return
            yield buffer.to_batch(rows, names)

    def _check_writable(self) -> None:
        if self._view is not None and not self._view.writable:
            raise SnapshotWriteError

    @contextlib.contextmanager
    def _session(self) -> Iterator[tuple[Worker, Any]]:
        """Lend a channel into the native core, and the transaction's handle, or NULL."""
        if self._view is None:
            with self._database.worker() as worker:
                yield worker, ffi.NULL
        else:
            with self._view.session() as pair:
                yield pair

    def _key(self, bound: Key) -> Any:
        parts = bound if isinstance(bound, tuple) else (bound,)
        if len(parts) > len(self._key_types):
            raise InvalidValueError(f"the key of {self._name!r} is {self._schema.key}, not {bound!r}")
        key = ffi.new("struct exdb_key *")
        self._encode(key, parts)
        return key

    def _encode(self, key: Any, parts: Sequence[object]) -> None:
        lib.exdb_key_clear(key)
        code = 0
        for kind, part in zip(self._key_types, parts, strict=False):
            value = from_python(kind, part)
            if kind is ColumnType.TEXT:
                code = code or lib.exdb_key_put_text(key, value, len(value))
            else:
                code = code or _PUT[kind](key, value)
        if code:
            raise InvalidValueError(f"{tuple(parts)!r} cannot be a key: it is too long, or NaN")

    def _input(self, given: Mapping[str, Any], key_only: bool = False) -> tuple[Any, list[Any], int]:
        """Return vectors for the native core, what keeps their memory, and the number of rows."""
        unknown = set(given) - set(self._schema.names)
        if unknown:
            raise SchemaError(f"table {self._name!r} has no column {', '.join(sorted(unknown))}")
        columns = {
            field.name: Column.of(field.type, given[field.name])
            for field in self._schema.fields
            if field.name in given
        }
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise SchemaError(f"columns of different lengths: {sorted(lengths)}")
        rows = lengths.pop()
        vectors = ffi.new("struct exdb_vector[]", len(self._schema.fields))
        keep: list[Any] = []
        for field, vector in zip(self._schema.fields, vectors, strict=True):
            column = columns.get(field.name)
            if column is None and key_only:
                continue
            if column is None:
                column = _nulls(field.type, rows)
            _check_nulls(field, column)
            _point(vector, column, keep)
        return vectors, keep, rows

    def _raise(self, code: int, page: int, row: int) -> None:
        if code == -errno.EEXIST:
            raise DuplicateKeyError(self._name, row)
        if code == -errno.EMSGSIZE:
            raise RowTooLargeError(f"row {row}: more than {lib.EXDB_ROW_MAX} bytes, or too long a key")
        if code == -errno.EDOM:
            raise InvalidValueError(f"row {row}: NaN cannot be a key")
        raise self._database.error(code, page)


def _nulls(kind: ColumnType, rows: int) -> Column:
    text = kind is ColumnType.TEXT
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
