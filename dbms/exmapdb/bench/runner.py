"""Rounds over engines, and the records that come of them."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from exmapctl.bench.measure import counts_instructions
from exmapctl.bench.record import Record

from exmapdb.bench.bounded import BoundedLmdb
from exmapdb.bench.config import Config
from exmapdb.bench.engines import ENGINES, Engine, open_exmapdb
from exmapdb.bench.scans import scan_records
from exmapdb.bench.ycsb import WORKLOADS, Measured, Runner, Workload, prepare

__all__ = ["run_ycsb"]

ONE = "one_thread"
# what is measured: its name, its unit, and 1 if more is better, else -1
METRICS = (
    ("p50", "p50_us", "us", -1),
    ("p99", "p99_us", "us", -1),
    ("p999", "p999_us", "us", -1),
    ("cpu", "cpu_us", "us", -1),
)

# by workload, API and engine
Rounds = dict[tuple[str, str, str], list[Measured]]


def run_ycsb(config: Config, advance: Callable[[str], None]) -> list[Record]:
    """Load each engine once, run all workloads in turn, and compare exmapdb with each peer."""
    rounds: Rounds = {}
    with contextlib.ExitStack() as stack:
        setup = config.setup(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=config.folder))))
        open_exmapdb(setup, "n").close()
        engines: dict[str, Engine] = {}
        runners: dict[str, Runner | BoundedLmdb] = {}
        for name in ("exmapdb", *config.peers_among(ENGINES)):
            if name == "lmdb" and config.data != "memory":
                runners[name] = stack.enter_context(BoundedLmdb(setup))
            else:
                engines[name] = ENGINES[name](setup)
                runner = Runner(engines[name], config.threads)
                runners[name] = stack.enter_context(contextlib.closing(runner))
        for name, each in runners.items():
            each.load(config.rows)
            advance(f"load {name}")
        for work in config.among(WORKLOADS):
            measure(config, work, runners, rounds, advance)
        scans = list(scan_records(config, setup, engines))
    return [*compare(config, rounds), *scans]


def workload(config: Config, name: str) -> Workload:
    """Return a workload, with the choice of keys that was asked for."""
    found = WORKLOADS[name]
    return dataclasses.replace(found, popular=config.popular) if config.popular else found


def measure(
    config: Config,
    work: str,
    runners: dict[str, Runner | BoundedLmdb],
    rounds: Rounds,
    advance: Callable[[str], None],
) -> None:
    """Run one workload, the engines taking turns, so that what the machine does meets all of them."""
    chosen = workload(config, work)
    seeds = range(config.rounds * config.threads)
    parts = [prepare(chosen, config.rows, config.operations, seed) for seed in seeds]
    turns = [parts[first :: config.rounds] for first in range(config.rounds)]
    for api in ("single", "batch"):
        for turn in turns:
            for name, runner in runners.items():
                rounds.setdefault((work, api, name), []).append(runner.run(turn, api == "batch"))
            if config.threads > 1:
                found = runners["exmapdb"].run(turn[:1], api == "batch")
                rounds.setdefault((work, api, ONE), []).append(found)
        advance(f"{work} {api}")


def compare(config: Config, rounds: Rounds) -> Iterator[Record]:
    """Return a record for each case, metric and peer; one thread is a peer of several."""
    rate = "rate" if config.threads == 1 else "together"
    metrics = ((rate, "ops_per_s", "1/s", 1), *METRICS)
    peers = [*config.peers_among(ENGINES), *([ONE] if config.threads > 1 else [])]
    for work in config.among(WORKLOADS):
        for api in ("single", "batch"):
            case = config.case(work, api)
            for peer in peers:
                mine, others = rounds[work, api, "exmapdb"], rounds[work, api, peer]
                for field, metric, unit, better in metrics:
                    ours, theirs = median(mine, field), median(others, field)
                    yield Record("exmapdb", case, metric, unit, ours, peer, (ours / theirs) ** better)
                if counts_instructions():
                    # the clock is one of instructions, one for each nanosecond
                    ours, theirs = 1e9 / median(mine, "rate"), 1e9 / median(others, "rate")
                    yield Record(
                        "exmapdb", case, "instructions_per_op", "instructions/op", ours, peer, theirs / ours
                    )


def median(measured: Sequence[Measured], field: str) -> float:
    """Return the median of a figure over all rounds."""
    return float(statistics.median(getattr(each, field) for each in measured))
