"""The catalog: two tables, in known trees, that describe all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exmapdb._core import lib
from exmapdb.errors import NoSuchTableError, SchemaError, TableExistsError
from exmapdb.schema import ColumnType, Field, Schema
from exmapdb.table import Table, View

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.transaction import Transaction

__all__ = ["Catalog"]

NAME_MAX: Final = 128

TABLES = Schema.of({"name": "text", "tree": "int64"}, "name")
# key_place: 0, or the column's place in the key, counted from 1
COLUMNS = Schema.of(
    {
        "table": "text",
        "place": "int32",
        "name": "text",
        "type": "int32",
        "nullable": "int32",
        "key_place": "int32",
    },
    ("table", "place"),
)


class Catalog:
    """Knows the tables of one database."""

    def __init__(self, database: Database) -> None:
        self._tables = Table(database, "exmapdb.tables", TABLES, lib.EXDB_TABLES_TREE)
        self._columns = Table(database, "exmapdb.columns", COLUMNS, lib.EXDB_COLUMNS_TREE)

    def names(self, view: View | None = None) -> list[str]:
        """Return the names of all tables, sorted."""
        tables = self._tables if view is None else self._tables.within(view)
        return [name for batch in tables.scan(columns=["name"]) for (name,) in batch.to_rows()]

    def load(self, name: str, view: View) -> tuple[Schema, int]:
        """Return a table's schema and tree. NoSuchTableError."""
        tables, table_columns = self._tables.within(view), self._columns.within(view)
        row = tables.get(name)
        if row is None:
            raise NoSuchTableError(name, self.names(view))
        columns = [
            dict(zip(batch.columns, values, strict=True))
            for batch in table_columns.scan((name, 0), (name, 1 << 30))
            for values in batch.to_rows()
        ]
        fields = (
            Field(column["name"], ColumnType.from_code(column["type"]), bool(column["nullable"]))
            for column in columns
        )
        key = sorted((c["key_place"], c["name"]) for c in columns if c["key_place"])
        return Schema.of(fields, [name for _, name in key]), row["tree"]

    def create(self, txn: Transaction, name: str, schema: Schema) -> int:
        """Make an empty tree for a new table, write both down, and return its number."""
        if not name or len(name.encode()) > NAME_MAX:
            raise SchemaError(f"a table's name has 1 to {NAME_MAX} bytes")
        if any(len(column.encode()) > NAME_MAX for column in schema.names):
            raise SchemaError(f"a column's name has at most {NAME_MAX} bytes")
        tables = self._tables.within(txn)
        if tables.get(name) is not None:
            raise TableExistsError(f"there is a table {name!r} already")
        tree = txn.create_tree()
        count = len(schema.fields)
        self._columns.within(txn).insert_many(
            {
                "table": [name] * count,
                "place": list(range(count)),
                "name": list(schema.names),
                "type": [field.type.code for field in schema.fields],
                "nullable": [int(field.nullable) for field in schema.fields],
                "key_place": [
                    schema.key.index(column) + 1 if column in schema.key else 0 for column in schema.names
                ],
            }
        )
        tables.insert({"name": name, "tree": tree})
        return tree
