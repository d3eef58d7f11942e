"""What databases do while they are killed: transfers of a bank, and terminals of TPC-C.

A load works in THREADS threads, and each keeps a tally of what it has committed since the database was made.
"""

import math
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import bank
import exmapdb
from exmapdb.bench.tpcc import Terminal, check_consistency, run
from exmapdb.bench.tpcc_data import DISTRICTS, Scale, load
from exmapdb.bench.tpcc_exmapdb import ExmapdbTpcc
from worker import kill_at_work

__all__ = ["LOADS", "NOTHING", "TALLY", "THREADS", "Audit", "Load", "Tally", "kill_while_it_works"]

THREADS = 2
Tally = tuple[int, int, int]
TALLY = struct.Struct("<3q")
NOTHING: Tally = (0, 0, 0)
Acknowledge = Callable[[int, Tally], None]


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit has found: each thread's tally, seconds to open, transactions replayed."""

    tallies: list[Tally]
    seconds: float
    recovered: int


class Load(Protocol):
    """Something to do with a database, for ever, and to audit."""

    options: ClassVar[dict[str, Any]]

    def make(self, path: Path) -> None:
        """Make the database that it begins with."""

    def work(self, path: Path, tallies: Sequence[Tally], acknowledge: Acknowledge, **options: Any) -> None:
        """Go on from what an audit found; a thread and its tally are acknowledged after each change."""

    def audit(self, path: Path, acknowledged: Sequence[Tally], **options: Any) -> Audit:
        """Recover the database; what was acknowledged is there, at most one transaction a thread besides."""


class Transfers:
    """The bank; a tally has a thread's transfers."""

    options: ClassVar[dict[str, Any]] = {"memory": "256KiB", "log": "256KiB"}

    def make(self, path: Path) -> None:
        """Make it; every account has the same."""
        bank.make_bank(path, backend="posix", **self.options)

    def work(self, path: Path, tallies: Sequence[Tally], acknowledge: Acknowledge, **options: Any) -> None:
        """Move money."""

        def transferred(number: int) -> None:
            acknowledge(number % THREADS, (number // THREADS + 1, 0, 0))

        bank.work(bank.Bank(path, self.options | options), self._next(tallies), transferred)

    def audit(self, path: Path, acknowledged: Sequence[Tally], **options: Any) -> Audit:
        """Check balances and transfers."""
        there = bank.up_to(self._next(acknowledged))
        found = bank.audit(bank.Bank(path, self.options | options, there), durable=True)
        tallies = [(first // THREADS, 0, 0) for first in found.firsts]
        for (now, *_), (before, *_) in zip(tallies, acknowledged, strict=True):
            assert now - before <= 1
        return Audit(tallies, found.seconds, found.recovered)

    @staticmethod
    def _next(tallies: Sequence[Tally]) -> list[int]:
        return [thread + THREADS * count for thread, (count, *_) in enumerate(tallies)]


class Terminals:
    """TPC-C, each terminal with a warehouse of its own; a tally has its orders, payments and deliveries."""

    options: ClassVar[dict[str, Any]] = {"memory": "512KiB", "log": "1MiB"}
    scale = Scale(warehouses=THREADS, customers=20, items=100)

    def make(self, path: Path) -> None:
        """Fill the tables."""
        with exmapdb.open(path, flag="n", durability="async", backend="posix", **self.options) as db:
            load(db, self.scale, seed=1)

    def work(self, path: Path, tallies: Sequence[Tally], acknowledge: Acknowledge, **options: Any) -> None:
        """Run the five transactions."""
        counts = [list(tally) for tally in tallies]

        def done(terminal: int, name: str, result: Any) -> None:
            orders, payments, delivered = counts[terminal]
            orders += name == "new_order"
            payments += name == "payment"
            if name == "delivery":
                delivered += sum(order is not None for order in result)
            counts[terminal] = [orders, payments, delivered]
            acknowledge(terminal, (orders, payments, delivered))

        db = exmapdb.open(path, flag="w", **self.options | options)
        seed = sum(map(sum, tallies))
        terminals = [Terminal(self.scale, i, seed, paid + 1) for i, (_, paid, _) in enumerate(tallies)]
        run(ExmapdbTpcc(db), terminals, math.inf, done)

    def audit(self, path: Path, acknowledged: Sequence[Tally], **options: Any) -> Audit:
        """Check the consistency conditions 1 to 4, and each terminal's rows."""
        begin = time.perf_counter()
        with exmapdb.open(path, flag="w", **self.options | options) as db:
            seconds = time.perf_counter() - begin
            recovered = db.stats().recovered
            assert check_consistency(db, self.scale.warehouses) == []
            tallies = self._count(db)
            db.check()
        for thread, (now, before) in enumerate(zip(tallies, acknowledged, strict=True)):
            orders, payments, delivered = (a - b for a, b in zip(now, before, strict=True))
            besides = (orders, payments, math.ceil(delivered / DISTRICTS))
            assert min(besides) >= 0, f"terminal {thread} lost some of {before}: {now}"
            assert sum(besides) <= 1, f"terminal {thread} did more than {before}: {now}"
        return Audit(tallies, seconds, recovered)

    def _count(self, db: exmapdb.Database) -> list[Tally]:
        ordered = Counter(w for (w,) in rows_of(db, "orders", "w_id"))
        new = Counter(w for (w,) in rows_of(db, "new_order", "w_id"))
        delivered: Counter[int] = Counter()
        for w, count in rows_of(db, "customer", "w_id", "delivery_cnt"):
            delivered[w] += count
        paid = list(rows_of(db, "history", "terminal", "number"))
        return [self._tally(i, ordered[i + 1], new[i + 1], delivered[i + 1], paid) for i in range(THREADS)]

    def _tally(
        self, terminal: int, ordered: int, new: int, delivered: int, paid: list[tuple[Any, ...]]
    ) -> Tally:
        first = self.scale.undelivered
        assert ordered == DISTRICTS * (first - 1) + delivered + new
        payments = [number for each, number in paid if each == terminal]
        assert sorted(payments) == list(range(1, len(payments) + 1))
        return ordered - DISTRICTS * self.scale.customers, len(payments), delivered


def rows_of(db: exmapdb.Database, table: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Iterate over the rows of a table."""
    for batch in db.table(table).scan(columns=list(columns)):
        yield from batch.to_rows()


LOADS: dict[str, Load] = {"bank": Transfers(), "tpcc": Terminals()}
MARK = struct.Struct("<q" + TALLY.format[1:])


def kill_while_it_works(
    load: Load,
    path: Path,
    tallies: Sequence[Tally],
    changes: int,
    acknowledge: Acknowledge = lambda _thread, _tally: None,
    **options: Any,
) -> list[Tally]:
    """Kill a process that works after so many changes, and return what it has acknowledged.

    acknowledge: what else is to be done with a tally, before it is noted.
    """

    def work(note: Callable[[bytes], object]) -> None:
        def both(thread: int, tally: Tally) -> None:
            acknowledge(thread, tally)
            note(MARK.pack(thread, *tally))

        load.work(path, tallies, both, **options)

    now = list(tallies)
    for thread, *tally in MARK.iter_unpack(kill_at_work(work, MARK.size, changes)):
        now[thread] = (tally[0], tally[1], tally[2])
    return now
