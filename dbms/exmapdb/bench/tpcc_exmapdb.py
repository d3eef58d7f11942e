"""The five transactions of TPC-C (Standard Specification 5.11, clause 2) on exmapdb."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from exmapdb.bench.tpcc_data import RECENT, District, Line, Payment, Rollback, Row
from exmapdb.database import Database
from exmapdb.table import Table
from exmapdb.transaction import Transaction

__all__ = ["ExmapdbTpcc", "count_low_stock", "deliver", "last_order", "order", "pay"]

ATTEMPTS = 1000


class ExmapdbTpcc:
    """What runs transactions: those that only read are serializable too."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def run(self, work: Callable[[Transaction], Any]) -> Any:
        """Run one, again after a conflict."""
        return self._database.run(work, ATTEMPTS)

    def read(self, work: Callable[[Transaction], Any]) -> Any:
        """Run one that only reads."""
        return self.run(work)


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


def pay(txn: Transaction, payment: Payment) -> None:
    """Do clause 2.5."""
    (w, d), amount = payment.home, payment.amount
    warehouses, districts = txn.table("warehouse"), txn.table("district")
    warehouse, district = found(warehouses, w), found(districts, (w, d))
    warehouses.upsert(warehouse | {"ytd": warehouse["ytd"] + amount})
    districts.upsert(district | {"ytd": district["ytd"] + amount})
    customer = find_customer(txn, payment.payer_home, payment.payer)
    (c_w, c_d), c = payment.payer_home, customer["c_id"]
    changes: Row = {
        "balance": customer["balance"] - amount,
        "ytd_payment": customer["ytd_payment"] + amount,
        "payment_cnt": customer["payment_cnt"] + 1,
    }
    if customer["credit"] == "BC":
        changes["data"] = f"{c} {c_d} {c_w} {d} {w} {amount}|{customer['data']}"[:500]
    txn.table("customer").upsert(customer | changes)
    terminal, number = payment.entry
    who = {"terminal": terminal, "number": number, "c_id": c, "c_d_id": c_d, "c_w_id": c_w}
    what = {"date": payment.date, "amount": amount, "data": f"{warehouse['name']}    {district['name']}"}
    txn.table("history").insert(who | {"d_id": d, "w_id": w} | what)


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
