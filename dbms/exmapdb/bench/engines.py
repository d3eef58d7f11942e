"""exmapdb, SQLite and LMDB behind one face: a table of values of bytes under integers, in a Python process.

Each engine has the calls that its users would make, single or in batches, and the same promise about what a
crash loses: `durable` means that a change is on the disk when it returns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from exmapdb.database import Backend, Database
from exmapdb.opening import open_database
from exmapdb.storage import Flag
from exmapdb.table import Table
from exmapdb.workers import WorkerPool

__all__ = [
    "ENGINES",
    "FREEZABLE",
    "Engine",
    "Freezable",
    "Frozen",
    "FrozenTable",
    "Setup",
    "available",
    "open_exmapdb",
]

Keys = NDArray[np.int64]
CHILD_SAYS = struct.Struct("<qq")  # rows and bytes


@dataclass(frozen=True, slots=True)
class Setup:
    """What engines are opened with.

    folder: for files.  memory: bytes of cache.  backend, device: exmapdb's, which has its database on the
    device if there is one.  threads: that work at the same time.  background: exmapdb's snapshots are read
    in the background.
    """

    folder: Path
    memory: int
    durable: bool
    backend: str
    threads: int = 1
    background: bool = False
    device: str | None = None


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

    def read_all(self) -> tuple[int, int]:
        """Read all rows into memory, as its users do; how many there are, and the bytes of their values."""

    def close(self) -> None:
        """Close it."""


class Frozen(Protocol):
    """All rows as they were at one moment."""

    def scan(self) -> tuple[int, int]:
        """Read all of them; how many there are, and the bytes of their values."""


class Freezable(Engine, Protocol):
    """An engine that can show all rows as they were while others change them."""

    def freeze(self) -> contextlib.AbstractContextManager[Frozen]:
        """Keep what there is now; whoever calls it is one thread."""


class FrozenTable:
    """A table of exmapdb's, read into columns."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def scan(self) -> tuple[int, int]:
        """Read all of them; how many there are, and the bytes of their values."""
        rows = size = 0
        for batch in self._table.scan():
            rows += batch.rows
            size += len(batch["v"].values)
        return rows, size


def open_exmapdb(setup: Setup, flag: Flag = "c") -> Database:
    """Open exmapdb's database; with flag "n" a new one, whatever the device has."""
    return open_database(
        setup.device or setup.folder / "exmapdb",
        memory=setup.memory,
        backend=cast("Backend", setup.backend),
        flag=flag,
        force=flag == "n",
        durability="group" if setup.durable else "async",
        log="64MiB",
        capacity=None if setup.device else max(1 << 30, 16 * setup.memory),
        workers=setup.threads + 1,
    )


class ExmapdbEngine:
    """exmapdb: rows of Python one by one, columns in batches."""

    def __init__(self, setup: Setup) -> None:
        self._background = setup.background
        self._database: Database = open_exmapdb(setup)
        if "t" in self._database:
            self._table: Table = self._database.table("t")
            self._table.count()  # so that it is resident
        else:
            self._table = self._database.create_table("t", {"k": "int64", "v": "bytes"}, key="k")

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
        left, size = rows, 0
        for batch in self._table.scan(key, columns=["v"], batch_rows=rows, prefetch=0):
            # the last one may have more than is wanted
            offsets = batch["v"].offsets
            assert offsets is not None
            size += int(offsets[min(left, batch.rows)])
            left -= batch.rows
            if left <= 0:
                break
        return size

    def read_all(self) -> tuple[int, int]:
        """Read all rows into an Arrow table; how many there are, and the bytes of their values."""
        found = self._table.to_arrow()
        return found.num_rows, sum(part.buffers()[2].size for part in found["v"].chunks)

    def table(self) -> Table:
        """Return the table, for what only exmapdb can."""
        return self._table

    @contextlib.contextmanager
    def freeze(self) -> Iterator[Frozen]:
        """Take a snapshot."""
        with self._database.snapshot(background=self._background) as snapshot:
            yield FrozenTable(snapshot.table("t"))

    def close(self) -> None:
        """Close it."""
        self._database.close()


class Child:
    """A process that was forked off, reads all rows, and says what it has found."""

    def __init__(self, reader: int) -> None:
        self._reader = reader

    def scan(self) -> tuple[int, int]:
        """Wait for what it has found."""
        found = b""
        while len(found) < CHILD_SAYS.size and (part := os.read(self._reader, CHILD_SAYS.size)):
            found += part
        if len(found) < CHILD_SAYS.size:
            raise AssertionError("the child failed")
        rows, size = CHILD_SAYS.unpack(found)
        return rows, size


class ForkEngine(ExmapdbEngine):
    """The same engine on plain memory, which a child process that is forked sees as it was (HyPer's way)."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(dataclasses.replace(setup, backend="posix", background=False, device=None))
        self._workers = setup.threads + 1

    @contextlib.contextmanager
    def freeze(self) -> Iterator[Frozen]:
        """Fork, when no thread is inside of the core: latches that it held would never be let go of."""
        pool = self._database.workers
        reader, writer = os.pipe()
        taken = [pool.take() for _ in range(self._workers)]
        pid = os.fork()
        if not pid:
            try:
                # a writer that waits for a worker may have the pool's lock, and is not here to let go of it
                self._database.workers = WorkerPool(taken)
                os.write(writer, CHILD_SAYS.pack(*FrozenTable(self._table).scan()))
            finally:
                os._exit(0)
        for worker in taken:
            pool.give(worker)
        os.close(writer)
        try:
            yield Child(reader)
        finally:
            os.close(reader)
            os.waitpid(pid, 0)


class SqliteEngine:
    """SQLite in WAL mode: synchronous=FULL if durable, else OFF; a connection for each thread."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._connections: list[sqlite3.Connection] = []
        self._mine = threading.local()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v BLOB)")
        self._reader = self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self._setup.folder / "sqlite", timeout=60, isolation_level=None, check_same_thread=False
        )
        db.execute(f"PRAGMA synchronous={'FULL' if self._setup.durable else 'OFF'}")
        db.execute(f"PRAGMA cache_size=-{self._setup.memory >> 10}")
        self._connections.append(db)
        return db

    @property
    def _db(self) -> sqlite3.Connection:
        if not hasattr(self._mine, "db"):
            self._mine.db = self._connect()
        return cast("sqlite3.Connection", self._mine.db)

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

    def read_all(self) -> tuple[int, int]:
        """Read all rows as tuples; how many there are, and the bytes of their values."""
        found = self._db.execute("SELECT k, v FROM t").fetchall()
        return len(found), sum(len(value) for _, value in found)

    @contextlib.contextmanager
    def freeze(self) -> Iterator[Frozen]:
        """Begin to read."""
        self._reader.execute("BEGIN")
        self._reader.execute("SELECT 1 FROM t LIMIT 1").fetchone()
        try:
            yield SqliteReader(self._reader)
        finally:
            self._reader.execute("COMMIT")

    def close(self) -> None:
        """Close it."""
        for db in self._connections:
            db.close()


class SqliteReader:
    """A transaction that reads. SQLite counts by itself, without the GIL, and gives Python sums only."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def scan(self) -> tuple[int, int]:
        """Read all of them; how many there are, and the bytes of their values."""
        rows, size, _ = self._db.execute("SELECT count(*), sum(length(v)), sum(k) FROM t").fetchone()
        return int(rows), int(size)


class LmdbEngine:
    """LMDB by way of py-lmdb; a transaction for each call.

    readahead: of the kernel when it reads a page, which does harm if not all data fit the memory.
    """

    def __init__(self, setup: Setup, readahead: bool = True) -> None:
        import lmdb

        size, path = max(1 << 30, 16 * setup.memory), str(setup.folder / "lmdb")
        self._env: Any = lmdb.open(path, map_size=size, sync=setup.durable, readahead=readahead)
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

    def read_all(self) -> tuple[int, int]:
        """Read all rows as pairs of bytes; how many there are, and the bytes of their values."""
        with self._env.begin() as txn, txn.cursor() as cursor:
            found = list(cursor)
        return len(found), sum(len(value) for _, value in found)

    def close(self) -> None:
        """Close it."""
        self._env.close()


ENGINES: dict[str, type[ExmapdbEngine] | type[SqliteEngine] | type[LmdbEngine]] = {
    "exmapdb": ExmapdbEngine,
    "sqlite": SqliteEngine,
    "lmdb": LmdbEngine,
}

FREEZABLE: dict[str, type[ExmapdbEngine] | type[ForkEngine] | type[SqliteEngine]] = {
    "exmapdb": ExmapdbEngine,
    "sqlite": SqliteEngine,
    "fork": ForkEngine,
}


def available(names: Sequence[str]) -> None:
    """Raise ImportError, with what to do, if an engine is not installed."""
    for name in ("lmdb", "duckdb"):
        if name in names and importlib.util.find_spec(name) is None:
            raise ImportError(f"there is no Python package {name}: pip install 'exmap[bench]'")
