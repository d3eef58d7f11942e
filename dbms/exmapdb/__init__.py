"""exmapdb: a database whose pages live in memory that it maps itself.

>>> import exmapdb
>>> with exmapdb.open("stars.exdb", memory="16MiB") as db:
...     stars = db.create_table("stars", {"id": "int64", "name": "text?"}, key="id")
...     stars.insert_many({"id": [1, 2], "name": ["Sirius", None]})
...     stars.get(1)
2
{'id': 1, 'name': 'Sirius'}
"""

from exmapdb.backup import BackupResult, restore
from exmapdb.column import Batch, Column
from exmapdb.database import Backend, CheckResult, Database, Stats
from exmapdb.errors import (
    BackendUnavailableError,
    BackupError,
    CommitUnknownError,
    ConflictError,
    CorruptLogError,
    CorruptPageError,
    DatabaseClosedError,
    DatabaseFullError,
    DatabaseLockedError,
    DeviceInUseError,
    DuplicateKeyError,
    ExmapdbError,
    InvalidValueError,
    NoSuchIndexError,
    NoSuchTableError,
    NotADatabaseError,
    NullViolationError,
    OutOfMemoryError,
    PageIOError,
    PoolExhaustedError,
    ReadOnlyError,
    RowTooLargeError,
    SchemaChangedError,
    SchemaError,
    SnapshotWriteError,
    StorageError,
    TableExistsError,
    TransactionEndedError,
    TransactionTooLargeError,
    TruncatedDatabaseError,
    UniqueError,
)
from exmapdb.frozen import FreezeStats, Frozen
from exmapdb.layout import Index
from exmapdb.opening import Durability
from exmapdb.opening import open_database as open
from exmapdb.schema import ColumnType, Field, Schema
from exmapdb.snapshot import Snapshot
from exmapdb.table import Table
from exmapdb.transaction import Transaction

__all__ = [
    "Backend",
    "BackendUnavailableError",
    "BackupError",
    "BackupResult",
    "Batch",
    "CheckResult",
    "Column",
    "ColumnType",
    "CommitUnknownError",
    "ConflictError",
    "CorruptLogError",
    "CorruptPageError",
    "Database",
    "DatabaseClosedError",
    "DatabaseFullError",
    "DatabaseLockedError",
    "DeviceInUseError",
    "DuplicateKeyError",
    "Durability",
    "ExmapdbError",
    "Field",
    "FreezeStats",
    "Frozen",
    "Index",
    "InvalidValueError",
    "NoSuchIndexError",
    "NoSuchTableError",
    "NotADatabaseError",
    "NullViolationError",
    "OutOfMemoryError",
    "PageIOError",
    "PoolExhaustedError",
    "ReadOnlyError",
    "RowTooLargeError",
    "Schema",
    "SchemaChangedError",
    "SchemaError",
    "Snapshot",
    "SnapshotWriteError",
    "Stats",
    "StorageError",
    "Table",
    "TableExistsError",
    "Transaction",
    "TransactionEndedError",
    "TransactionTooLargeError",
    "TruncatedDatabaseError",
    "UniqueError",
    "open",
    "restore",
]
