"""A bank whose process is killed: transfers are acknowledged through a pipe, and audited afterwards."""

import functools
import itertools
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exmapdb
from db_pages import check_file

__all__ = ["ACCOUNTS", "Bank", "audit", "kill_while_it_works", "make_bank"]

ACCOUNTS = 300
START = 1000
THREADS = 2
ACCOUNT = {"id": "int64", "balance": "int64", "moves": "int64", "pad": "text"}
TRANSFER = {"id": "int64", "source": "int64", "target": "int64", "amount": "int64"}
PAD = "p" * 120  # more pages than frames
ACK = struct.Struct("<q")


@dataclass(slots=True)
class Bank:
    """Where the bank is, how it is opened, and the transfers that it has acknowledged."""

    path: Path
    options: dict[str, Any]
    acknowledged: set[int] = field(default_factory=set)


def make_bank(path: Path, **options: Any) -> Bank:
    """Make a bank; every account has the same."""
    with exmapdb.open(path, flag="n", **options) as db:
        accounts = db.create_table("accounts", ACCOUNT, key="id")
        columns = {"id": range(ACCOUNTS), "balance": [START] * ACCOUNTS, "moves": [0] * ACCOUNTS}
        accounts.insert_many(columns | {"pad": [PAD] * ACCOUNTS})
        db.create_table("transfers", TRANSFER, key="id")
    return Bank(path, options)


def move(txn: exmapdb.Transaction, number: int, source: int, target: int, amount: int) -> None:
    """Move money, and write it down."""
    accounts = txn.table("accounts")
    for account, change in ((source, -amount), (target, amount)):
        row = accounts.get(account)
        assert row is not None
        accounts.update(account, {"balance": row["balance"] + change, "moves": row["moves"] + 1})
    transfer = {"id": number, "source": source, "target": target, "amount": amount}
    txn.table("transfers").insert(transfer)


def work(db: exmapdb.Database, first: int, pipe: int) -> None:
    """Move money between any accounts, for ever; a transfer's number says which thread made it."""
    rng = random.Random(first)
    for number in itertools.count(first, THREADS):
        source, target = rng.sample(range(ACCOUNTS), 2)
        amount = rng.randrange(50)
        db.run(functools.partial(move, number=number, source=source, target=target, amount=amount))
        os.write(pipe, ACK.pack(number))


def child(bank: Bank, firsts: list[int], pipe: int) -> None:
    """What the process does that will be killed: recover, and work."""
    db = exmapdb.open(bank.path, flag="w", **bank.options)
    for first in firsts[1:]:
        threading.Thread(target=work, args=(db, first, pipe), daemon=True).start()
    work(db, firsts[0], pipe)


def kill_while_it_works(bank: Bank, seconds: float, firsts: list[int]) -> None:
    """Fork a process that works on the bank, kill it after so long, and note what it acknowledged."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            child(bank, firsts, writer)
        finally:
            # an error in the child shows as a status that is no signal
            os._exit(1)
    os.close(writer)
    killer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    killer.start()
    data = bytearray()
    while part := os.read(reader, 1 << 16):
        data += part
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    killer.join()
    assert os.WIFSIGNALED(status), "the bank failed by itself"
    assert os.WTERMSIG(status) == signal.SIGKILL
    whole = len(data) // ACK.size * ACK.size
    bank.acknowledged |= {number for (number,) in ACK.iter_unpack(data[:whole])}


def rows_of(table: exmapdb.Table, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Iterate over the rows of a table."""
    return itertools.chain.from_iterable(batch.to_rows() for batch in table.scan(columns=columns))


def audit(bank: Bank, durable: bool) -> tuple[list[int], float]:
    """Recover the bank and check it; return each thread's next transfer, and the seconds it took to open.

    Every acknowledged transfer is there (if `durable`), each is there as a whole or not at all, and those
    of a thread are there without a gap.
    """
    begin = time.perf_counter()
    with exmapdb.open(bank.path, flag="w", **bank.options) as db:
        seconds = time.perf_counter() - begin
        columns = ["id", "balance", "moves"]
        accounts = {i: values for i, *values in rows_of(db.table("accounts"), columns)}
        transfers = {i: values for i, *values in rows_of(db.table("transfers"), list(TRANSFER))}
    if durable:
        assert bank.acknowledged <= transfers.keys()
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
    check_file(bank.path)
    return firsts, seconds
