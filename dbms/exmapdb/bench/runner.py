"""Rounds over engines, and the records that come of them."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from exmapctl.bench.record import Record

from exmapdb.bench.config import Config
from exmapdb.bench.engines import ENGINES, Engine, ExmapdbEngine, FrozenTable, Setup
from exmapdb.bench.mixed import scan_rates
from exmapdb.bench.ycsb import WORKLOADS, Measured, Operations, Workload, load, prepare, run

__all__ = ["run_ycsb"]

Rounds = dict[tuple[str, str, str], list[Measured]]


def run_ycsb(config: Config, advance: Callable[[str], None]) -> list[Record]:
    """Load each engine once, run all workloads in turn, and compare exmapdb with each peer."""
    rounds: Rounds = {}
    names = ["exmapdb", *config.peers_among(ENGINES)]
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        setup = Setup(Path(folder), config.memory, config.durable, config.backend)
        engines: dict[str, Engine] = {name: ENGINES[name](setup) for name in names}
        try:
            for name, engine in engines.items():
                load(engine, config.rows)
                advance(f"load {name}")
            for work in config.among(WORKLOADS):
                measure(config, work, engines, rounds, advance)
            scan = scan_record(config, engines["exmapdb"])
        finally:
            for engine in engines.values():
                engine.close()
    return [*compare(config, rounds), scan]


def workload(config: Config, name: str) -> Workload:
    """Return a workload, with the choice of keys that was asked for."""
    found = WORKLOADS[name]
    return dataclasses.replace(found, popular=config.popular) if config.popular else found


def measure(
    config: Config, work: str, engines: dict[str, Engine], rounds: Rounds, advance: Callable[[str], None]
) -> None:
    """Run one workload, the engines taking turns, so that what the machine does meets all of them."""
    operations: list[Operations] = [
        prepare(workload(config, work), config.rows, config.operations, seed) for seed in range(config.rounds)
    ]
    for api in ("single", "batch"):
        for chosen in operations:
            for name, engine in engines.items():
                found = run(engine, chosen, api == "batch")
                rounds.setdefault((work, api, name), []).append(found)
        advance(f"{work} {api}")


def compare(config: Config, rounds: Rounds) -> Iterator[Record]:
    """Return two records for each case and peer: operations a second, and the 99th percentile."""
    for work in config.among(WORKLOADS):
        for api in ("single", "batch"):
            mine, mine_p99 = medians(rounds[work, api, "exmapdb"])
            for peer in config.peers_among(ENGINES):
                rate, p99 = medians(rounds[work, api, peer])
                case = config.case(work, api, 1)
                yield Record("exmapdb", case, "ops_per_s", "1/s", mine, peer, mine / rate)
                yield Record("exmapdb", case, "p99_us", "us", mine_p99, peer, p99 / mine_p99)


def medians(measured: Sequence[Measured]) -> tuple[float, float]:
    """Return the medians of the rate and of the 99th percentile."""
    return statistics.median(m.rate for m in measured), statistics.median(m.p99 for m in measured)


def scan_record(config: Config, engine: Engine) -> Record:
    """Compare a scan of all rows into columns with a copy of as many bytes."""
    assert isinstance(engine, ExmapdbEngine)
    scan, copy = scan_rates(FrozenTable(engine.table()), config.rounds)
    return Record(
        "exmapdb", config.case("scan", "batch", 1), "scan_vs_memcpy", "B/s", scan, "memcpy", scan / copy
    )
