"""The tables of TPC-C (Standard Specification 5.11, clauses 1 and 4.3), and what they begin with."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from exmapdb.database import Database

__all__ = [
    "DISTRICTS",
    "INDEXES",
    "INVALID_ITEM",
    "LOADED",
    "RECENT",
    "TABLES",
    "District",
    "Line",
    "Payment",
    "Rollback",
    "Row",
    "Scale",
    "last_name",
    "load",
    "non_uniform",
    "parts",
]

DISTRICTS = 10
INVALID_ITEM = -1
LOADED = dt.datetime(2026, 1, 1)
PART = 10_000  # rows in one transaction of the load
RECENT = 20  # orders that Stock-Level looks at
SYLLABLES = ("BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING")

ADDRESS = {"street_1": "text", "street_2": "text", "city": "text", "state": "text", "zip": "text"}
DIST_INFO = {f"dist_{number:02}": "text" for number in range(1, DISTRICTS + 1)}
TABLES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "warehouse": (
        {"w_id": "int32", "name": "text", **ADDRESS, "tax": "decimal(4,4)", "ytd": "decimal(12,2)"},
        ("w_id",),
    ),
    "district": (
        {
            "w_id": "int32",
            "d_id": "int32",
            "name": "text",
            **ADDRESS,
            "tax": "decimal(4,4)",
            "ytd": "decimal(12,2)",
            "next_o_id": "int32",
        },
        ("w_id", "d_id"),
    ),
    "customer": (
        {
            "w_id": "int32",
            "d_id": "int32",
            "c_id": "int32",
            "first": "text",
            "middle": "text",
            "last": "text",
            **ADDRESS,
            "phone": "text",
            "since": "timestamp",
            "credit": "text",
            "credit_lim": "decimal(12,2)",
            "discount": "decimal(4,4)",
            "balance": "decimal(12,2)",
            "ytd_payment": "decimal(12,2)",
            "payment_cnt": "int32",
            "delivery_cnt": "int32",
            "data": "text",
        },
        ("w_id", "d_id", "c_id"),
    ),
    # it has no key in the specification
    "history": (
        {
            "terminal": "int32",
            "number": "int32",
            "c_id": "int32",
            "c_d_id": "int32",
            "c_w_id": "int32",
            "d_id": "int32",
            "w_id": "int32",
            "date": "timestamp",
            "amount": "decimal(6,2)",
            "data": "text",
        },
        ("terminal", "number"),
    ),
    "new_order": ({"w_id": "int32", "d_id": "int32", "o_id": "int32"}, ("w_id", "d_id", "o_id")),
    "orders": (
        {
            "w_id": "int32",
            "d_id": "int32",
            "o_id": "int32",
            "c_id": "int32",
            "entry_d": "timestamp",
            "carrier_id": "int32?",
            "ol_cnt": "int32",
            "all_local": "bool",
        },
        ("w_id", "d_id", "o_id"),
    ),
    "order_line": (
        {
            "w_id": "int32",
            "d_id": "int32",
            "o_id": "int32",
            "number": "int32",
            "i_id": "int32",
            "supply_w_id": "int32",
            "delivery_d": "timestamp?",
            "quantity": "int32",
            "amount": "decimal(6,2)",
            "dist_info": "text",
        },
        ("w_id", "d_id", "o_id", "number"),
    ),
    "item": (
        {"i_id": "int32", "im_id": "int32", "name": "text", "price": "decimal(5,2)", "data": "text"},
        ("i_id",),
    ),
    "stock": (
        {
            "w_id": "int32",
            "i_id": "int32",
            "quantity": "int32",
            **DIST_INFO,
            "ytd": "int32",
            "order_cnt": "int32",
            "remote_cnt": "int32",
            "data": "text",
        },
        ("w_id", "i_id"),
    ),
}
INDEXES = (
    ("customer", "by_name", ("w_id", "d_id", "last", "first")),
    ("orders", "by_customer", ("w_id", "d_id", "c_id", "o_id")),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the tables are; the specification has 3,000 customers a district, and 100,000 items."""

    warehouses: int = 1
    customers: int = 3000
    items: int = 100_000

    @property
    def undelivered(self) -> int:
        """Return the first order of a district that is new: the last 30 % are."""
        return self.customers * 7 // 10 + 1


class Rollback(Exception):
    """The one new order in a hundred that names an item which is not there."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is ordered: an item, how many, and from which warehouse."""

    item: int
    supply: int
    quantity: int


@dataclass(frozen=True, slots=True)
class Payment:
    """What is paid in a district, by whom: a number or a last name among the customers of `payer_home`.

    entry: the terminal and its number of the payment, the key in the history.
    """

    home: District
    payer_home: District
    payer: int | str
    amount: Decimal
    entry: tuple[int, int]
    date: dt.datetime


def last_name(number: int) -> str:
    """Return the last name with a number below 1000."""
    return "".join(SYLLABLES[number // place % 10] for place in (100, 10, 1))


def non_uniform(rng: np.random.Generator, a: int, low: int, high: int) -> int:
    """Return NURand(a, low, high) of clause 2.1.6; its constant is 7."""
    mixed = int(rng.integers(0, a + 1)) | int(rng.integers(low, high + 1))
    return (mixed + 7) % (high - low + 1) + low


Row = dict[str, Any]
District = tuple[int, int]


def parts(name: str, scale: Scale, seed: int) -> Iterator[list[Row]]:
    """Iterate over the rows that a table begins with, in parts."""
    makers: dict[str, Callable[[Scale, np.random.Generator], Iterator[Row]]] = {
        "warehouse": warehouses,
        "district": districts,
        "customer": customers,
        "history": lambda *_: iter(()),
        "new_order": new_orders,
        "orders": orders,
        "order_line": order_lines,
        "item": items,
        "stock": stocks,
    }
    rows = makers[name](scale, np.random.default_rng([seed, list(TABLES).index(name)]))
    while part := list(itertools.islice(rows, PART)):
        yield part


def load(db: Database, scale: Scale, seed: int, advance: Callable[[str], None] = lambda _: None) -> None:
    """Make and fill the tables, and their indexes."""
    for name, (columns, key) in TABLES.items():
        advance(f"load {name}")
        table = db.create_table(name, columns, key)
        for index_table, index, index_columns in INDEXES:
            if index_table == name:
                db.create_index(name, index, index_columns)
        for part in parts(name, scale, seed):
            table.insert_many(columns_of(part))


def columns_of(rows: list[Row]) -> dict[str, list[Any]]:
    """Turn rows into columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def text(rng: np.random.Generator, low: int, high: int) -> str:
    """Return a random a-string."""
    size = int(rng.integers(low, high + 1))
    return bytes(rng.integers(97, 123, size, dtype=np.uint8)).decode()


def address(rng: np.random.Generator) -> Row:
    """Return a random address."""
    streets = {name: text(rng, 10, 20) for name in ("street_1", "street_2", "city")}
    return streets | {"state": text(rng, 2, 2), "zip": f"{int(rng.integers(10_000)):04}11111"}


def cents(rng: np.random.Generator, low: int, high: int) -> str:
    """Return an amount, given in cents."""
    return f"{int(rng.integers(low, high + 1)) / 100:.2f}"


def rate(rng: np.random.Generator, high: int) -> str:
    """Return a tax or discount, given in parts of 10,000."""
    return f"0.{int(rng.integers(0, high + 1)):04}"


def each_district(scale: Scale) -> Iterator[tuple[int, int]]:
    """Iterate over the warehouses and districts."""
    return ((w, d) for w in range(1, scale.warehouses + 1) for d in range(1, DISTRICTS + 1))


def warehouses(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    """Iterate over their rows, as all the following do."""
    for w in range(1, scale.warehouses + 1):
        row = {"w_id": w, "name": text(rng, 6, 10), "tax": rate(rng, 2000), "ytd": "300000.00"}
        yield row | address(rng)


def districts(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    for w, d in each_district(scale):
        row = {"w_id": w, "d_id": d, "name": text(rng, 6, 10), "tax": rate(rng, 2000)}
        yield row | {"ytd": "30000.00", "next_o_id": scale.customers + 1} | address(rng)


def customers(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    for w, d in each_district(scale):
        for c in range(1, scale.customers + 1):
            name = c - 1 if c <= 1000 else non_uniform(rng, 255, 0, 999)
            yield {
                "w_id": w,
                "d_id": d,
                "c_id": c,
                "first": text(rng, 8, 16),
                "middle": "OE",
                "last": last_name(name),
                "phone": f"{int(rng.integers(10**15)):016}",
                "since": LOADED,
                "credit": "BC" if rng.integers(10) == 0 else "GC",
                "credit_lim": "50000.00",
                "discount": rate(rng, 5000),
                "balance": "-10.00",
                "ytd_payment": "10.00",
                "payment_cnt": 1,
                "delivery_cnt": 0,
                "data": text(rng, 300, 500),
                **address(rng),
            }


def new_orders(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    for w, d in each_district(scale):
        for o in range(scale.undelivered, scale.customers + 1):
            yield {"w_id": w, "d_id": d, "o_id": o}


def line_counts(w: int, d: int, scale: Scale) -> list[int]:
    """Return the lines of each order; orders and order_line are made independently."""
    return list(map(int, np.random.default_rng([w, d]).integers(5, 16, scale.customers)))


def orders(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    for w, d in each_district(scale):
        chosen = rng.permutation(scale.customers) + 1
        for o, lines in enumerate(line_counts(w, d, scale), 1):
            yield {
                "w_id": w,
                "d_id": d,
                "o_id": o,
                "c_id": int(chosen[o - 1]),
                "entry_d": LOADED,
                "carrier_id": int(rng.integers(1, 11)) if o < scale.undelivered else None,
                "ol_cnt": lines,
                "all_local": True,
            }


def order_lines(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    for w, d in each_district(scale):
        for o, lines in enumerate(line_counts(w, d, scale), 1):
            new = o >= scale.undelivered
            for number in range(1, lines + 1):
                yield {
                    "w_id": w,
                    "d_id": d,
                    "o_id": o,
                    "number": number,
                    "i_id": int(rng.integers(1, scale.items + 1)),
                    "supply_w_id": w,
                    "delivery_d": None if new else LOADED,
                    "quantity": 5,
                    "amount": cents(rng, 1, 999_999) if new else "0.00",
                    "dist_info": text(rng, 24, 24),
                }


def original(rng: np.random.Generator) -> str:
    """Return the data of an item, which in a tenth of the cases says that it is original."""
    data = text(rng, 26, 42)
    return f"{data[:10]}ORIGINAL{data[18:]}" if rng.integers(10) == 0 else data


def items(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    for i in range(1, scale.items + 1):
        row = {"i_id": i, "im_id": int(rng.integers(1, 10_001)), "name": text(rng, 14, 24)}
        yield row | {"price": cents(rng, 100, 9_999), "data": original(rng)}


def stocks(scale: Scale, rng: np.random.Generator) -> Iterator[Row]:
    for w in range(1, scale.warehouses + 1):
        for i in range(1, scale.items + 1):
            row: Row = {"w_id": w, "i_id": i, "quantity": int(rng.integers(10, 101))}
            row |= {name: text(rng, 24, 24) for name in DIST_INFO}
            yield row | {"ytd": 0, "order_cnt": 0, "remote_cnt": 0, "data": original(rng)}
