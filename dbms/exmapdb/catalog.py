"""The catalog: three tables, in known trees, that describe all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from exmapdb._core import lib
from exmapdb.errors import NoSuchTableError, SchemaError, TableExistsError
from exmapdb.layout import Index, Layout, StoredColumn, TableInfo
from exmapdb.schema import ColumnType, Field, Schema
from exmapdb.table import Table, View

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.transaction import Transaction

__all__ = ["Catalog"]

NAME_MAX: Final = 128
PLACES: Final = 1 << 30
UNFINISHED: Final = "\0"

# each change of a table writes its row here, from which the native core knows that the catalog has changed
TABLES: Final = ({"name": "text", "tree": "int64", "version": "int32"}, "name")
# key_place: 0, or the column's place in the key, counted from 1
COLUMNS: Final = (
    {
        "table": "text",
        "place": "int32",
        "name": "text",
        "type": "int32",
        "nullable": "bool",
        "key_place": "int32",
        "added": "int32",
        "dropped": "int32",
    },
    ("table", "place"),
)
# a row for each column of an index; the name of one that is being filled begins with UNFINISHED
INDEXES: Final = (
    {
        "table": "text",
        "index": "text",
        "place": "int32",
        "column": "text",
        "tree": "int64",
        "unique": "bool",
    },
    ("table", "index", "place"),
)


def make_layout(name: str, tree: int, fields: dict[str, str], key: str | tuple[str, ...]) -> Layout:
    """Return the layout of a table of the catalog."""
    schema = Schema.of(fields, key)
    return Layout(TableInfo(name, tree, 0, tuple(map(StoredColumn, schema.fields)), schema.key), 0)


class Catalog:
    """Knows the tables of one database."""

    def __init__(self, database: Database) -> None:
        tables = make_layout("exmapdb.tables", lib.EXDB_TABLES_TREE, *TABLES)
        columns = make_layout("exmapdb.columns", lib.EXDB_COLUMNS_TREE, *COLUMNS)
        indexes = make_layout("exmapdb.indexes", lib.EXDB_INDEXES_TREE, *INDEXES)
        self._tables = Table(database, tables)
        self._columns = Table(database, columns)
        self._indexes = Table(database, indexes)

    def names(self, view: View | None = None) -> list[str]:
        """Return the names of all tables, sorted."""
        tables = self._tables if view is None else self._tables.within(view)
        return [name for batch in tables.scan(columns=["name"]) for (name,) in batch.to_rows()]

    def load(self, name: str, view: View) -> TableInfo:
        """Return what there is to know of a table. NoSuchTableError."""
        row = self._tables.within(view).get(name)
        if row is None:
            raise NoSuchTableError(name, self.names(view))
        raw = list(read_rows(self._columns.within(view), (name, 0), (name, PLACES)))
        columns = [
            StoredColumn(
                Field(c["name"], ColumnType.from_stored(c["type"]), c["nullable"]), c["added"], c["dropped"]
            )
            for c in raw
        ]
        key = sorted((c["key_place"], c["name"]) for c in raw if c["key_place"])
        names = tuple(column for _, column in key)
        indexes: dict[str, Index] = {}
        for entry in read_rows(self._indexes.within(view), (name,), (name + "\0",)):
            stored: str = entry["index"]
            known = indexes[stored].columns if stored in indexes else ()
            unfinished = stored.startswith(UNFINISHED)
            indexes[stored] = Index(
                stored.removeprefix(UNFINISHED),
                (*known, entry["column"]),
                entry["unique"],
                entry["tree"],
                unfinished,
            )
        return TableInfo(name, row["tree"], row["version"], tuple(columns), names, tuple(indexes.values()))

    def create(self, txn: Transaction, name: str, schema: Schema) -> TableInfo:
        """Make an empty tree for a new table, and write all down. SchemaError, TableExistsError."""
        for given in (name, *schema.names):
            check_name(given)
        if self._tables.within(txn).get(name) is not None:
            raise TableExistsError(f"there is a table {name!r} already")
        info = TableInfo(name, txn.create_tree(), 0, tuple(map(StoredColumn, schema.fields)), schema.key)
        self._put(txn, info)
        return info

    def drop(self, txn: Transaction, name: str) -> None:
        """Forget a table, and leave its trees to be given back. NoSuchTableError."""
        info = self.load(name, txn)
        txn.drop_tree(info.tree)
        for index in info.indexes:
            txn.drop_tree(index.tree)
        self._forget(txn, info)

    def rename(self, txn: Transaction, name: str, new: str) -> TableInfo:
        """Write a table down under another name. SchemaError, NoSuchTableError, TableExistsError."""
        info = self.load(name, txn)
        check_name(new)
        if self._tables.within(txn).get(new) is not None:
            raise TableExistsError(f"there is a table {new!r} already")
        self._forget(txn, info)
        renamed = replace(info, name=new)
        self._put(txn, renamed)
        return renamed

    def add_column(self, txn: Transaction, name: str, field: Field) -> None:
        """Add a column, which is null in the rows that there are. SchemaError, NoSuchTableError."""
        info = self.load(name, txn)
        check_name(field.name)
        if not field.nullable:
            raise SchemaError(
                f"column {field.name!r}: rows that are there have no value: write '{field.type}?'"
            )
        if field.name in info.schema.names:
            raise SchemaError(f"table {name!r} has a column {field.name!r} already")
        if len(info.columns) == lib.EXDB_COLUMNS_MAX:
            raise SchemaError(f"a table has had {lib.EXDB_COLUMNS_MAX} columns at most")
        version = next_version(info)
        changed = replace(info, columns=(*info.columns, StoredColumn(field, version)))
        self._put_column(txn, changed, len(info.columns))
        self._touch(txn, info, version)

    def drop_column(self, txn: Transaction, name: str, column: str) -> None:
        """Drop a column; rows lose it when they are written again. SchemaError, NoSuchTableError."""
        info = self.load(name, txn)
        place = info.place(column)
        users = [index.name for index in info.indexes if column in index.columns]
        if column in info.key or users:
            raise SchemaError(f"column {column!r} is part of {', '.join(users) or 'the key'}")
        version = next_version(info)
        columns = list(info.columns)
        columns[place] = replace(columns[place], dropped=version)
        self._put_column(txn, replace(info, columns=tuple(columns)), place)
        self._touch(txn, info, version)

    def rename_column(self, txn: Transaction, name: str, column: str, new: str) -> None:
        """Write a column down under another name, in the indexes too. SchemaError, NoSuchTableError."""
        info = self.load(name, txn)
        check_name(new)
        if new in info.schema.names:
            raise SchemaError(f"table {name!r} has a column {new!r} already")
        place = info.place(column)
        old = info.columns[place]
        self._forget(txn, info)
        columns = list(info.columns)
        columns[place] = replace(old, field=replace(old.field, name=new))
        self._put(
            txn,
            replace(
                info,
                columns=tuple(columns),
                key=swap_name(info.key, column, new),
                indexes=tuple(
                    replace(index, columns=swap_name(index.columns, column, new)) for index in info.indexes
                ),
            ),
        )

    def create_index(
        self,
        txn: Transaction,
        name: str,
        index: str,
        columns: tuple[str, ...],
        unique: bool,
        unfinished: bool = False,
    ) -> None:
        """Write an index down, with an empty tree. SchemaError, NoSuchTableError."""
        info = self.load(name, txn)
        check_name(index)
        if index in (known.name for known in info.indexes):
            raise SchemaError(f"table {name!r} has an index {index!r} already")
        if not columns or len(set(columns)) < len(columns):
            raise SchemaError("an index has one or more different columns")
        for column in columns:
            info.place(column)
        self._put_index(txn, name, Index(index, columns, unique, txn.create_tree(), unfinished))
        self._touch(txn, info)

    def finish_index(self, txn: Transaction, name: str, index: str) -> None:
        """Let everybody see an index that was unfinished. NoSuchIndexError, NoSuchTableError."""
        info = self.load(name, txn)
        known = info.indexes[info.index_number(index, unfinished=True)]
        self._delete_index(txn, name, known)
        self._put_index(txn, name, replace(known, unfinished=False))
        self._touch(txn, info)

    def drop_index(self, txn: Transaction, name: str, index: str) -> None:
        """Forget an index, finished or not. NoSuchIndexError, NoSuchTableError."""
        info = self.load(name, txn)
        unfinished = any(known.name == index and known.unfinished for known in info.indexes)
        known = info.indexes[info.index_number(index, unfinished)]
        txn.drop_tree(known.tree)
        self._delete_index(txn, name, known)
        self._touch(txn, info)

    def _put(self, txn: Transaction, info: TableInfo) -> None:
        for place in range(len(info.columns)):
            self._put_column(txn, info, place)
        for index in info.indexes:
            self._put_index(txn, info.name, index)
        self._touch(txn, info)

    def _forget(self, txn: Transaction, info: TableInfo) -> None:
        for index in info.indexes:
            self._delete_index(txn, info.name, index)
        for place in range(len(info.columns)):
            self._columns.within(txn).delete((info.name, place))
        self._tables.within(txn).delete(info.name)

    def _put_index(self, txn: Transaction, name: str, index: Index) -> None:
        for place, column in enumerate(index.columns):
            row = {"table": name, "index": stored_name(index), "place": place, "column": column}
            self._indexes.within(txn).insert(row | {"tree": index.tree, "unique": index.unique})

    def _delete_index(self, txn: Transaction, name: str, index: Index) -> None:
        for place in range(len(index.columns)):
            self._indexes.within(txn).delete((name, stored_name(index), place))

    def _touch(self, txn: Transaction, info: TableInfo, version: int | None = None) -> None:
        row = {"name": info.name, "tree": info.tree}
        self._tables.within(txn).upsert(row | {"version": info.version if version is None else version})

    def _put_column(self, txn: Transaction, info: TableInfo, place: int) -> None:
        column = info.columns[place]
        field = column.field
        in_key = field.name in info.key and not column.dropped
        self._columns.within(txn).upsert(
            {
                "table": info.name,
                "place": place,
                "name": field.name,
                "type": field.type.stored,
                "nullable": field.nullable,
                "key_place": info.key.index(field.name) + 1 if in_key else 0,
                "added": column.added,
                "dropped": column.dropped,
            }
        )


def read_rows(table: Table, low: tuple[Any, ...], high: tuple[Any, ...]) -> Iterator[Mapping[str, Any]]:
    """Iterate over rows as dicts."""
    for batch in table.scan(low, high):
        for values in batch.to_rows():
            yield dict(zip(batch.columns, values, strict=True))


def swap_name(names: tuple[str, ...], old: str, new: str) -> tuple[str, ...]:
    """Return the names with another one in place of the old."""
    return tuple(new if name == old else name for name in names)


def stored_name(index: Index) -> str:
    """Return the name that the catalog has for an index."""
    return UNFINISHED + index.name if index.unfinished else index.name


def check_name(name: str) -> None:
    """Raise SchemaError if this is no name of a table, a column or an index."""
    if not name or len(name.encode()) > NAME_MAX:
        raise SchemaError(f"{name!r}: a name has 1 to {NAME_MAX} bytes")


def next_version(info: TableInfo) -> int:
    """Return the number of the table's next set of columns. SchemaError."""
    if info.version == lib.EXDB_VERSION_MAX:
        raise SchemaError(f"the columns of a table change {lib.EXDB_VERSION_MAX} times at most: copy it")
    return info.version + 1
