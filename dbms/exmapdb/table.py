"""Tables: rows under a key, in batches of columns."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Never, ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from exmapdb import arrow
from exmapdb._core import ffi, lib
from exmapdb.buffers import TextRoom
from exmapdb.column import Batch
from exmapdb.errors import (
    ConflictError,
    DatabaseClosedError,
    DuplicateKeyError,
    InvalidValueError,
    RowTooLargeError,
    SchemaChangedError,
    SchemaError,
    SnapshotWriteError,
    UniqueError,
)
from exmapdb.layout import Index, Key, Layout
from exmapdb.schema import Schema
from exmapdb.vectors import make_vectors
from exmapdb.workers import address_of

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.workers import Worker

__all__ = ["BATCH_ROWS", "PREFETCH_PAGES", "Key", "Table", "View"]

BATCH_ROWS = 8192
PREFETCH_PAGES = 64
FIND_ROWS = 64
BATCHES_AHEAD = 8  # that a scan reads in one call: when one ends it has to wait for the GIL

P = ParamSpec("P")
T = TypeVar("T")


def with_current_layout(method: Callable[Concatenate[Table, P], T]) -> Callable[Concatenate[Table, P], T]:
    """Call again with the table's new layout if the catalog has changed meanwhile."""

    @functools.wraps(method)
    def call(table: Table, /, *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            table.refresh()
            try:
                return method(table, *args, **kwargs)
            except SchemaChangedError:
                continue

    return call


class View(Protocol):
    """A transaction or a snapshot: what sees tables in its own way."""

    writable: ClassVar[bool]
    background: bool

    def session(self) -> contextlib.AbstractContextManager[tuple[Worker, Any]]:
        """Lend a channel into the native core, and the transaction's handle, or NULL."""

    def read(self, layout: Layout, key: Key) -> Any:
        """Return the row with this key, None, or NotImplemented if that would take longer."""


class Table:
    """A table of an open database, a transaction or a snapshot: the method `table` of each.

    That of a database may be used by several threads at a time; each call that changes rows is a
    transaction.  That of a transaction sees what the transaction has written; that of a snapshot can
    only be read.
    """

    def __init__(self, database: Database, layout: Layout, view: View | None = None) -> None:
        self._database = database
        self._view = view
        self._layout = layout
        self._name = layout.info.name

    @property
    def name(self) -> str:
        """Return the table's name."""
        return self._name

    @property
    def schema(self) -> Schema:
        """Return the table's columns and key."""
        self.refresh()
        return self._layout.schema

    @property
    def indexes(self) -> tuple[Index, ...]:
        """Return the table's indexes, in the order of their names."""
        self.refresh()
        return tuple(index for index in self._layout.info.indexes if not index.unfinished)

    @property
    def tree(self) -> int:
        """Return the number of the tree with its rows."""
        return self._layout.info.tree

    @property
    def layout(self) -> Layout:
        """Return how its rows lie."""
        return self._layout

    def become(self, layout: Layout, view: View) -> None:
        """Show what a view has made of the table."""
        self._layout, self._view = layout, view

    def within(self, view: View) -> Table:
        """Return the same table as a transaction or a snapshot sees it."""
        return Table(self._database, self._layout if view.writable else self._layout.copy(), view)

    def refresh(self) -> None:
        """Look at the catalog if it has changed, unless a transaction or snapshot settles what is seen."""
        layout = self._layout
        if self._view is None and layout.generation and layout.generation != self._database.generation:
            self._layout = self._database.load_layout(self._name)

    def __repr__(self) -> str:
        return f"<Table {self._name!r} of {self._database.path!r}>"

    @with_current_layout
    def insert_many(self, columns: Mapping[str, Any] | Batch | Any, replace: bool = False) -> int:
        """Insert rows given column by column, and return how many.

        columns: for each column of the schema what Column.of takes, all of one length (a column that
        takes nulls may be left out); or a table or record batch of Arrow.  Sorted keys are quickest and
        fill the pages.  With `replace` a row whose key exists replaces the old one.
        All rows go in or, after an error, none.  Raises SchemaError, InvalidValueError, NullViolationError,
        RowTooLargeError, DuplicateKeyError, UniqueError, TransactionTooLargeError and other StorageErrors.
        """
        self._check_writable()
        layout = self._layout
        if arrow.is_arrow(columns):
            columns = arrow.to_columns(columns, layout.schema.fields)
        given = columns.columns if isinstance(columns, Batch) else columns
        vectors, keep, rows = make_vectors(layout, given)
        failed = ffi.new("uint64_t *")
        with self._session() as (worker, txn):
            code = lib.exdb_table_insert(
                worker.handle, txn, layout.handle, self.tree, vectors, rows, replace, failed
            )
            del keep
            if code:
                self._refuse(code, worker, failed[0])
        return rows

    def upsert(self, row: Mapping[str, Any]) -> None:
        """Insert one row, or replace the one with its key."""
        self.insert(row, replace=True)

    def update(self, key: Key, changes: Mapping[str, Any]) -> bool:
        """Change some columns of the row with this key; return whether there is one.

        Raises SchemaError if a column of the key, or none of the table, is named; ConflictError in a
        transaction when it commits; what insert raises.
        """
        schema = self.schema
        wrong = (set(changes) & set(schema.key)) | (set(changes) - set(schema.names))
        if wrong:
            raise SchemaError(f"update cannot set {', '.join(sorted(wrong))} of {self._name!r}")
        if self._view is None:
            return self._database.run(lambda txn: txn.table(self._name).update(key, changes))
        row = self.get(key)
        if row is None:
            return False
        self.upsert(row | dict(changes))
        return True

    def get_many(self, keys: Iterable[Key]) -> list[dict[str, Any] | None]:
        """Return what `get` does for each key; see scan for whole ranges."""
        return [self.get(key) for key in keys]

    def insert(self, row: Mapping[str, Any], replace: bool = False) -> None:
        """Insert one row; many at a time are quicker, see insert_many, which also says what is raised."""
        self._check_writable()
        if not self._write(row, replace):
            self.insert_many({name: [value] for name, value in row.items()}, replace)

    @with_current_layout
    def delete_many(self, keys: Mapping[str, Any] | Batch) -> int:
        """Delete the rows with these keys, and return how many there were.

        keys: the key's columns, as for insert_many; other columns are ignored, so that what a scan
        yields will do.  Pages that become empty serve later inserts; the file does not shrink.
        All rows go or, after an error, none.  Raises SchemaError, InvalidValueError, NullViolationError,
        TransactionTooLargeError and other StorageErrors.
        """
        self._check_writable()
        layout, schema = self._layout, self._layout.schema
        given = keys.columns if isinstance(keys, Batch) else keys
        self._check_key_columns(layout, given)
        vectors, keep, rows = make_vectors(layout, {name: given[name] for name in schema.key}, key_only=True)
        deleted = ffi.new("uint64_t *")
        with self._session() as (worker, txn):
            code = lib.exdb_table_delete(worker.handle, txn, layout.handle, self.tree, vectors, rows, deleted)
            del keep
            if code:
                self._raise(code, worker.error_page, 0)
        return int(deleted[0])

    def delete(self, key: Key) -> bool:
        """Delete the row with this key (a tuple, if it has several columns); return whether there was one."""
        parts = self._whole_key(self._layout, key)
        columns = {name: [part] for name, part in zip(self._layout.info.key, parts, strict=True)}
        return self.delete_many(columns) == 1

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return the row with this key (a tuple, if it has several columns), or None.

        Raises InvalidValueError for a key that cannot be, and StorageError.
        """
        layout = self._layout
        row: dict[str, Any] | None = layout.read(key) if self._view is None else self._view.read(layout, key)
        if row is not NotImplemented:
            return row
        if self._view is not None:
            with self._view.session() as (worker, txn):
                return self._get(layout, key, worker, txn)
        # as _session does, but quicker
        workers = self._database.workers
        worker = workers.take()
        try:
            return self._get(layout, key, worker, ffi.NULL)
        except SchemaChangedError:
            pass
        finally:
            workers.give(worker)
        self.refresh()
        return self.get(key)

    def get_at_once(self, key: Key) -> Any:
        """Do what `get` does, or return NotImplemented if that may take a wait, or a read from the disk."""
        return self._layout.read(key) if self._view is None else NotImplemented

    def _get(self, layout: Layout, key: Key, worker: Worker, txn: Any) -> dict[str, Any] | None:
        row: dict[str, Any] | None = layout.read(key, address_of(txn) if txn else 0, worker.address)
        if isinstance(row, int):
            self._raise(row, worker.error_page, 0)
        if row is not NotImplemented:
            return row
        buffer = layout.buffer(worker.index)
        layout.encode_key(buffer.key, self._whole_key(layout, key))
        find = functools.partial(lib.exdb_table_get, worker.handle, txn, layout.handle, layout.info.tree)
        code = find(buffer.key, buffer.vectors)
        while code == -errno.EMSGSIZE and buffer.grow():
            code = find(buffer.key, buffer.vectors)
        if not code:
            row = buffer.to_row()
            buffer.shrink()
            return row
        if code == -errno.ENOENT:
            return None
        return self._raise(code, worker.error_page, 0)

    @with_current_layout
    def lookup(
        self, keys: Mapping[str, Any], columns: Sequence[str] | None = None
    ) -> tuple[Batch, NDArray[np.bool_]]:
        """Return the rows with these keys, those that there are, in the keys' order, and which there are.

        keys: the key's columns, as for insert_many.  columns: names, None for all.  Raises what get raises.
        """
        layout = self._layout
        self._check_key_columns(layout, keys)
        names = layout.schema.names if columns is None else tuple(columns)
        given, keep, rows = make_vectors(
            layout, {name: keys[name] for name in layout.info.key}, key_only=True
        )
        found = np.empty(rows, np.bool_)
        texts = TextRoom(least=dict.fromkeys(names, rows * lib.EXDB_ROW_MAX))
        pool = self._database.scan_buffers
        there = ffi.from_buffer("uint8_t[]", found)
        with self._session() as (worker, txn):
            find = functools.partial(lib.exdb_table_get_many, worker.handle, txn, layout.handle, self.tree)
            while True:
                buffer = pool.take(layout.schema.fields, frozenset(names), rows, texts)
                got = find(given, rows, buffer.vectors, there)
                if got != -errno.EMSGSIZE or not buffer.needs(texts):
                    break
            del keep
            if got < 0:
                self._raise(got, worker.error_page, 0)
        batch = buffer.to_batch(got, names)
        pool.give(buffer)
        return batch, found

    def find(self, index: str, values: Key) -> Iterator[dict[str, Any]]:
        """Iterate over the rows that have these values in the columns of an index, or in the first of them.

        values: a tuple if there are several; None finds nulls.  NoSuchIndexError, and what scan raises.
        """
        self.refresh()
        layout = self._layout
        number = layout.index_number(index)
        parts = values if isinstance(values, tuple) else (values,)
        low, high = (layout.encode_index_key(number, parts) for _ in range(2))
        lib.exdb_key_next(high)
        names = layout.schema.names
        for batch in self._start(layout, names, FIND_ROWS, (low, high, 0, False), number):
            for row in batch.to_rows():
                yield dict(zip(names, row, strict=True))

    def scan(
        self,
        low: Key | None = None,
        high: Key | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = BATCH_ROWS,
        prefetch: int = PREFETCH_PAGES,
        reverse: bool = False,
        index: str | None = None,
    ) -> Iterator[Batch]:
        """Iterate in the key's order, or the reverse of it, over batches of the rows with low <= key < high.

        index: its order and its columns instead of the key's; nulls, None in a tuple, come first.

        low, high: None for no bound; tuples compare as Python's do, so the first columns of the key
        suffice.  columns: names, None for all.  batch_rows: rows in a batch at most.  prefetch: leaves
        to read ahead, 0 to 64.  What other threads insert meanwhile is seen or not, each row whole.
        Raises SchemaError, InvalidValueError and StorageError.
        """
        self.refresh()
        layout = self._layout
        names = layout.schema.names if columns is None else tuple(columns)
        unknown = () if columns is None else set(names).difference(layout.schema.names)
        if unknown or not 0 <= prefetch <= PREFETCH_PAGES or batch_rows < 1:
            raise SchemaError(f"no columns {sorted(unknown)}, or prefetch or batch_rows out of range")
        number = None if index is None else layout.index_number(index)
        bounds = [ffi.NULL if bound is None else self._bound(layout, number, bound) for bound in (low, high)]
        return self._start(layout, names, batch_rows, (*bounds, prefetch, reverse), number)

    def _start(
        self, layout: Layout, names: Sequence[str], rows: int, order: tuple[Any, ...], index: int | None
    ) -> Iterator[Batch]:
        if self._view is None:
            if self._database.closed:
                raise DatabaseClosedError
            scan = self._make_scan(ffi.NULL, layout, order, index)
        else:
            with self._view.session() as (_, txn):
                scan = self._make_scan(txn, layout, order, index)
        if not scan:
            raise self._database.error(-errno.ENOMEM, 0)
        return self._batches(layout, ffi.gc(scan, lib.exdb_scan_free), names, rows)

    def _make_scan(self, txn: Any, layout: Layout, order: tuple[Any, ...], index: int | None) -> Any:
        if index is None:
            return lib.exdb_scan_new(txn, layout.handle, self.tree, *order)
        return lib.exdb_index_scan_new(txn, layout.handle, self.tree, index, *order)

    def record_batches(
        self, low: Key | None = None, high: Key | None = None, columns: Sequence[str] | None = None
    ) -> Any:
        """Return a pyarrow.RecordBatchReader over the rows with low <= key < high.

        It has the Arrow C stream interface, so that DuckDB, Polars and pandas read from it directly.
        ImportError without pyarrow; SchemaError, InvalidValueError, and StorageError while it is read.
        """
        schema = self.schema
        names = schema.names if columns is None else tuple(columns)
        batches = self.scan(low, high, names)
        fields = [field for name in names for field in schema.fields if field.name == name]
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

    def _batches(self, layout: Layout, scan: Any, names: Sequence[str], batch_rows: int) -> Iterator[Batch]:
        # the scan has a pointer to the layout
        texts = TextRoom(layout.text_bytes)
        wanted, pool = frozenset(names), self._database.scan_buffers
        # a transaction sees between two batches what it has written
        ahead = 1 if self._view is not None and self._view.writable else BATCHES_AHEAD
        background = self._view is not None and self._view.background
        fill = lib.exdb_scan_fill_background if background else lib.exdb_scan_fill
        count, more = 1, True
        while more:
            buffers = [pool.take(layout.schema.fields, wanted, batch_rows, texts) for _ in range(count)]
            rows = ffi.new("uint64_t[]", count)
            with self._session() as (worker, _):
                vectors = [buffer.vectors for buffer in buffers]
                got = fill(worker.handle, scan, vectors, rows, count, batch_rows)
                page = worker.error_page if got < 0 else 0
            if got == -errno.EMSGSIZE and buffers[0].needs(texts):
                count = 1
                continue
            if got < 0:
                self._raise_in_scan(got, page)
            if got:
                buffers[0].teach(texts, rows[0])
            try:
                for buffer, filled in zip(buffers[:got], rows, strict=False):
                    yield buffer.to_batch(filled, names)
            finally:
                for buffer in buffers:  # also if nobody wants the rest
                    pool.give(buffer)
            more = got == count or rows[got] > 0
            count = min(2 * count, ahead)

    def _check_key_columns(self, layout: Layout, given: Mapping[str, Any]) -> None:
        unknown = set(given) - set(layout.schema.names)
        missing = set(layout.info.key) - set(given)
        if unknown or missing:
            raise SchemaError(f"not the key of {self._name!r}: {', '.join(sorted(unknown | missing))}")

    def _check_writable(self) -> None:
        if self._view is not None and not self._view.writable:
            raise SnapshotWriteError

    def _session(self) -> contextlib.AbstractContextManager[tuple[Worker, Any]]:
        """Lend a channel into the native core, and the transaction's handle, or NULL."""
        return self._database.session() if self._view is None else self._view.session()

    def _whole_key(self, layout: Layout, key: Key) -> tuple[object, ...]:
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(layout.key_types):
            raise InvalidValueError(f"the key of {self._name!r} is {layout.info.key}, not {key!r}")
        return parts

    def _bound(self, layout: Layout, index: int | None, bound: Key) -> Any:
        parts = bound if isinstance(bound, tuple) else (bound,)
        if index is not None:
            return layout.encode_index_key(index, parts)
        if len(parts) > len(layout.key_types):
            raise InvalidValueError(f"the key of {self._name!r} is {layout.info.key}, not {bound!r}")
        key = ffi.new("struct exdb_key *")
        layout.encode_key(key, parts)
        return key

    def _raise_in_scan(self, code: int, page: int) -> Never:
        try:
            self._raise(code, page, 0)
        except SchemaChangedError:
            # if the table was dropped, that says more
            self.refresh()
            raise

    def _write(self, row: Mapping[str, Any], replace: bool) -> bool:
        """Write one row the short way; return whether that was possible."""
        write = self._layout.write
        if self._view is not None:
            with self._view.session() as (worker, txn):
                return self._has_written(write(worker.address, address_of(txn), row, replace), worker)
        # as _session does, but quicker
        workers = self._database.workers
        worker = workers.take()
        try:
            return self._has_written(write(worker.address, 0, row, replace), worker)
        finally:
            workers.give(worker)

    def _has_written(self, code: Any, worker: Worker) -> bool:
        # the long way looks at the catalog if that has changed
        if code is NotImplemented or (code == -errno.ESTALE and self._view is None):
            return False
        if code:
            self._refuse(code, worker, 0)
        return True

    def _refuse(self, code: int, worker: Worker, row: int) -> Never:
        if code == -errno.ENOTUNIQ:
            raise UniqueError(self._name, self._layout.info.indexes[worker.error_index].name, row)
        self._raise(code, worker.error_page, row)

    def _raise(self, code: int, page: int, row: int) -> Never:
        if code == -errno.EEXIST:
            raise DuplicateKeyError(self._name, row)
        if code == -errno.EMSGSIZE:
            raise RowTooLargeError(f"row {row}: a key, an indexed value, a text or all columns are too long")
        if code == -errno.EDOM:
            raise InvalidValueError(f"row {row}: NaN cannot be a key")
        if code == -errno.ESTALE and self._view is None:
            raise SchemaChangedError(self._name)
        # a transaction that has met another catalog, or rows that are newer than its own
        if code in (-errno.ESTALE, -errno.ECANCELED):
            raise ConflictError
        raise self._database.error(code, page)
