"""What tests of power failures share: a bank on a disk that has the acknowledgements too, and its states.

The disk's first DISK_BYTES have the bank, and the blocks behind them the last transfer that each thread has
acknowledged, so that a record of what was written has both in their order.
"""

import mmap
import os
import random
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import bank
from write_log import Write, crash, flushes

__all__ = ["ACK_BYTES", "DISK_BYTES", "POSIX", "Acknowledger", "check_states"]

BLOCK = 4096
DISK_BYTES = 16 << 20
ACK_BYTES = bank.THREADS * BLOCK
POSIX = {"memory": "256KiB", "backend": "posix", "log": "256KiB"}


class Acknowledger:
    """Writes each thread's last transfer to a block of its own, behind `offset`."""

    def __init__(self, disk: Path, offset: int) -> None:
        self._fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
        self._offset = offset
        self._blocks = threading.local()

    def __call__(self, number: int) -> None:
        if not hasattr(self._blocks, "memory"):
            self._blocks.memory = mmap.mmap(-1, BLOCK)
        self._blocks.memory[: bank.ACK.size] = bank.ACK.pack(number)
        os.pwritev(self._fd, [self._blocks.memory], self._offset + number % bank.THREADS * BLOCK)


def check_states(
    base: bytes, log: Sequence[Write], last: Sequence[int], rng: random.Random, states: int, folder: Path
) -> None:
    """Recover the bank from states of the disk that a volatile cache might have left.

    base: the disk when the log began; last: what each thread had acknowledged by then, -1 for nothing.
    """
    acks = (place for place, write in enumerate(log) if write.offset >= DISK_BYTES)
    # before its first transfer there may be no bank yet
    first = 1 if max(last) >= 0 else next(acks)
    ends = rng.sample([place + 1 for place in flushes(log) if place >= first], states // 2)
    ends += [rng.randrange(first, len(log)) for _ in range(states // 4)]
    # where a new image begins to count
    heads = [place for place, write in enumerate(log) if place >= first and write.offset < 2 * BLOCK]
    ends += [min(rng.choice(heads) + rng.randrange(8), len(log)) for _ in range(states // 4) if heads]
    for end in ends:
        now = list(last)
        for write in log[:end]:
            if write.offset >= DISK_BYTES:
                (now[(write.offset - DISK_BYTES) // BLOCK],) = bank.ACK.unpack_from(write.data)
        copy = folder / "copy.exdb"
        copy.write_bytes(crash(base, log, end, rng)[:DISK_BYTES])
        damaged = shutil.copy(copy, folder / "state.exdb")
        try:
            bank.audit(bank.Bank(copy, POSIX, bank.up_to(now)), durable=True)
        except BaseException as error:
            error.add_note(f"the disk after {end} of {len(log)} entries is {damaged}")
            raise
