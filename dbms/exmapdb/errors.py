"""What can go wrong, each with a sentence that says what to do next."""

import errno
import os
from typing import Final

__all__ = [
    "BackendUnavailableError",
    "BackupError",
    "CommitUnknownError",
    "ConflictError",
    "CorruptLogError",
    "CorruptPageError",
    "DatabaseClosedError",
    "DatabaseFullError",
    "DatabaseLockedError",
    "DeviceInUseError",
    "DuplicateKeyError",
    "ExmapdbError",
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
    "SchemaChangedError",
    "SchemaError",
    "SnapshotWriteError",
    "StorageError",
    "TableExistsError",
    "TransactionEndedError",
    "TransactionTooLargeError",
    "TruncatedDatabaseError",
    "UniqueError",
    "from_code",
]


NO_PAGE: Final = 2**64 - 1


class ExmapdbError(Exception):
    """Base of all errors of exmapdb."""


class DatabaseClosedError(ExmapdbError):
    """The database has been closed."""

    def __init__(self) -> None:
        super().__init__("the database is closed: open it again")


class BackupError(ExmapdbError):
    """A backup cannot be used: it is damaged, or does not follow the ones before it."""

    def __init__(self, path: os.PathLike[str], message: str) -> None:
        self.path = os.fspath(path)
        super().__init__(f"{self.path}: {message}")


class ConflictError(ExmapdbError):
    """Another transaction has changed what this one has read: run it again (Database.run does)."""

    def __init__(self) -> None:
        super().__init__("another transaction has changed what this one has read: run it again")


class TransactionEndedError(ExmapdbError):
    """The transaction has been committed or rolled back."""

    def __init__(self) -> None:
        super().__init__("the transaction has ended: begin another one")


class SnapshotWriteError(ExmapdbError):
    """A table of a snapshot cannot be changed."""

    def __init__(self) -> None:
        super().__init__("a snapshot cannot be changed: use the database or a transaction")


class SchemaError(ExmapdbError, ValueError):
    """A schema, a key or a set of columns does not make sense."""


class SchemaChangedError(ExmapdbError):
    """The columns of the table have changed during a scan: begin it again."""

    def __init__(self, table: str) -> None:
        super().__init__(f"the columns of {table!r} have changed: scan it again")


class UnknownNameError(ExmapdbError, KeyError):
    """There is nothing of this name."""

    def __init__(self, what: str, name: str, known: list[str]) -> None:
        self.name = name
        self.message = f"no {what} {name!r}; there is {', '.join(known) or 'none'}"
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class NoSuchTableError(UnknownNameError):
    """There is no table of this name."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__("table", name, known)


class NoSuchIndexError(UnknownNameError):
    """The table has no index of this name."""

    def __init__(self, table: str, name: str, known: list[str]) -> None:
        self.table = table
        super().__init__(f"index of {table!r}", name, known)


class TableExistsError(ExmapdbError):
    """There is a table of this name already."""


class InvalidValueError(ExmapdbError, ValueError):
    """A value does not fit the type of its column."""


class NullViolationError(InvalidValueError):
    """A null in a column that takes none."""


class DuplicateKeyError(ExmapdbError):
    """The key is in the table, or twice in the batch; `row` is the row's number in the batch."""

    def __init__(self, table: str, row: int) -> None:
        self.table, self.row = table, row
        super().__init__(f"row {row}: its key is in {table!r} already; insert with replace=True to overwrite")


class UniqueError(ExmapdbError):
    """Another row has the same values in a unique index; `row` is the row's number in the batch, if any."""

    def __init__(self, table: str, index: str, row: int | None = None) -> None:
        self.table, self.index, self.row = table, index, row
        message = f"index {index!r} of {table!r} is unique, and another row has the same values"
        super().__init__(message if row is None else f"row {row}: {message}")


class RowTooLargeError(ExmapdbError):
    """A row, or its key, is larger than a quarter of a page; `row` is its number in the batch."""


class StorageError(ExmapdbError, OSError):
    """Something with the device, the file or the pool: errno says what, `page` where."""

    def __init__(self, number: int, message: str, path: str = "", page: int | None = None) -> None:
        self.page = page
        super().__init__(number, message, path or None)


class CorruptPageError(StorageError):
    """A page is not what was written: its checksum, magic or number is wrong."""


class TruncatedDatabaseError(StorageError):
    """A page that the database refers to does not exist."""


class CorruptLogError(StorageError):
    """The log is damaged where it had been on the disk: transactions that were acknowledged are lost."""


class ReadOnlyError(StorageError):
    """An earlier error has made the database read-only; opening it again recovers what was committed."""


class CommitUnknownError(StorageError):
    """The transaction went to the log, and then something failed.

    Whether it counts is known when the database is opened again; it is all there then, or not at all.
    Until then nothing can be changed, and reads may show it.
    """


class TransactionTooLargeError(StorageError):
    """One transaction changes more than half the log can hold."""


class NotADatabaseError(StorageError):
    """The file or device holds something else."""


class PoolExhaustedError(StorageError):
    """Every frame of the pool is latched."""


class DatabaseFullError(StorageError):
    """The region, or the disk below it, has no room left."""


class PageIOError(StorageError):
    """The device failed to read or write a page; it is in memory as it was."""


class OutOfMemoryError(StorageError, MemoryError):
    """The system refused memory."""


class BackendUnavailableError(StorageError):
    """The kernel backend cannot be used here."""


class DatabaseLockedError(StorageError):
    """Another process has the database open."""


class DeviceInUseError(StorageError):
    """The device is mounted or in use, or holds a file system or partition table."""


def from_code(code: int, path: str, page: int) -> StorageError:
    """Make the exception for a negative result of the native core (see native/exdb.h)."""
    number = -code
    match number:
        case errno.EBADMSG:
            return CorruptPageError(
                number, f"page {page} is corrupt (checksum or header): restore it from a copy", path, page
            )
        case errno.EUCLEAN:
            message = f"page {page} does not exist: the file was cut, or a page points astray"
            return TruncatedDatabaseError(number, message, path, page)
        case errno.EILSEQ:
            message = "the log is damaged where it had been on the disk: restore from a copy"
            return CorruptLogError(number, message, path)
        case errno.EROFS:
            message = "read-only since an earlier error: close it, mend that, and open it again"
            return ReadOnlyError(number, message, path, page)
        case errno.ENOTRECOVERABLE:
            message = "the commit may count or not: open the database again to know"
            return CommitUnknownError(number, message, path, page)
        case errno.E2BIG:
            message = "the transaction is too large: split it, or make the database with a larger log"
            return TransactionTooLargeError(number, message, path)
        case errno.ENOBUFS:
            return PoolExhaustedError(
                number, "every frame of the pool is latched: open with more memory", path, page
            )
        case errno.ENOSPC:
            message = f"no room for page {page}: open with a larger capacity, or free some disk"
            return DatabaseFullError(number, message, path, page)
        case errno.ENOMEM:
            return OutOfMemoryError(number, "out of memory", path)
    if page == NO_PAGE:
        return PageIOError(number, f"log: {os.strerror(number)}: look at the kernel log", path)
    return PageIOError(number, f"page {page}: {os.strerror(number)}: look at the kernel log", path, page)
