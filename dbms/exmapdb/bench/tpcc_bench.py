"""TPC-C as a workload of the bench: terminals beside one and SQLite's, and the consistency conditions."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from exmapctl.bench.record import Record

from exmapdb.bench import tpcc_exmapdb, tpcc_sqlite
from exmapdb.bench.config import Config
from exmapdb.bench.engines import open_exmapdb
from exmapdb.bench.tpcc import MIX, Done, Engine, Terminal, Transactions, check_consistency, run
from exmapdb.bench.tpcc_data import Scale, load
from exmapdb.bench.tpcc_exmapdb import ExmapdbTpcc
from exmapdb.bench.tpcc_sqlite import SqliteTpcc
from exmapdb.database import Database
from exmapdb.errors import ExmapdbError

__all__ = ["InconsistentError", "run_tpcc"]

OURS, ONE, SQLITE = "exmapdb", "one_terminal", "sqlite"
WAREHOUSE_BYTES = 100 << 20


class InconsistentError(ExmapdbError):
    """A consistency condition of TPC-C does not hold."""


def run_tpcc(config: Config, advance: Callable[[str], None]) -> list[Record]:
    """Run the mix in rounds with one terminal, with all of them, and on SQLite if that is a peer.

    Raises InconsistentError, StorageError.
    """
    scale = Scale(config.warehouses, config.customers, config.items)
    memory = max(config.warehouses * WAREHOUSE_BYTES * 2, 1 << 22)
    cache = memory if config.data == "memory" else memory // 8
    done: dict[str, list[Done]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=config.folder)))
        setup = dataclasses.replace(config.setup(folder), memory=cache)
        database = stack.enter_context(open_exmapdb(setup, "n"))
        load(database, scale, seed=1)
        runners = [Runner(OURS, ExmapdbTpcc(database), tpcc_exmapdb, config.threads)]
        if config.threads > 1:
            runners.append(Runner(ONE, runners[0].engine, tpcc_exmapdb, 1))
        peers = [SqliteTpcc(folder / "sqlite", cache, config.durable) for _ in config.peers_among([SQLITE])]
        for peer in peers:
            stack.callback(peer.close)
            peer.load(scale, seed=1)
            runners.append(Runner(SQLITE, peer, tpcc_sqlite, config.threads))
        advance("load tpcc")
        for turn in range(config.rounds):
            for place, runner in enumerate(runners):
                # a terminal's number makes its rows of the history unique
                first = (turn * len(runners) + place) * config.threads
                found = runner.run(scale, first, turn, config.seconds)
                done.setdefault(runner.name, []).append(found)
                advance(f"tpcc {runner.name}")
        done.setdefault(ONE, done[OURS])
        check(database, config.warehouses)
        for peer in peers:
            refuse(peer.check())
    return list(compare(config, done))


@dataclass(frozen=True, slots=True)
class Runner:
    """An engine with so many terminals."""

    name: str
    engine: Engine
    transactions: Transactions
    terminals: int

    def run(self, scale: Scale, first: int, seed: int, seconds: float) -> Done:
        """Let terminals with numbers from `first` on work for so long."""
        numbers = range(first, first + self.terminals)
        terminals = [Terminal(scale, number, seed, transactions=self.transactions) for number in numbers]
        return run(self.engine, terminals, seconds)


def check(database: Database, warehouses: int) -> None:
    """Raise InconsistentError for what the conditions 1 to 4 find, and what Database.check raises."""
    refuse(check_consistency(database, warehouses))
    database.check()


def refuse(wrong: list[str]) -> None:
    """Raise InconsistentError if something is wrong."""
    if wrong:
        raise InconsistentError("; ".join(wrong))


def rate(done: Done, *names: str) -> float:
    """Return transactions of some kinds a second."""
    return sum(done.counts[name] for name in names) / done.seconds


def compare(config: Config, done: dict[str, list[Done]]) -> Iterator[Record]:
    """Return what all terminals do, beside one, and beside as many on a peer."""
    case = config.case("tpcc", "single")
    for metric, unit, factor, names in (
        ("transactions_per_s", "1/s", 1, (*MIX, "rolled_back")),
        ("new_orders_per_min", "1/min", 60, ("new_order",)),
    ):
        rates = {
            name: statistics.median(rate(each, *names) * factor for each in runs)
            for name, runs in done.items()
        }
        ours = rates.pop(OURS)
        for baseline, theirs in rates.items():
            yield Record("exmapdb", case, metric, unit, ours, baseline, ours / theirs)
