"""Terminals of TPC-C (Standard Specification 5.11), and its consistency conditions.

There are no keying or thinking times: a terminal runs one transaction after the other.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exmapdb.bench import tpcc_exmapdb
from exmapdb.bench.tpcc_data import (
    DISTRICTS,
    INVALID_ITEM,
    District,
    Line,
    Payment,
    Rollback,
    Scale,
    last_name,
    non_uniform,
)
from exmapdb.column import Batch
from exmapdb.table import Table

__all__ = ["MIX", "Done", "Engine", "Terminal", "Transactions", "check_consistency", "run"]

# of a hundred transactions
MIX = {"new_order": 45, "payment": 43, "order_status": 4, "delivery": 4, "stock_level": 4}
ORDER = "new_order"
READ_ONLY = ("order_status", "stock_level")
Work = Callable[[Any], Any]


class Transactions(Protocol):
    """The five transactions of an engine; `txn` is what its `run` and `read` call them with."""

    def order(self, txn: Any, home: District, customer: int, lines: list[Line], now: dt.datetime) -> int:
        """Do clause 2.4: the number of the order; Rollback for an item that is not there."""

    def pay(self, txn: Any, payment: Payment) -> None:
        """Do clause 2.5."""

    def last_order(self, txn: Any, home: District, who: int | str) -> Sequence[Any]:
        """Do clause 2.6: the lines of a customer's last order."""

    def deliver(self, txn: Any, home: District, carrier: int, now: dt.datetime) -> int | None:
        """Do clause 2.7 for one district: the number of the delivered order, if there was a new one."""

    def count_low_stock(self, txn: Any, home: District, threshold: int) -> int:
        """Do clause 2.8."""


class Engine(Protocol):
    """What runs transactions, until they have committed, and returns what they did."""

    def run(self, work: Work) -> Any:
        """Run one that may write."""

    def read(self, work: Work) -> Any:
        """Run one that only reads."""


class Terminal:
    """Chooses transactions for one warehouse; its number makes rows of the history unique."""

    def __init__(
        self,
        scale: Scale,
        number: int,
        seed: int,
        first_history: int = 1,
        transactions: Transactions = tpcc_exmapdb,
    ) -> None:
        self._do = transactions
        self._scale = scale
        self.number = number
        self._history = first_history
        self._rng = np.random.default_rng([seed, number])
        self._warehouse = number % scale.warehouses + 1
        self._names, self._shares = list(MIX), np.array(list(MIX.values())) / 100

    def choose(self) -> tuple[str, Work]:
        """Return the name of a transaction, and what to give to Database.run; its input is fixed."""
        name = str(self._rng.choice(self._names, p=self._shares))
        made: Work = getattr(self, name)()
        return name, made

    def _integer(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def _customer(self) -> int:
        scale = self._scale.customers
        return non_uniform(self._rng, 1023 if scale > 1023 else scale // 3 | 1, 1, scale)

    def _last_name(self) -> str:
        # a small table has the first names only
        return last_name(non_uniform(self._rng, 255, 0, min(self._scale.customers, 1000) - 1))

    def _other_warehouse(self) -> int:
        other = self._integer(1, max(self._scale.warehouses - 1, 1))
        return other + (other >= self._warehouse) if self._scale.warehouses > 1 else self._warehouse

    def _named_or_numbered(self) -> int | str:
        return self._last_name() if self._integer(1, 100) <= 60 else self._customer()

    def new_order(self) -> Work:
        """Order 5 to 15 items."""
        w, d, c = self._warehouse, self._integer(1, DISTRICTS), self._customer()
        lines = [self._line() for _ in range(self._integer(5, 15))]
        if self._integer(1, 100) == 1:
            lines[-1] = Line(INVALID_ITEM, w, 1)
        now = dt.datetime.now()
        return lambda txn: self._do.order(txn, (w, d), c, lines, now)

    def _line(self) -> Line:
        item = non_uniform(self._rng, min(8191, self._scale.items // 4 | 1), 1, self._scale.items)
        supply = self._other_warehouse() if self._integer(1, 100) == 1 else self._warehouse
        return Line(item, supply, self._integer(1, 10))

    def payment(self) -> Work:
        """Pay, in 15 of 100 cases as a customer of another warehouse."""
        w, d = self._warehouse, self._integer(1, DISTRICTS)
        payer_home = (w, d)
        if self._integer(1, 100) > 85:
            payer_home = (self._other_warehouse(), self._integer(1, DISTRICTS))
        payer = self._named_or_numbered()
        amount = Decimal(self._integer(100, 500_000)) / 100
        entry = (self.number, self._history)
        self._history += 1
        payment = Payment((w, d), payer_home, payer, amount, entry, dt.datetime.now())
        return lambda txn: self._do.pay(txn, payment)

    def order_status(self) -> Work:
        """Look at a customer's last order."""
        w, d, who = self._warehouse, self._integer(1, DISTRICTS), self._named_or_numbered()
        return lambda txn: self._do.last_order(txn, (w, d), who)

    def delivery(self) -> Work:
        """Deliver the oldest new order of each district."""
        w, carrier, now = self._warehouse, self._integer(1, 10), dt.datetime.now()
        return lambda txn: [self._do.deliver(txn, (w, d), carrier, now) for d in range(1, DISTRICTS + 1)]

    def stock_level(self) -> Work:
        """Count the items of the last orders of which there are few."""
        w, d, threshold = self._warehouse, self._integer(1, DISTRICTS), self._integer(10, 20)
        return lambda txn: self._do.count_low_stock(txn, (w, d), threshold)


class Tables(Protocol):
    """A database or a snapshot."""

    def table(self, name: str) -> Table:
        """Return a table."""


def columns(tables: Tables, name: str, names: list[str]) -> dict[str, NDArray[np.int64]]:
    """Return columns of a whole table as they are stored: a decimal without its point."""
    batches: list[Batch] = list(tables.table(name).scan(columns=names))
    return {
        column: np.concatenate([batch[column].values for batch in batches] or [np.empty(0)]).astype(np.int64)
        for column in names
    }


def check_consistency(tables: Tables, warehouses: int) -> list[str]:
    """Return what is wrong by the consistency conditions 1 to 4 of clause 3.3.2; they hold at any moment."""
    wrong: list[str] = []
    size = (warehouses + 1) * (DISTRICTS + 1)

    def place(rows: dict[str, NDArray[np.int64]]) -> NDArray[np.int64]:
        return rows["w_id"] * (DISTRICTS + 1) + rows["d_id"]

    def expect(condition: int, said: NDArray[np.int64], counted: NDArray[np.int64]) -> None:
        if (said != counted).any():
            at = int(np.argmax(said != counted))
            where = divmod(at, DISTRICTS + 1)
            wrong.append(f"condition {condition} at {where}: {said[at]}, not {counted[at]}")

    def spread(values: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        out = np.zeros(size, np.int64)
        np.add.at(out, places, values)
        return out

    def edge(how: Any, values: NDArray[np.int64], places: NDArray[np.int64], none: int) -> Any:
        out = np.full(size, none, np.int64)
        how.at(out, places, values)
        return out

    warehouse = columns(tables, "warehouse", ["w_id", "ytd"])
    district = columns(tables, "district", ["w_id", "d_id", "ytd", "next_o_id"])
    orders = columns(tables, "orders", ["w_id", "d_id", "o_id", "ol_cnt"])
    new = columns(tables, "new_order", ["w_id", "d_id", "o_id"])
    lines = columns(tables, "order_line", ["w_id", "d_id"])
    at = warehouse["w_id"] * (DISTRICTS + 1)
    expect(1, spread(warehouse["ytd"], at), spread(district["ytd"], district["w_id"] * (DISTRICTS + 1)))
    last = edge(np.maximum, orders["o_id"], place(orders), 0)
    expect(2, spread(district["next_o_id"] - 1, place(district)), last)
    counted = spread(np.ones_like(new["o_id"]), place(new))
    there = counted > 0
    newest = edge(np.maximum, new["o_id"], place(new), 0)
    oldest = edge(np.minimum, new["o_id"], place(new), np.iinfo(np.int64).max)
    expect(2, np.where(there, last, 0), newest)
    expect(3, np.where(there, newest - oldest + 1, 0), counted)
    total = spread(orders["ol_cnt"], place(orders))
    expect(4, total, spread(np.ones_like(lines["w_id"]), place(lines)))
    return wrong


@dataclass(slots=True)
class Done:
    """What terminals have done: how many of each transaction, rolled back ones apart, and the seconds."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def run(
    engine: Engine,
    terminals: list[Terminal],
    seconds: float,
    acknowledge: Callable[[int, str, Any], None] | None = None,
) -> Done:
    """Let each terminal work in a thread for so long, and until it has made an order.

    acknowledge gets the terminal's number, the name of what it has committed, and what that returned.
    """
    done = Done()
    lock = threading.Lock()
    problems: list[BaseException] = []
    end = time.perf_counter() + seconds

    def work(terminal: Terminal) -> None:
        counts: Counter[str] = Counter()
        try:
            while (time.perf_counter() < end or not counts[ORDER]) and not problems:
                name, transaction = terminal.choose()
                try:
                    result = (engine.read if name in READ_ONLY else engine.run)(transaction)
                    counts[name] += 1
                    if acknowledge:
                        acknowledge(terminal.number, name, result)
                except Rollback:
                    counts["rolled_back"] += 1
        except BaseException as error:
            problems.append(error)
        with lock:
            done.counts += counts

    begin = time.perf_counter()
    threads = [threading.Thread(target=work, args=(terminal,)) for terminal in terminals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.seconds = time.perf_counter() - begin
    if problems:
        raise problems[0]
    return done
