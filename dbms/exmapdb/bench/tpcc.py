"""The five transactions of TPC-C (Standard Specification 5.11, clause 2), and its consistency conditions.

There are no keying or thinking times: a terminal runs one transaction after the other.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exmapdb.bench.tpcc_data import DISTRICTS, INVALID_ITEM, Scale, last_name, non_uniform
from exmapdb.column import Batch
from exmapdb.database import Database
from exmapdb.table import Table
from exmapdb.transaction import Transaction

__all__ = ["MIX", "Done", "Terminal", "check_consistency", "run"]

CENT = Decimal("0.01")
HUNDRED = Decimal(100)
RECENT = 20  # orders that Stock-Level looks at
ITEM_TRIES = 100_000

# of a hundred transactions
MIX = {"new_order": 45, "payment": 43, "order_status": 4, "delivery": 4, "stock_level": 4}
Work = Callable[[Transaction], Any]


class Rollback(Exception):
    """The one new order in a hundred that names an item which is not there."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is ordered: an item, how many, and from which warehouse."""

    item: int
    supply: int
    quantity: int


class Terminal:
    """Chooses transactions for one warehouse; its number makes rows of the history unique."""

    def __init__(self, scale: Scale, number: int, seed: int, first_history: int = 1) -> None:
        self._scale = scale
        self._number = number
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
        return lambda txn: order(txn, (w, d), c, lines, now)

    def _line(self) -> Line:
        item = non_uniform(self._rng, min(8191, self._scale.items // 4 | 1), 1, self._scale.items)
        supply = self._other_warehouse() if self._integer(1, 100) == 1 else self._warehouse
        return Line(item, supply, self._integer(1, 10))

    def payment(self) -> Work:
        """Pay, in 15 of 100 cases as a customer of another warehouse."""
        w, d = self._warehouse, self._integer(1, DISTRICTS)
        home = (w, d)
        if self._integer(1, 100) > 85:
            home = (self._other_warehouse(), self._integer(1, DISTRICTS))
        who = self._named_or_numbered()
        amount = Decimal(self._integer(100, 500_000)) / 100
        entry = (self._number, self._history)
        self._history += 1
        now = dt.datetime.now()
        return lambda txn: pay(txn, (w, d), (home, who), amount, entry, now)

    def order_status(self) -> Work:
        """Look at a customer's last order."""
        w, d, who = self._warehouse, self._integer(1, DISTRICTS), self._named_or_numbered()
        return lambda txn: last_order(txn, (w, d), who)

    def delivery(self) -> Work:
        """Deliver the oldest new order of each district."""
        w, carrier, now = self._warehouse, self._integer(1, 10), dt.datetime.now()
        return lambda txn: [deliver(txn, (w, d), carrier, now) for d in range(1, DISTRICTS + 1)]

    def stock_level(self) -> Work:
        """Count the items of the last orders of which there are few."""
        w, d, threshold = self._warehouse, self._integer(1, DISTRICTS), self._integer(10, 20)
        return lambda txn: count_low_stock(txn, (w, d), threshold)


District = tuple[int, int]
Row = dict[str, Any]


def found(table: Table, key: Any) -> Row:
    """Return a row that has to be there."""
    row = table.get(key)
    if row is None:
        raise AssertionError(f"{table.name} has no {key}")
    return row


def find_customer(txn: Transaction, home: District, who: int | str) -> Row:
    """Return a customer by number, or the middle one of those with a last name, by first name."""
    table = txn.table("customer")
    if isinstance(who, int):
        return found(table, (*home, who))
    named = list(table.find("by_name", (*home, who)))
    if not named:
        raise AssertionError(f"no customer {who} in {home}")
    return named[(len(named) - 1) // 2]


def order(txn: Transaction, home: District, customer: int, lines: list[Line], now: dt.datetime) -> int:
    """Do clause 2.4: the number of the order; Rollback for an item that is not there."""
    w, d = home
    districts = txn.table("district")
    district = found(districts, home)
    tax = found(txn.table("warehouse"), w)["tax"] + district["tax"]
    discount = found(txn.table("customer"), (w, d, customer))["discount"]
    number: int = district["next_o_id"]
    districts.upsert(district | {"next_o_id": number + 1})
    head = {"w_id": w, "d_id": d, "o_id": number}
    local = all(line.supply == w for line in lines)
    entry = {"c_id": customer, "entry_d": now, "carrier_id": None, "ol_cnt": len(lines), "all_local": local}
    txn.table("orders").insert(head | entry)
    txn.table("new_order").insert(head)
    total = Decimal(0)
    rows = []
    for place, line in enumerate(lines, 1):
        amount, info = take_from_stock(txn, home, line)
        total += amount
        item = {"number": place, "i_id": line.item, "supply_w_id": line.supply, "delivery_d": None}
        rows.append(head | item | {"quantity": line.quantity, "amount": amount, "dist_info": info})
    txn.table("order_line").insert_many({name: [row[name] for row in rows] for name in rows[0]})
    # what the customer is shown
    _ = total * (1 - discount) * (1 + tax)
    return number


def take_from_stock(txn: Transaction, home: District, line: Line) -> tuple[Decimal, str]:
    """Take what is ordered: its price, and what the stock says of the district."""
    item = txn.table("item").get(line.item)
    if item is None:
        raise Rollback
    stocks = txn.table("stock")
    stock = found(stocks, (line.supply, line.item))
    left = stock["quantity"] - line.quantity
    changes = {
        "quantity": left if left >= 10 else left + 91,
        "ytd": stock["ytd"] + line.quantity,
        "order_cnt": stock["order_cnt"] + 1,
        "remote_cnt": stock["remote_cnt"] + (line.supply != home[0]),
    }
    stocks.upsert(stock | changes)
    return item["price"] * line.quantity, stock[f"dist_{home[1]:02}"]


def pay(
    txn: Transaction,
    home: District,
    payer: tuple[District, int | str],
    amount: Decimal,
    entry: tuple[int, int],
    now: dt.datetime,
) -> None:
    """Do clause 2.5; entry is the key in the history."""
    w, d = home
    warehouses, districts = txn.table("warehouse"), txn.table("district")
    warehouse, district = found(warehouses, w), found(districts, home)
    warehouses.upsert(warehouse | {"ytd": warehouse["ytd"] + amount})
    districts.upsert(district | {"ytd": district["ytd"] + amount})
    customer = find_customer(txn, *payer)
    (c_w, c_d), c = payer[0], customer["c_id"]
    changes: Row = {
        "balance": customer["balance"] - amount,
        "ytd_payment": customer["ytd_payment"] + amount,
        "payment_cnt": customer["payment_cnt"] + 1,
    }
    if customer["credit"] == "BC":
        changes["data"] = f"{c} {c_d} {c_w} {d} {w} {amount}|{customer['data']}"[:500]
    txn.table("customer").upsert(customer | changes)
    who = {"terminal": entry[0], "number": entry[1], "c_id": c, "c_d_id": c_d, "c_w_id": c_w}
    data = f"{warehouse['name']}    {district['name']}"
    txn.table("history").insert(who | {"d_id": d, "w_id": w, "date": now, "amount": amount, "data": data})


def last_order(txn: Transaction, home: District, who: int | str) -> list[Row]:
    """Do clause 2.6: the lines of a customer's last order."""
    c = find_customer(txn, home, who)["c_id"]
    low, high = (*home, c), (*home, c + 1)
    batches = txn.table("orders").scan(low, high, index="by_customer", reverse=True, batch_rows=1)
    numbers = [int(batch["o_id"].values[0]) for batch, _ in zip(batches, range(1), strict=False)]
    return [row for number in numbers for row in lines_of(txn, home, number, number + 1)]


def lines_of(txn: Transaction, home: District, first: int, end: int) -> Iterator[Row]:
    """Iterate over the lines of some orders."""
    for batch in txn.table("order_line").scan((*home, first), (*home, end)):
        for row in batch.to_rows():
            yield dict(zip(batch.columns, row, strict=True))


def deliver(txn: Transaction, home: District, carrier: int, now: dt.datetime) -> int | None:
    """Do clause 2.7 for one district: the number of the order that is delivered, if there is a new one."""
    new_orders = txn.table("new_order")
    oldest = next(new_orders.scan(home, (home[0], home[1] + 1), batch_rows=1, prefetch=0), None)
    if oldest is None:
        return None
    number = int(oldest["o_id"].values[0])
    key = (*home, number)
    new_orders.delete(key)
    orders, customers = txn.table("orders"), txn.table("customer")
    delivered = found(orders, key)
    orders.upsert(delivered | {"carrier_id": carrier})
    lines = [row | {"delivery_d": now} for row in lines_of(txn, home, number, number + 1)]
    columns = {name: [row[name] for row in lines] for name in lines[0]}
    txn.table("order_line").insert_many(columns, replace=True)
    customer = found(customers, (*home, delivered["c_id"]))
    total = sum((row["amount"] for row in lines), Decimal(0))
    changes = {"balance": customer["balance"] + total, "delivery_cnt": customer["delivery_cnt"] + 1}
    customers.upsert(customer | changes)
    return number


def count_low_stock(txn: Transaction, home: District, threshold: int) -> int:
    """Do clause 2.8."""
    number = found(txn.table("district"), home)["next_o_id"]
    items = {row["i_id"] for row in lines_of(txn, home, number - RECENT, number)}
    stocks = txn.table("stock")
    return sum(found(stocks, (home[0], item))["quantity"] < threshold for item in sorted(items))


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
    db: Database, terminals: list[Terminal], seconds: float, acknowledge: Callable[[str], None] | None = None
) -> Done:
    """Let each terminal work in a thread for so long; acknowledge gets the name of what has committed."""
    done = Done()
    lock = threading.Lock()
    problems: list[BaseException] = []
    end = time.perf_counter() + seconds

    def work(terminal: Terminal) -> None:
        counts: Counter[str] = Counter()
        try:
            while time.perf_counter() < end and not problems:
                name, transaction = terminal.choose()
                try:
                    db.run(transaction, attempts=1000)
                    counts[name] += 1
                    if acknowledge:
                        acknowledge(name)
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
