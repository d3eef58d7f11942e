"""Writers beside a reader that looks at all rows as they were at one moment, again and again.

What counts is the share of their throughput that the writers keep. Each engine is alone in the process
while it is measured: what a fork costs depends on all memory that there is.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from exmapctl.bench.record import Record

from exmapdb.bench.config import Config
from exmapdb.bench.engines import FREEZABLE, Engine, Freezable, Frozen, Setup, open_exmapdb
from exmapdb.bench.ycsb import BATCH, VALUE_BYTES, load

__all__ = ["BESIDE", "Share", "run_mixed", "run_share", "scan_rates"]

APIS = ("single", "batch")
CHOICES = 1 << 16  # keys that a writer chooses in advance
BESIDE = ("scan", "background", "freeze", "burn")
SCANS = BESIDE[:2]
SCAN_SECONDS = 0.05
BURN_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Share:
    """One round: rows a second that writers changed, alone and beside the reader; its scans, in seconds."""

    alone: float
    beside: float
    freezes: list[float]
    scans: list[float]

    @property
    def kept(self) -> float:
        """Return the share of the throughput that was kept."""
        return self.beside / self.alone


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of an engine: what it kept, by API, and the bytes a second of a scan and of a copy."""

    shares: dict[str, Share]
    scan: tuple[float, float]


@dataclass(slots=True)
class Writers:
    """Threads that change random rows until they are told to stop; `rows` counts what each has changed."""

    engine: Engine
    count: int
    rows_there: int
    batch: int
    rows: list[int] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, measure: Callable[[Callable[[], int]], None]) -> None:
        """Let them work while `measure` runs, which gets what tells the rows changed so far."""
        self.rows = [0] * self.count
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self.count)]
        for thread in threads:
            thread.start()
        try:
            while not all(self.rows) and not self.problems:
                time.sleep(0.001)
            measure(lambda: sum(self.rows))
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        if self.problems:
            raise self.problems[0]

    def _work(self, number: int) -> None:
        rng = np.random.default_rng(number)
        keys = rng.integers(0, self.rows_there, CHOICES)
        values = [bytes([65 + number]) * VALUE_BYTES] * self.batch
        single = keys.tolist()
        at = 0
        try:
            while not self.stop.is_set():
                if self.batch == 1:
                    self.engine.put(single[at], values[0])
                else:
                    part = np.unique(keys[at : at + self.batch])
                    self.engine.put_many(part, values[: len(part)])
                self.rows[number] += self.batch
                at = (at + self.batch) % (CHOICES - self.batch)
        except BaseException as error:
            self.problems.append(error)


def read_all(engine: Freezable, rows: int, freezes: list[float], scans: list[float]) -> None:
    """Freeze, scan and drop, once. AssertionError if it does not see all rows."""
    start = time.perf_counter()
    with engine.freeze() as frozen:
        freezes.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = frozen.scan()
        scans.append(time.perf_counter() - start)
    if found != (rows, rows * VALUE_BYTES):
        raise AssertionError(f"rows and bytes: {found}, of {rows} rows")


def freeze_only(engine: Freezable) -> None:
    """Freeze, wait as long as a scan might take, and drop."""
    with engine.freeze():
        time.sleep(SCAN_SECONDS)


def burn() -> None:
    """Keep a processor busy without the GIL, and with nothing of the engine."""
    hashlib.sha256(bytes(BURN_BYTES))


def run_share(
    engine: Freezable, rows: int, threads: int, batch: int, seconds: float, beside: str = "scan"
) -> Share:
    """Measure writers alone, and then beside a reader, for so long each and at least one turn of his."""
    freezes: list[float] = []
    scans: list[float] = []
    rates: list[float] = []
    works: dict[str, Callable[[], None]] = {
        **dict.fromkeys(SCANS, lambda: read_all(engine, rows, freezes, scans)),
        "freeze": lambda: freeze_only(engine),
        "burn": burn,
    }

    def timed(done: Callable[[], int], work: Callable[[], None]) -> None:
        before, start = done(), time.perf_counter()
        while time.perf_counter() - start < seconds:
            work()
        rates.append((done() - before) / (time.perf_counter() - start))

    def measure(done: Callable[[], int]) -> None:
        timed(done, lambda: time.sleep(seconds))
        timed(done, works[beside])

    # the reader's first look warms caches up
    read_all(engine, rows, [], [])
    Writers(engine, threads, rows, batch).run(measure)
    return Share(rates[0], rates[1], freezes, scans)


def copy_rate(size: int) -> float:
    """Return the bytes a second of a copy in memory that has been touched."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    start = time.perf_counter()
    np.copyto(target, source)
    return size / (time.perf_counter() - start)


def scan_rates(frozen: Frozen, rounds: int) -> tuple[float, float]:
    """Return the bytes a second of scans into columns, and of copies of as much."""
    scans, copies = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        rows, size = frozen.scan()
        size += rows * 8
        scans.append(size / (time.perf_counter() - start))
        copies.append(copy_rate(size))
    return statistics.median(scans), statistics.median(copies)


def measure_all(config: Config, setup: Setup, name: str) -> Measured:
    """Measure an engine, both APIs, and exmapdb's scan."""
    shares: dict[str, Share] = {}
    scan = (0.0, 0.0)
    with contextlib.closing(FREEZABLE[name](setup)) as engine:
        for api in APIS:
            batch = BATCH if api == "batch" else 1
            shares[api] = run_share(engine, config.rows, config.threads, batch, config.seconds, config.beside)
        if name == "exmapdb":
            with engine.freeze() as frozen:
                scan = scan_rates(frozen, config.rounds)
    return Measured(shares, scan)


def run_mixed(config: Config, advance: Callable[[str], None]) -> list[Record]:
    """Let engines take turns, in rounds, and compare exmapdb with each peer."""
    peers = config.peers_among(FREEZABLE)
    measured: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        setups = {name: config.setup(Path(folder) / name) for name in ("exmapdb", *peers)}
        for name, setup in setups.items():
            setup.folder.mkdir()
            if name == "exmapdb":
                open_exmapdb(setup, "n").close()
            with contextlib.closing(FREEZABLE[name](setup)) as engine:
                load(engine, config.rows)
            advance(f"load {name}")
        for _ in range(config.rounds):
            for name, setup in setups.items():
                measured.setdefault(name, []).append(measure_all(config, setup, name))
                advance(f"mixed {name}")
    return list(compare(config, peers, measured))


def compare(config: Config, peers: Sequence[str], measured: dict[str, list[Measured]]) -> Iterator[Record]:
    """Return records for each API and peer."""
    scan, copy = (
        statistics.median(rates) for rates in zip(*(m.scan for m in measured["exmapdb"]), strict=True)
    )
    for api in APIS:
        case = config.case("mixed", api) + ("" if config.beside == "scan" else f",beside={config.beside}")
        for peer in peers:
            # other readers are there for what they leave to the writers
            for metric, unit, better in METRICS if config.beside in SCANS else METRICS[:2]:
                value, other = (
                    statistics.median(metric_of(metric, m.shares[api]) for m in measured[name])
                    for name in ("exmapdb", peer)
                )
                yield Record("exmapdb", case, metric, unit, value, peer, (value / other) ** better)
        yield Record("exmapdb", case, "scan_vs_memcpy", "B/s", scan, "memcpy", scan / copy)


# name, unit, and 1 if more is better, else -1
METRICS = (
    ("olap_kept", "1", 1),
    ("oltp_rows_per_s", "1/s", 1),
    ("freeze_us", "us", -1),
    ("scan_ms", "ms", -1),
)


def metric_of(name: str, share: Share) -> float:
    """Return one figure of a round."""
    return {
        "olap_kept": share.kept,
        "oltp_rows_per_s": share.beside,
        "freeze_us": statistics.median(share.freezes or [0.0]) * 1e6,
        "scan_ms": statistics.median(share.scans or [0.0]) * 1e3,
    }[name]
