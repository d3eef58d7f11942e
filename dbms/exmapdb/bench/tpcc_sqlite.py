"""TPC-C on SQLite: the same tables, inputs and promises, and the statements that its users would write.

Money is counted in cents, and rates in parts of 10,000: exact, as the decimals of exmapdb, and cheaper.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from exmapdb.bench.tpcc_data import (
    INDEXES,
    RECENT,
    TABLES,
    District,
    Line,
    Payment,
    Rollback,
    Row,
    Scale,
    parts,
)

__all__ = ["SqliteTpcc", "count_low_stock", "deliver", "last_order", "order", "pay"]

Connection = sqlite3.Connection
LINES = "w_id, d_id, o_id, number, i_id, supply_w_id, delivery_d, quantity, amount, dist_info"
CONDITIONS = {
    1: """SELECT w_id FROM warehouse w
        WHERE ytd <> (SELECT sum(ytd) FROM district d WHERE d.w_id = w.w_id)""",
    2: """SELECT w_id, d_id FROM district d WHERE next_o_id - 1 <>
        (SELECT max(o_id) FROM orders o WHERE o.w_id = d.w_id AND o.d_id = d.d_id) OR next_o_id - 1 <>
        (SELECT ifnull(max(o_id), next_o_id - 1) FROM new_order n
            WHERE n.w_id = d.w_id AND n.d_id = d.d_id)""",
    3: """SELECT w_id, d_id FROM new_order
        GROUP BY w_id, d_id HAVING max(o_id) - min(o_id) + 1 <> count(*)""",
    4: """SELECT w_id, d_id FROM district d WHERE
        (SELECT sum(ol_cnt) FROM orders o WHERE o.w_id = d.w_id AND o.d_id = d.d_id) <>
        (SELECT count(*) FROM order_line l WHERE l.w_id = d.w_id AND l.d_id = d.d_id)""",
}


class SqliteTpcc:
    """A database in WAL mode, a connection for each thread; synchronous=FULL if durable, else OFF.

    Who may write takes his turn at a lock in this process, which costs less than SQLite's own waiting.
    """

    def __init__(self, path: Path, memory: int, durable: bool) -> None:
        self._path, self._memory, self._durable = path, memory, durable
        self._connections: list[Connection] = []
        self._mine = threading.local()
        self._writer = threading.Lock()
        self._db.execute("PRAGMA journal_mode=WAL")

    @property
    def _db(self) -> Connection:
        if not hasattr(self._mine, "db"):
            db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
            db.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'OFF'}")
            db.execute(f"PRAGMA cache_size=-{self._memory >> 10}")
            self._connections.append(db)
            self._mine.db = db
        return cast("Connection", self._mine.db)

    def load(self, scale: Scale, seed: int) -> None:
        """Make and fill the tables, and their indexes."""
        db = self._db
        for name, (columns, key) in TABLES.items():
            db.execute(
                f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY ({', '.join(key)})) WITHOUT ROWID"
            )
            for part in parts(name, scale, seed):
                db.execute("BEGIN")
                marks = ", ".join("?" * len(columns))
                rows = [[stored(row[column], kind) for column, kind in columns.items()] for row in part]
                db.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
                db.execute("COMMIT")
        for table, index, names in INDEXES:
            db.execute(f"CREATE INDEX {index} ON {table} ({', '.join(names)})")

    def run(self, work: Callable[[Connection], Any]) -> Any:
        """Run a transaction; there are no conflicts, since who may write is alone."""
        with self._writer:
            return self._run(work, "BEGIN IMMEDIATE")

    def read(self, work: Callable[[Connection], Any]) -> Any:
        """Run a transaction that only reads."""
        return self._run(work, "BEGIN")

    def _run(self, work: Callable[[Connection], Any], begin: str) -> Any:
        db = self._db
        db.execute(begin)
        try:
            result = work(db)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        return result

    def check(self) -> list[str]:
        """Return what is wrong by the consistency conditions 1 to 4."""
        found = {number: self._db.execute(query).fetchall() for number, query in CONDITIONS.items()}
        return [f"condition {number} at {place}" for number, places in found.items() for place in places]

    def close(self) -> None:
        """Close all connections."""
        for db in self._connections:
            db.close()


def stored(value: Any, kind: str) -> Any:
    """Return what is stored of a value for a column of exmapdb."""
    if kind.startswith("decimal"):
        return int(Decimal(value).scaleb(int(kind.rstrip(")").split(",")[1])))
    return value.isoformat() if isinstance(value, dt.datetime) else value


def found(db: Connection, query: str, values: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a row that has to be there."""
    row = db.execute(query, values).fetchone()
    if row is None:
        raise AssertionError(f"nothing for {values}: {query}")
    return cast("tuple[Any, ...]", row)


def find_customer(db: Connection, home: District, who: int | str) -> int:
    """Return the number of a customer: given, or of the middle one with a last name, by first name."""
    if isinstance(who, int):
        return who
    named = "SELECT c_id FROM customer WHERE w_id = ? AND d_id = ? AND last = ? ORDER BY first"
    numbers = db.execute(named, (*home, who)).fetchall()
    if not numbers:
        raise AssertionError(f"no customer {who} in {home}")
    return int(numbers[(len(numbers) - 1) // 2][0])


def order(db: Connection, home: District, customer: int, lines: list[Line], now: dt.datetime) -> int:
    """Do clause 2.4: the number of the order; Rollback for an item that is not there."""
    w, d = home
    (w_tax,) = found(db, "SELECT tax FROM warehouse WHERE w_id = ?", (w,))
    number, d_tax = found(
        db,
        """UPDATE district SET next_o_id = next_o_id + 1
            WHERE w_id = ? AND d_id = ? RETURNING next_o_id - 1, tax""",
        home,
    )
    (discount,) = found(
        db, "SELECT discount FROM customer WHERE w_id = ? AND d_id = ? AND c_id = ?", (w, d, customer)
    )
    local = all(line.supply == w for line in lines)
    db.execute(
        "INSERT INTO orders VALUES (?, ?, ?, ?, ?, NULL, ?, ?)",
        (w, d, number, customer, now.isoformat(), len(lines), local),
    )
    db.execute("INSERT INTO new_order (w_id, d_id, o_id) VALUES (?, ?, ?)", (w, d, number))
    rows = []
    for place, line in enumerate(lines, 1):
        amount, info = take_from_stock(db, home, line)
        rows.append((w, d, number, place, line.item, line.supply, None, line.quantity, amount, info))
    db.executemany(f"INSERT INTO order_line ({LINES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    # what the customer is shown
    _ = sum(row[8] for row in rows) * (10_000 - discount) * (10_000 + w_tax + d_tax)
    return int(number)


def take_from_stock(db: Connection, home: District, line: Line) -> tuple[int, str]:
    """Take what is ordered: its price, and what the stock says of the district."""
    item = db.execute("SELECT price FROM item WHERE i_id = ?", (line.item,)).fetchone()
    if item is None:
        raise Rollback
    (info,) = found(
        db,
        f"""UPDATE stock SET ytd = ytd + :n, order_cnt = order_cnt + 1, remote_cnt = remote_cnt + :remote,
            quantity = quantity - :n + CASE WHEN quantity - :n >= 10 THEN 0 ELSE 91 END
            WHERE w_id = :w AND i_id = :i RETURNING dist_{home[1]:02}""",
        {"n": line.quantity, "remote": line.supply != home[0], "w": line.supply, "i": line.item},
    )
    return item[0] * line.quantity, info


def pay(db: Connection, payment: Payment) -> None:
    """Do clause 2.5."""
    w, d = payment.home
    cents = int(payment.amount.scaleb(2))
    add = "UPDATE {} SET ytd = ytd + ? WHERE {} RETURNING name"
    (warehouse,) = found(db, add.format("warehouse", "w_id = ?"), (cents, w))
    (district,) = found(db, add.format("district", "w_id = ? AND d_id = ?"), (cents, w, d))
    (c_w, c_d), c = payment.payer_home, find_customer(db, payment.payer_home, payment.payer)
    key = {"cents": cents, "w": c_w, "d": c_d, "c": c}
    (credit,) = found(
        db,
        """UPDATE customer SET balance = balance - :cents, ytd_payment = ytd_payment + :cents,
            payment_cnt = payment_cnt + 1 WHERE w_id = :w AND d_id = :d AND c_id = :c RETURNING credit""",
        key,
    )
    if credit == "BC":
        note = f"{c} {c_d} {c_w} {d} {w} {payment.amount}|"
        db.execute(
            """UPDATE customer SET data = substr(:note || data, 1, 500)
                WHERE w_id = :w AND d_id = :d AND c_id = :c""",
            key | {"note": note},
        )
    db.execute(
        "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*payment.entry, c, c_d, c_w, d, w, payment.date.isoformat(), cents, f"{warehouse}    {district}"),
    )


def last_order(db: Connection, home: District, who: int | str) -> list[Row]:
    """Do clause 2.6: the lines of a customer's last order."""
    c = find_customer(db, home, who)
    last = "SELECT max(o_id) FROM orders WHERE w_id = ? AND d_id = ? AND c_id = ?"
    (number,) = found(db, last, (*home, c))
    lines = db.execute(
        f"SELECT {LINES} FROM order_line WHERE w_id = ? AND d_id = ? AND o_id = ?", (*home, number)
    )
    return [dict(zip(LINES.split(", "), row, strict=True)) for row in lines]


def deliver(db: Connection, home: District, carrier: int, now: dt.datetime) -> int | None:
    """Do clause 2.7 for one district: the number of the order that is delivered, if there is a new one."""
    (number,) = found(db, "SELECT min(o_id) FROM new_order WHERE w_id = ? AND d_id = ?", home)
    if number is None:
        return None
    key = (*home, number)
    where = "w_id = ? AND d_id = ? AND o_id = ?"
    db.execute(f"DELETE FROM new_order WHERE {where}", key)
    (c,) = found(db, f"UPDATE orders SET carrier_id = ? WHERE {where} RETURNING c_id", (carrier, *key))
    db.execute(f"UPDATE order_line SET delivery_d = ? WHERE {where}", (now.isoformat(), *key))
    (total,) = found(db, f"SELECT sum(amount) FROM order_line WHERE {where}", key)
    db.execute(
        """UPDATE customer SET balance = balance + ?, delivery_cnt = delivery_cnt + 1
            WHERE w_id = ? AND d_id = ? AND c_id = ?""",
        (total, *home, c),
    )
    return int(number)


def count_low_stock(db: Connection, home: District, threshold: int) -> int:
    """Do clause 2.8."""
    w, d = home
    (number,) = found(db, "SELECT next_o_id FROM district WHERE w_id = ? AND d_id = ?", home)
    (count,) = found(
        db,
        """SELECT count(*) FROM stock WHERE w_id = ? AND quantity < ? AND i_id IN
            (SELECT i_id FROM order_line WHERE w_id = ? AND d_id = ? AND o_id >= ? AND o_id < ?)""",
        (w, threshold, w, d, number - RECENT, number),
    )
    return int(count)
