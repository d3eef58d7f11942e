"""A disk whose volatile cache is lost: whatever state that leaves, the bank has what it has acknowledged.

qemu-storage-daemon shows a recorded image as a file, on which the bank works by way of the posix backend.
"""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import bank
import disks
import exmapdb
import processes
import pytest
from power import ACK_BYTES, DISK_BYTES, POSIX, Acknowledger, check_states
from write_log import read_log

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-storage-daemon") or not Path("/dev/fuse").exists(),
    reason="no qemu-storage-daemon (Debian's qemu-system-common), or no /dev/fuse",
)
LONG = int(os.environ.get("EXMAP_KILLS", "300"))


@contextlib.contextmanager
def recorded(image: Path) -> Iterator[Path]:
    """Yield a file that is the image, and whose writes and flushes are recorded."""
    file = image.with_name("recorded")
    file.touch()
    option, _ = disks.options([], image, image.parent)
    export = f"type=fuse,id=export,node-name=n0,mountpoint={file},writable=on"
    command = ["qemu-storage-daemon", *option.split(), "--export", export]
    command[1] = "--blockdev"
    with processes.process_group(command):
        limit = time.monotonic() + 60
        while file.stat().st_size == 0:
            assert time.monotonic() < limit, "no export"
            time.sleep(0.01)
        yield file


def fail_often(folder: Path, durability: exmapdb.Durability, failures: int, states: int) -> None:
    rng = random.Random(f"{durability} {failures}")
    image = folder / "disk"
    options = POSIX | {"durability": durability}
    bank.make_bank(image, **options)
    os.truncate(image, DISK_BYTES + ACK_BYTES)
    last = [-1] * bank.THREADS
    for _ in range(failures):
        base = image.read_bytes()
        with recorded(image) as file:
            works = bank.Bank(file, options, bank.up_to(last))
            firsts = [number + bank.THREADS if number >= 0 else place for place, number in enumerate(last)]
            acknowledger = Acknowledger(file, DISK_BYTES)
            bank.kill_while_it_works(works, 0.0, firsts, rng.randrange(50, 250), acknowledger)
        log = read_log(image.with_name("disk.log"))
        assert sum(write.offset >= DISK_BYTES for write in log) > 40
        check_states(base, log, last, rng, states, folder)
        found = bank.audit(bank.Bank(image, POSIX, works.acknowledged), durable=True)
        last = [first - bank.THREADS if first >= bank.THREADS else -1 for first in found.firsts]


@pytest.mark.parametrize("durability", ["sync", "group"])
def test_a_lost_cache_loses_nothing_that_was_acknowledged(
    tmp_path: Path, durability: exmapdb.Durability
) -> None:
    fail_often(tmp_path, durability, failures=2, states=8)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["sync", "group"])
def test_a_lost_cache_loses_nothing_that_was_acknowledged_at_length(
    tmp_path: Path, durability: exmapdb.Durability
) -> None:
    fail_often(tmp_path, durability, failures=max(LONG // 20, 1), states=40)
