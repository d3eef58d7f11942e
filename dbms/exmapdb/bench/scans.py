"""Scans of all rows, beside a copy of their bytes, the peers, and DuckDB, whose users scan."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from exmapctl.bench.record import Record

from exmapdb.bench.config import Config
from exmapdb.bench.engines import Engine, ExmapdbEngine, FrozenTable, Setup
from exmapdb.bench.mixed import scan_rates
from exmapdb.bench.ycsb import VALUE_BYTES

__all__ = ["Duckdb", "scan_records"]

# rows, and the bytes of their values
Found = tuple[int, int]


class Duckdb:
    """DuckDB with a table of the same rows, and as many threads as the others have."""

    def __init__(self, setup: Setup, rows: Any) -> None:
        import duckdb

        self._db: Any = duckdb.connect(str(setup.folder / "duckdb"), config={"threads": setup.threads})
        self._db.register("given", rows)
        self._db.execute("CREATE TABLE t AS SELECT * FROM given")
        self._db.unregister("given")
        self._db.execute("CHECKPOINT")

    def read_all(self) -> Found:
        """Read all rows into an Arrow table."""
        found = self._db.sql("SELECT k, v FROM t").to_arrow_table()
        return found.num_rows, sum(part.buffers()[2].size for part in found["v"].chunks)

    def ask(self, stream: Any = None) -> Found:
        """Look at all rows of an Arrow stream, or of the table, and give sums only."""
        source = "t" if stream is None else "stream"
        if stream is not None:
            self._db.register(source, stream)
        query = f"SELECT count(*), sum(octet_length(v)), sum(k) FROM {source}"
        [(rows, size, _)] = self._db.execute(query).fetchall()
        if stream is not None:
            self._db.unregister(source)
        return int(rows), int(size)

    def close(self) -> None:
        """Close it."""
        self._db.close()


def rates(config: Config, works: Mapping[str, Callable[[], Found]]) -> dict[str, float]:
    """Return the bytes a second of each, which take turns. AssertionError if one misses a row."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(config.rounds):
        for name, work in works.items():
            start = time.perf_counter()
            rows, size = work()
            seconds = time.perf_counter() - start
            if rows < config.rows or size != rows * VALUE_BYTES:
                raise AssertionError(f"{name}: {rows} rows of {size} bytes")
            found[name].append((size + rows * 8) / seconds)
    return {name: statistics.median(each) for name, each in found.items()}


def compare(case: str, metric: str, found: Mapping[str, float]) -> Iterator[Record]:
    """Return a record for each peer."""
    ours = found["exmapdb"]
    for peer, theirs in found.items():
        if peer != "exmapdb":
            yield Record("exmapdb", case, metric, "B/s", ours, peer, ours / theirs)


def scan_records(config: Config, setup: Setup, engines: Mapping[str, Engine]) -> Iterator[Record]:
    """Compare a scan into columns with a copy, and all rows as each engine's users get them.

    Where the data do not fit the caches there is the copy only.
    """
    ours = engines["exmapdb"]
    assert isinstance(ours, ExmapdbEngine)
    case = config.case("scan", "batch", 1)
    scan, copy = scan_rates(FrozenTable(ours.table()), config.rounds)
    yield Record("exmapdb", case, "scan_vs_memcpy", "B/s", scan, "memcpy", scan / copy)
    if config.data != "memory" or not config.peers_among(["sqlite", "lmdb", "duckdb"]):
        return
    with contextlib.ExitStack() as stack:
        works = {name: engine.read_all for name, engine in engines.items()}
        if config.peers_among(["duckdb"]):
            duckdb = stack.enter_context(contextlib.closing(Duckdb(setup, ours.table().to_arrow())))
            works["duckdb"] = duckdb.read_all
        yield from compare(case, "scan_rate", rates(config, works))
        if config.peers_among(["duckdb"]):
            asked = {"exmapdb": lambda: duckdb.ask(ours.table().record_batches()), "duckdb": duckdb.ask}
            yield from compare(case, "query_rate", rates(config, asked))
