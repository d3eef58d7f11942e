"""Rounds over engines, and the records that come of them."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from exmapctl.bench.record import Record

from exmapdb.bench.engines import ENGINES, Engine, ExmapdbEngine, Setup
from exmapdb.bench.ycsb import WORKLOADS, Measured, Operations, Workload, prepare, run, values_of

__all__ = ["Config", "run_ycsb"]

LOAD_ROWS = 20_000
ROW_BYTES = 160  # a row of 100 bytes, with what trees and half-full pages add
Rounds = dict[tuple[str, str, str], list[Measured]]


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """What is measured: names of workloads and of peers, rows, operations a round, rounds.

    data: "memory", where all rows fit the cache, or "4x", where a quarter does.  popular: how keys are
    chosen, if not as the workload says.
    """

    workloads: Sequence[str]
    peers: Sequence[str]
    rows: int = 100_000
    operations: int = 5_000
    rounds: int = 3
    data: str = "memory"
    durable: bool = True
    popular: str | None = None
    backend: str = "auto"
    folder: Path | None = None

    @property
    def memory(self) -> int:
        """Return bytes of cache."""
        needed = self.rows * ROW_BYTES * 2
        return max(needed if self.data == "memory" else needed // 8, 1 << 20)

    def workload(self, name: str) -> Workload:
        """Return a workload, with the choice of keys that was asked for."""
        found = WORKLOADS[name]
        return dataclasses.replace(found, popular=self.popular) if self.popular else found

    def case(self, name: str, api: str) -> str:
        """Return how records name it."""
        keys = f",keys={self.popular}" if self.popular else ""
        return f"workload={name},data={self.data},api={api},threads=1,engine=exmapdb{keys}"


def run_ycsb(config: Config, advance: Callable[[str], None]) -> list[Record]:
    """Load each engine once, run all workloads in turn, and compare exmapdb with each peer."""
    rounds: Rounds = {}
    names = ["exmapdb", *config.peers]
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        setup = Setup(Path(folder), config.memory, config.durable, config.backend)
        engines: dict[str, Engine] = {name: ENGINES[name](setup) for name in names}
        try:
            for name, engine in engines.items():
                load(engine, config.rows)
                advance(f"load {name}")
            for work in config.workloads:
                measure(config, work, engines, rounds, advance)
            scan = list(scan_records(config, engines["exmapdb"]))
        finally:
            for engine in engines.values():
                engine.close()
    return [*compare(config, rounds), *scan]


def load(engine: Engine, rows: int) -> None:
    """Fill an engine with rows from key 0 on."""
    for first in range(0, rows, LOAD_ROWS):
        keys = np.arange(first, min(first + LOAD_ROWS, rows))
        engine.load(keys, values_of(keys))


def measure(
    config: Config, work: str, engines: dict[str, Engine], rounds: Rounds, advance: Callable[[str], None]
) -> None:
    """Run one workload, the engines taking turns, so that what the machine does meets all of them."""
    operations: list[Operations] = [
        prepare(config.workload(work), config.rows, config.operations, seed) for seed in range(config.rounds)
    ]
    for api in ("single", "batch"):
        for chosen in operations:
            for name, engine in engines.items():
                found = run(engine, chosen, api == "batch")
                rounds.setdefault((work, api, name), []).append(found)
        advance(f"{work} {api}")


def compare(config: Config, rounds: Rounds) -> Iterator[Record]:
    """Return two records for each case and peer: operations a second, and the 99th percentile."""
    for work in config.workloads:
        for api in ("single", "batch"):
            mine, mine_p99 = medians(rounds[work, api, "exmapdb"])
            for peer in config.peers:
                rate, p99 = medians(rounds[work, api, peer])
                case = config.case(work, api)
                yield Record("exmapdb", case, "ops_per_s", "1/s", mine, peer, mine / rate)
                yield Record("exmapdb", case, "p99_us", "us", mine_p99, peer, p99 / mine_p99)


def medians(measured: Sequence[Measured]) -> tuple[float, float]:
    """Return the medians of the rate and of the 99th percentile."""
    return statistics.median(m.rate for m in measured), statistics.median(m.p99 for m in measured)


def scan_records(config: Config, engine: Engine) -> Iterator[Record]:
    """Compare a scan of all rows into columns with a copy of as many bytes."""
    assert isinstance(engine, ExmapdbEngine)
    scans, copies = [], []
    for _ in range(config.rounds):
        start = time.perf_counter()
        size = sum(
            batch["k"].values.nbytes + len(batch["v"].values)
            for batch in engine.table().scan(batch_rows=4096)
        )
        scans.append(size / (time.perf_counter() - start))
        source = np.ones(size, np.uint8)
        target = np.ones(size, np.uint8)
        start = time.perf_counter()
        np.copyto(target, source)
        copies.append(size / (time.perf_counter() - start))
    rate = statistics.median(scans)
    case = config.case("scan", "batch")
    yield Record("exmapdb", case, "scan_vs_memcpy", "B/s", rate, "memcpy", rate / statistics.median(copies))
