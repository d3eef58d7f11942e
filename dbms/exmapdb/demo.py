"""The demo: real data in a table larger than its memory, and every result checked."""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from exmapdb import flights
from exmapdb.database import Backend, Database, Stats
from exmapdb.demo_snapshot import SnapshotResult, run_snapshot
from exmapdb.flights import Carrier, Truth
from exmapdb.opening import open_database
from exmapdb.table import Table

__all__ = ["Check", "Demo", "DemoConfig", "DemoResult", "Phase", "Reporter"]

TABLE: Final = "flights"
ABSENT: Final = 1_000_000  # no flight has so high a number
RANGE_SHARE: Final = 0.02  # of the year
RANGE_START: Final = 0.45


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What to run, and where; no path means a temporary file."""

    backend: Backend = "auto"
    path: Path | None = None
    memory: str = "16MiB"
    rows: int | None = None
    lookups: int = 5_000
    seed: int = 2013
    force: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the demo: so many operations in so many seconds, and what the pool did for it."""

    name: str
    unit: str
    operations: int
    seconds: float
    hits: int
    misses: int
    pages_read: int
    pages_written: int
    evicted: int
    tlb_flushes: int
    rescues: int

    @property
    def rate(self) -> float:
        """Return operations a second."""
        return self.operations / self.seconds if self.seconds else 0.0

    @property
    def hit_rate(self) -> float:
        """Return the share of fixes that found their page resident."""
        fixes = self.hits + self.misses
        return self.hits / fixes if fixes else 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison with the source: how many values were compared, and what differed first."""

    name: str
    compared: int
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Return whether all was as it should be."""
        return not self.problem


@dataclass(slots=True)
class DemoResult:
    """What came of it."""

    backend: str
    path: str
    storage: str
    pool_pages: int
    region_pages: int
    table_pages: int
    rows: int
    seconds: float = 0.0
    phases: list[Phase] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    carriers: dict[str, Carrier] = field(default_factory=dict)
    snapshot: SnapshotResult | None = None

    @property
    def verdict(self) -> str:
        """Return the line that the demo ends with."""
        failed = [f"{check.name}: {check.problem}" for check in self.checks if not check.ok]
        return f"demo: FAILED: {'; '.join(failed)}" if failed else "demo: ok"

    @property
    def ok(self) -> bool:
        """Return whether every check held."""
        return all(check.ok for check in self.checks)


class Reporter(Protocol):
    """Is told how far the demo has come."""

    def start(self, name: str, total: int) -> None:
        """A part begins that will do `total` operations."""

    def advance(self, done: int) -> None:
        """So many of them are done."""


class Stopwatch:
    """Measures one phase, with what the database counted meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._before = database.stats()
        self._start = time.perf_counter()

    def stop(self, name: str, unit: str, operations: int) -> Phase:
        """Return the phase that ends now."""
        seconds = time.perf_counter() - self._start
        after = self._database.stats()
        counted = {
            item.name: getattr(after, item.name) - getattr(self._before, item.name)
            for item in fields(Phase)
            if item.name in Stats.__dataclass_fields__
        }
        return Phase(name, unit, operations, seconds, **counted)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of all rows, in the order of the source."""

    time_hour: NDArray[np.int64]
    carrier: NDArray[np.bytes_]
    flight: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.flight)

    def of(self, row: int) -> tuple[np.datetime64, str, int]:
        """Return the key of a row."""
        hour = np.datetime64(int(self.time_hour[row]), "us")
        return hour, self.carrier[row].decode(), int(self.flight[row])


class Demo:
    """Loads, looks up, scans, aggregates, and checks."""

    def __init__(self, config: DemoConfig, reporter: Reporter) -> None:
        self._config = config
        self._reporter = reporter
        self._archive = flights.find_archive()

    def run(self) -> DemoResult:
        """Run everything; the errors of exmapdb pass through, wrong results are in the checks."""
        start = time.perf_counter()
        with self._place() as path:
            loading, keys = self._load(path)
            result = self._query(path, keys)
        result.phases.insert(0, loading)
        result.seconds = time.perf_counter() - start
        return result

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        if self._config.path is not None:
            yield self._config.path
            return
        with tempfile.TemporaryDirectory(prefix="exmapdb-") as folder:
            yield Path(folder) / "flights.exdb"

    def _load(self, path: Path) -> tuple[Phase, Keys]:
        config = self._config
        parts: list[tuple[Any, Any, Any]] = []
        rows = 0
        with open_database(
            path, memory=config.memory, backend=config.backend, flag="n", force=config.force
        ) as database:
            watch = Stopwatch(database)
            table = database.create_table(TABLE, dict(flights.SCHEMA), flights.KEY)
            for chunk in flights.read_chunks(self._archive, config.rows):
                if not rows:
                    self._reporter.start("load", chunk.total)
                rows += table.insert_many(chunk.columns)
                columns = chunk.columns
                parts.append(
                    (columns["time_hour"].values, columns["carrier"].to_bytes(), columns["flight"].values)
                )
                self._reporter.advance(chunk.read)
            database.checkpoint()
            phase = watch.stop("load", "rows", rows)
        return phase, Keys(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _query(self, path: Path, keys: Keys) -> DemoResult:
        config = self._config
        random = np.random.default_rng(config.seed)
        with open_database(path, memory=config.memory, backend=config.backend, flag="w") as database:
            stats = database.stats()
            result = DemoResult(
                stats.backend,
                str(path),
                database.storage,
                stats.pool_pages,
                stats.region_pages,
                stats.allocated_pages,
                len(keys),
            )
            table = database.table(TABLE)
            sample = random.integers(0, len(keys), config.lookups)
            found = self._lookup(database, table, keys, sample, result)
            low, high = time_range(keys)
            scanned = self._scan(database, table, low, high, result)
            result.carriers = self._aggregate(database, table, result)
            self._snapshot(database, table, result)
        truth = self._truth(sample, low, high, len(keys))
        result.checks += [
            check_rows(truth, result.rows),
            check_lookups(truth, sample, found),
            check_scan(truth, scanned),
            check_carriers(truth, result.carriers),
        ]
        return result

    def _lookup(
        self, database: Database, table: Table, keys: Keys, sample: NDArray[np.int64], result: DemoResult
    ) -> list[dict[str, Any] | None]:
        """Look up rows of the sample, and as a control keys that are not there."""
        wanted = [keys.of(row) for row in sample.tolist()]
        found = []
        self._reporter.start("point lookups", len(wanted))
        watch = Stopwatch(database)
        for number, key in enumerate(wanted, 1):
            found.append(table.get(key))
            if not number % 500:
                self._reporter.advance(number)
        result.phases.append(watch.stop("point lookups", "rows", len(wanted)))
        absent = wanted[:100]
        ghosts = sum(
            table.get((hour, carrier, ABSENT + flight)) is not None for hour, carrier, flight in absent
        )
        result.checks.append(
            Check("absent keys", len(absent), f"{ghosts} flights that do not exist" if ghosts else "")
        )
        return found

    def _scan(
        self,
        database: Database,
        table: Table,
        low: np.datetime64,
        high: np.datetime64,
        result: DemoResult,
    ) -> list[flights.Row]:
        self._reporter.start("range scan", 1)
        watch = Stopwatch(database)
        batches = list(table.scan(low, high))
        result.phases.append(watch.stop("range scan", "rows", sum(map(len, batches))))
        self._reporter.advance(1)
        return [as_source(row) for batch in batches for row in batch.to_rows()]

    def _aggregate(self, database: Database, table: Table, result: DemoResult) -> dict[str, Carrier]:
        """Number of flights, and mean departure delay, of each carrier."""
        totals: dict[str, Carrier] = {}
        rows = 0
        self._reporter.start("aggregate", result.rows)
        watch = Stopwatch(database)
        for batch in table.scan(columns=["carrier", "dep_delay"]):
            add_batch(totals, batch["carrier"].to_bytes(), batch["dep_delay"])
            rows += len(batch)
            self._reporter.advance(rows)
        result.phases.append(watch.stop("aggregate", "rows", rows))
        return dict(sorted(totals.items()))

    def _snapshot(self, database: Database, table: Table, result: DemoResult) -> None:
        """Compare frozen pages with what they were, while a writer changes the table."""
        watch = Stopwatch(database)
        snapshot = run_snapshot(
            database,
            table,
            result.rows,
            lambda total: self._reporter.start("snapshot", total),
            self._reporter.advance,
        )
        result.snapshot = snapshot
        result.phases.append(watch.stop("snapshot", "rows", 2 * snapshot.rows))
        result.checks.append(Check("snapshot", snapshot.comparisons, snapshot.problem))

    def _truth(self, sample: NDArray[np.int64], low: np.datetime64, high: np.datetime64, rows: int) -> Truth:
        self._reporter.start("check", rows)
        first, last = (f"{np.datetime_as_string(bound, unit='s')}Z" for bound in (low, high))
        wanted = frozenset(sample.tolist())
        return flights.read_truth(
            self._archive, self._config.rows, wanted, first, last, self._reporter.advance
        )


def time_range(keys: Keys) -> tuple[np.datetime64, np.datetime64]:
    """Return the bounds of the range scan: whole hours in the middle of the data."""
    first, last = int(keys.time_hour.min()), int(keys.time_hour.max())
    hour = 3_600_000_000
    low = (first + int((last - first) * RANGE_START)) // hour * hour
    high = low + max(int((last - first) * RANGE_SHARE) // hour * hour, hour)
    return np.datetime64(low, "us"), np.datetime64(high, "us")


def add_batch(totals: dict[str, Carrier], carriers: NDArray[np.bytes_], delays: Any) -> None:
    """Add a batch of rows to the carriers' totals."""
    names, group = np.unique(carriers, return_inverse=True)
    valid = np.ones(len(group), np.bool_) if delays.valid is None else delays.valid
    flown = group[valid]
    counts = np.bincount(group, minlength=len(names))
    departed = np.bincount(flown, minlength=len(names))
    # whole minutes: exact in float64
    sums = np.bincount(flown, weights=delays.values[valid], minlength=len(names))
    for i, name in enumerate(names.tolist()):
        total = totals.setdefault(name.decode(), Carrier())
        total.flights += int(counts[i])
        total.departed += int(departed[i])
        total.delay += int(sums[i])


def as_source(row: Sequence[Any]) -> flights.Row:
    """Write a row as the source does: times as text."""
    return tuple(f"{v.isoformat()}Z" if isinstance(v, dt.datetime) else v for v in row)


def check_rows(truth: Truth, rows: int) -> Check:
    """Compare the number of rows."""
    return Check(
        "rows", truth.rows, "" if rows == truth.rows else f"{rows} loaded, {truth.rows} in the source"
    )


def check_lookups(
    truth: Truth, sample: NDArray[np.int64], found: Sequence[Mapping[str, Any] | None]
) -> Check:
    """Compare rows that were looked up, value by value."""
    for number, row in zip(sample.tolist(), found, strict=True):
        got = None if row is None else as_source(list(row.values()))
        if got != truth.wanted[number]:
            return Check("point lookups", len(found), f"row {number}: {got} is not {truth.wanted[number]}")
    return Check("point lookups", len(found))


def check_scan(truth: Truth, scanned: Sequence[flights.Row]) -> Check:
    """Compare all rows of the range scan, and their order."""
    places = [flights.COLUMNS.index(name) for name in flights.KEY]
    expected = sorted(truth.in_range, key=lambda row: [row[place] for place in places])
    if len(scanned) != len(expected):
        return Check("range scan", len(scanned), f"{len(scanned)} rows, not {len(expected)}")
    for got, row in zip(scanned, expected, strict=True):
        if got != row:
            return Check("range scan", len(scanned), f"{got} is not {row}")
    return Check("range scan", len(scanned))


def check_carriers(truth: Truth, carriers: Mapping[str, Carrier]) -> Check:
    """Compare the aggregate."""
    expected = dict(sorted(truth.carriers.items()))
    if carriers != expected:
        wrong = [name for name in expected | dict(carriers) if carriers.get(name) != expected.get(name)]
        return Check("aggregate", len(expected), f"carriers {', '.join(wrong)} differ")
    return Check("aggregate", len(expected))
