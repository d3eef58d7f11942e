"""A bank whose process is killed: transfers are acknowledged through a pipe, and audited afterwards."""

import os
import random
import signal
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exmapdb
from db_pages import check_file

__all__ = ["ACCOUNTS", "Bank", "audit", "kill_while_it_works", "make_bank"]

ACCOUNTS = 300
START = 1000
THREADS = 2
ACCOUNT, TRANSFER = 0, 1
SCHEMA = {
    "kind": "int32",
    "id": "int64",
    "a": "int64",
    "b": "int64",
    "amount": "int64",
    "pad": "text",
}
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
        table = db.create_table("bank", SCHEMA, key=("kind", "id"))
        put(table, [(ACCOUNT, i, START, 0, 0, PAD) for i in range(ACCOUNTS)])
    return Bank(path, options)


def put(table: exmapdb.Table, rows: list[tuple[Any, ...]]) -> None:
    """Insert or replace rows, in one transaction."""
    columns = zip(*rows, strict=True)
    table.insert_many(dict(zip(SCHEMA, map(list, columns), strict=True)), replace=True)


def work(table: exmapdb.Table, thread: int, first: int, pipe: int) -> None:
    """Move money between the accounts of one thread, for ever; transfer ids say whose they are."""
    rng = random.Random(first)
    mine = range(thread, ACCOUNTS, THREADS)
    number = first
    while True:
        source, target = rng.sample(mine, 2)
        rows = [table.get((ACCOUNT, account)) for account in (source, target)]
        assert rows[0] is not None
        assert rows[1] is not None
        amount = rng.randrange(50)
        put(
            table,
            [
                (ACCOUNT, source, rows[0]["a"] - amount, rows[0]["b"] + 1, 0, PAD),
                (ACCOUNT, target, rows[1]["a"] + amount, rows[1]["b"] + 1, 0, PAD),
                (TRANSFER, number, source, target, amount, PAD),
            ],
        )
        os.write(pipe, ACK.pack(number))
        number += THREADS


def child(bank: Bank, firsts: list[int], pipe: int) -> None:
    """What the process does that will be killed: recover, and work."""
    db = exmapdb.open(bank.path, flag="w", **bank.options)
    table = db.table("bank")
    for thread, first in enumerate(firsts[1:], 1):
        threading.Thread(target=work, args=(table, thread, first, pipe), daemon=True).start()
    work(table, 0, firsts[0], pipe)


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


def audit(bank: Bank, durable: bool) -> tuple[list[int], float]:
    """Recover the bank and check it; return each thread's next transfer, and the seconds it took to open.

    Every acknowledged transfer is there (if `durable`), each is there as a whole or not at all, and those
    of a thread are there without a gap.
    """
    begin = time.perf_counter()
    with exmapdb.open(bank.path, flag="w", **bank.options) as db:
        seconds = time.perf_counter() - begin
        rows = [row for batch in db.table("bank").scan() for row in batch.to_rows()]
    accounts = {row[1]: (row[2], row[3]) for row in rows if row[0] == ACCOUNT}
    transfers = {row[1]: row[2:5] for row in rows if row[0] == TRANSFER}
    if durable:
        assert bank.acknowledged <= transfers.keys()
    expected = dict.fromkeys(range(ACCOUNTS), (START, 0))
    for source, target, amount in transfers.values():
        expected[source] = (expected[source][0] - amount, expected[source][1] + 1)
        expected[target] = (expected[target][0] + amount, expected[target][1] + 1)
    assert accounts == expected
    assert sum(balance for balance, _ in accounts.values()) == ACCOUNTS * START
    firsts = []
    for thread in range(THREADS):
        mine = sorted(number for number in transfers if number % THREADS == thread)
        assert mine == list(range(thread, thread + THREADS * len(mine), THREADS))
        firsts.append(thread + THREADS * len(mine))
    check_file(bank.path)
    return firsts, seconds
