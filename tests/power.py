"""What tests of power failures share: a disk with a database and what it has acknowledged, and its states.

The disk's first DISK_BYTES have the database, and the blocks behind them the last tally that each thread has
acknowledged, so that a record of what was written has both in their order.
"""

import mmap
import os
import random
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from db_pages import check_file
from loads import TALLY, THREADS, Load, Tally
from write_log import Write, crash, flushes

__all__ = ["ACK_BYTES", "DISK_BYTES", "Acknowledger", "check_states", "make_disk"]

BLOCK = 4096
DISK_BYTES = 16 << 20
ACK_BYTES = THREADS * BLOCK


def make_disk(load: Load, path: Path) -> None:
    """Make a disk on which nothing has been acknowledged yet."""
    load.make(path)
    assert path.stat().st_size < DISK_BYTES
    os.truncate(path, DISK_BYTES + ACK_BYTES)


class Acknowledger:
    """Writes each thread's tally to a block of its own, behind `offset`."""

    def __init__(self, disk: Path, offset: int) -> None:
        self._fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
        self._offset = offset
        self._blocks = threading.local()

    def __call__(self, thread: int, tally: Tally) -> None:
        if not hasattr(self._blocks, "memory"):
            self._blocks.memory = mmap.mmap(-1, BLOCK)
        self._blocks.memory[: TALLY.size] = TALLY.pack(*tally)
        os.pwritev(self._fd, [self._blocks.memory], self._offset + thread * BLOCK)


def check_states(
    load: Load,
    base: bytes,
    log: Sequence[Write],
    tallies: Sequence[Tally],
    rng: random.Random,
    states: int,
    folder: Path,
) -> None:
    """Recover the database from states of the disk that a volatile cache might have left.

    base: the disk when the log began; tallies: what had been acknowledged by then.
    """
    ends = rng.sample([place + 1 for place in flushes(log)], states // 2)
    ends += [rng.randrange(1, len(log)) for _ in range(states // 4)]
    # where a new image begins to count
    heads = [place for place, write in enumerate(log) if write.data and write.offset < 2 * BLOCK]
    ends += [min(rng.choice(heads) + rng.randrange(8), len(log)) for _ in range(states // 4) if heads]
    for end in ends:
        now = list(tallies)
        for write in log[:end]:
            if write.offset >= DISK_BYTES:
                orders, payments, delivered = TALLY.unpack_from(write.data)
                now[(write.offset - DISK_BYTES) // BLOCK] = (orders, payments, delivered)
        copy = folder / "copy.exdb"
        copy.write_bytes(crash(base, log, end, rng)[:DISK_BYTES])
        damaged = shutil.copy(copy, folder / "state.exdb")
        try:
            load.audit(copy, now, backend="posix")
            check_file(copy)
        except BaseException as error:
            error.add_note(f"the disk after {end} of {len(log)} entries is {damaged}")
            raise
