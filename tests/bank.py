"""A bank whose process, or machine, is killed: transfers are acknowledged, and audited afterwards."""

import functools
import itertools
import random
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exmapdb
from worker import kill_at_work

__all__ = [
    "ACCOUNTS",
    "THREADS",
    "Audit",
    "Bank",
    "audit",
    "kill_while_it_works",
    "make_bank",
    "up_to",
    "work",
]

ACCOUNTS = 300
START = 1000
THREADS = 2
ACCOUNT = {"id": "int64", "balance": "int64", "moves": "int64", "pad": "text"}
TRANSFER = {"id": "int64", "source": "int64", "target": "int64", "amount": "int64"}
PAD = "p" * 120  # more pages than frames
LARGE = 17  # of so many accounts one has values larger than a page
ACK = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit has found: each thread's next transfer, seconds to open, transactions replayed."""

    firsts: list[int]
    seconds: float
    recovered: int


@dataclass(slots=True)
class Bank:
    """Where the bank is, how it is opened, and the transfers that it has acknowledged."""

    path: Path
    options: dict[str, Any]
    acknowledged: set[int] = field(default_factory=set)


def up_to(ends: Iterable[int]) -> set[int]:
    """Return the transfers of each thread that are below an end."""
    return {number for thread, end in enumerate(ends) for number in range(thread, end, THREADS)}


def pad_of(account: int, moves: int) -> str:
    """Return what an account has beside its balance after so many moves."""
    return PAD if account % LARGE else f"{account}.{moves};" * (400 * (moves % 7))


def make_bank(path: Path, **options: Any) -> Bank:
    """Make a bank; every account has the same."""
    with exmapdb.open(path, flag="n", **options) as db:
        accounts = db.create_table("accounts", ACCOUNT, key="id")
        columns = {"id": range(ACCOUNTS), "balance": [START] * ACCOUNTS, "moves": [0] * ACCOUNTS}
        accounts.insert_many(columns | {"pad": [pad_of(account, 0) for account in range(ACCOUNTS)]})
        db.create_table("transfers", TRANSFER, key="id")
    return Bank(path, options)


def move(txn: exmapdb.Transaction, number: int, source: int, target: int, amount: int) -> None:
    """Move money, and write it down."""
    accounts = txn.table("accounts")
    for account, change in ((source, -amount), (target, amount)):
        row = accounts.get(account)
        assert row is not None
        moves = row["moves"] + 1
        changes = {"balance": row["balance"] + change, "moves": moves, "pad": pad_of(account, moves)}
        accounts.update(account, changes)
    transfer = {"id": number, "source": source, "target": target, "amount": amount}
    txn.table("transfers").insert(transfer)


def work_alone(db: exmapdb.Database, first: int, acknowledge: Callable[[int], object]) -> None:
    """Move money between any accounts, for ever; a transfer's number says which thread made it."""
    rng = random.Random(first)
    for number in itertools.count(first, THREADS):
        source, target = rng.sample(range(ACCOUNTS), 2)
        amount = rng.randrange(50)
        db.run(functools.partial(move, number=number, source=source, target=target, amount=amount))
        acknowledge(number)


def work(bank: Bank, firsts: list[int], acknowledge: Callable[[int], object]) -> None:
    """What the process does that will be killed: recover, and work, in a thread for each number."""
    db = exmapdb.open(bank.path, flag="w", **bank.options)
    for first in firsts[1:]:
        threading.Thread(target=work_alone, args=(db, first, acknowledge), daemon=True).start()
    work_alone(db, firsts[0], acknowledge)


def kill_while_it_works(bank: Bank, seconds: float, firsts: list[int], transfers: int = 0) -> None:
    """Kill a process that works on the bank so long after so many transfers, and note them."""

    def work_in_child(acknowledge: Callable[[bytes], object]) -> None:
        work(bank, firsts, lambda number: acknowledge(ACK.pack(number)))

    data = kill_at_work(work_in_child, ACK.size, transfers, seconds)
    bank.acknowledged |= {number for (number,) in ACK.iter_unpack(data)}


def rows_of(table: exmapdb.Table, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Iterate over the rows of a table."""
    return itertools.chain.from_iterable(batch.to_rows() for batch in table.scan(columns=columns))


def audit(bank: Bank, durable: bool) -> Audit:
    """Recover the bank and check it.

    Every acknowledged transfer is there (if `durable`), each is there as a whole or not at all, and those
    of a thread are there without a gap.
    """
    begin = time.perf_counter()
    with exmapdb.open(bank.path, flag="w", **bank.options) as db:
        seconds = time.perf_counter() - begin
        recovered = db.stats().recovered
        columns = ["id", "balance", "moves", "pad"]
        accounts = {i: values for i, *values in rows_of(db.table("accounts"), columns)}
        transfers = {i: values for i, *values in rows_of(db.table("transfers"), list(TRANSFER))}
        db.check()
    if durable:
        assert bank.acknowledged <= transfers.keys()
    assert all(pad == pad_of(i, moves) for i, (_, moves, pad) in accounts.items())
    accounts = {i: values[:2] for i, values in accounts.items()}
    expected = {i: [START, 0] for i in range(ACCOUNTS)}
    for source, target, amount in transfers.values():
        for account, change in ((source, -amount), (target, amount)):
            expected[account][0] += change
            expected[account][1] += 1
    assert accounts == expected
    assert sum(balance for balance, _ in accounts.values()) == ACCOUNTS * START
    firsts = []
    for thread in range(THREADS):
        mine = sorted(number for number in transfers if number % THREADS == thread)
        assert mine == list(range(thread, thread + THREADS * len(mine), THREADS))
        firsts.append(thread + THREADS * len(mine))
    return Audit(firsts, seconds, recovered)
