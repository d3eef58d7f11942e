"""exmapdb, SQLite and LMDB behind one face: a table of values of bytes under integers, in a Python process.

Each engine has the calls that its users would make, single or in batches, and the same promise about what a
crash loses: `durable` means that a change is on the disk when it returns.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from exmapdb.database import Backend, Database, open_database
from exmapdb.table import Table

__all__ = ["ENGINES", "Engine", "Setup", "available"]

Keys = NDArray[np.int64]


class Setup:
    """What engines are opened with: a folder, bytes of cache, durability, and exmapdb's backend."""

    def __init__(self, folder: Path, memory: int, durable: bool, backend: str) -> None:
        self.folder, self.memory, self.durable, self.backend = folder, memory, durable, backend


class Engine(Protocol):
    """What the bench calls. Values that are read are counted in bytes, so that they are really there."""

    def load(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert rows whose keys ascend."""

    def get(self, key: int) -> int:
        """Read a value; its length."""

    def get_many(self, keys: Keys) -> int:
        """Read values; their bytes."""

    def put(self, key: int, value: bytes) -> None:
        """Insert or replace a value, in a transaction."""

    def put_many(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert or replace values, in one transaction."""

    def scan(self, key: int, rows: int) -> int:
        """Read so many values from a key on; their bytes."""

    def close(self) -> None:
        """Close it."""


class ExmapdbEngine:
    """exmapdb: rows of Python one by one, columns in batches."""

    def __init__(self, setup: Setup) -> None:
        self._database: Database = open_database(
            setup.folder / "exmapdb",
            memory=setup.memory,
            backend=cast(Backend, setup.backend),
            durability="group" if setup.durable else "async",
            log="64MiB",
            capacity=max(1 << 30, 16 * setup.memory),
            workers=2,
        )
        self._table: Table = self._database.create_table("t", {"k": "int64", "v": "bytes"}, key="k")

    def load(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert rows whose keys ascend."""
        self._table.insert_many({"k": keys, "v": list(values)})

    def get(self, key: int) -> int:
        """Read a value; its length."""
        row = self._table.get(key)
        return len(row["v"]) if row else 0

    def get_many(self, keys: Keys) -> int:
        """Read values; their bytes."""
        batch, _ = self._table.lookup({"k": keys}, columns=["v"])
        return len(batch["v"].values)

    def put(self, key: int, value: bytes) -> None:
        """Insert or replace a value, in a transaction."""
        self._table.upsert({"k": key, "v": value})

    def put_many(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert or replace values, in one transaction."""
        self._table.insert_many({"k": keys, "v": list(values)}, replace=True)

    def scan(self, key: int, rows: int) -> int:
        """Read so many values from a key on; their bytes."""
        for batch in self._table.scan(key, columns=["v"], batch_rows=rows, prefetch=0):
            return len(batch["v"].values)
        return 0

    def table(self) -> Table:
        """Return the table, for what only exmapdb can."""
        return self._table

    def close(self) -> None:
        """Close it."""
        self._database.close()


class SqliteEngine:
    """SQLite in WAL mode: synchronous=FULL if durable, else OFF."""

    def __init__(self, setup: Setup) -> None:
        self._db = sqlite3.connect(setup.folder / "sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={'FULL' if setup.durable else 'OFF'}")
        self._db.execute(f"PRAGMA cache_size=-{setup.memory >> 10}")
        self._db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")

    def load(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert rows whose keys ascend."""
        self.put_many(keys, values)

    def get(self, key: int) -> int:
        """Read a value; its length."""
        row = self._db.execute("SELECT v FROM t WHERE k = ?", (key,)).fetchone()
        return len(row[0]) if row else 0

    def get_many(self, keys: Keys) -> int:
        """Read values; their bytes."""
        execute = self._db.execute
        self._db.execute("BEGIN")
        rows = (execute("SELECT v FROM t WHERE k = ?", (key,)).fetchone() for key in keys.tolist())
        size = sum(len(row[0]) for row in rows if row)
        self._db.execute("COMMIT")
        return size

    def put(self, key: int, value: bytes) -> None:
        """Insert or replace a value, in a transaction."""
        self._db.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (key, value))

    def put_many(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert or replace values, in one transaction."""
        self._db.execute("BEGIN")
        rows = zip(keys.tolist(), values, strict=True)
        self._db.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", rows)
        self._db.execute("COMMIT")

    def scan(self, key: int, rows: int) -> int:
        """Read so many values from a key on; their bytes."""
        found = self._db.execute("SELECT v FROM t WHERE k >= ? ORDER BY k LIMIT ?", (key, rows))
        return sum(len(row[0]) for row in found)

    def close(self) -> None:
        """Close it."""
        self._db.close()


class LmdbEngine:
    """LMDB by way of py-lmdb; a transaction for each call."""

    def __init__(self, setup: Setup) -> None:
        import lmdb

        size = max(1 << 30, 16 * setup.memory)
        self._env: Any = lmdb.open(str(setup.folder / "lmdb"), map_size=size, sync=setup.durable)
        self._pack = struct.Struct(">Q").pack

    def load(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert rows whose keys ascend."""
        self.put_many(keys, values)

    def get(self, key: int) -> int:
        """Read a value; its length."""
        with self._env.begin() as txn:
            value = txn.get(self._pack(key))
        return len(value) if value else 0

    def get_many(self, keys: Keys) -> int:
        """Read values; their bytes."""
        wanted = list(map(self._pack, keys.tolist()))
        with self._env.begin() as txn, txn.cursor() as cursor:
            return sum(len(value) for _, value in cursor.getmulti(wanted))

    def put(self, key: int, value: bytes) -> None:
        """Insert or replace a value, in a transaction."""
        with self._env.begin(write=True) as txn:
            txn.put(self._pack(key), value)

    def put_many(self, keys: Keys, values: Sequence[bytes]) -> None:
        """Insert or replace values, in one transaction."""
        pairs = zip(map(self._pack, keys.tolist()), values, strict=True)
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(pairs)

    def scan(self, key: int, rows: int) -> int:
        """Read so many values from a key on; their bytes."""
        with self._env.begin() as txn, txn.cursor() as cursor:
            if not cursor.set_range(self._pack(key)):
                return 0
            found = cursor.iternext(keys=False, values=True)
            return sum(len(value) for _, value in zip(range(rows), found, strict=False))

    def close(self) -> None:
        """Close it."""
        self._env.close()


ENGINES: dict[str, type[ExmapdbEngine] | type[SqliteEngine] | type[LmdbEngine]] = {
    "exmapdb": ExmapdbEngine,
    "sqlite": SqliteEngine,
    "lmdb": LmdbEngine,
}


def available(names: Sequence[str]) -> None:
    """Raise ImportError, with what to do, if an engine is not installed."""
    if "lmdb" in names:
        try:
            import lmdb  # noqa: F401
        except ImportError as error:
            raise ImportError("LMDB needs py-lmdb: pip install 'exmap[bench]'") from error
