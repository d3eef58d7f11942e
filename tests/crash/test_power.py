"""Power failures: a guest that works on a bank is killed at random moments, and another one recovers it.

QEMU loses nothing that the guest's kernel has written when it is killed, only what that had not; what a disk
with a volatile cache may lose is tried as well: all writes and flushes are recorded, and states of the
disk made of them.  With --slow EXMAP_POWER_FAILURES says how many there are.
"""

import json
import os
import random
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bank
import pytest
import vm
from power import ACK_BYTES, DISK_BYTES, check_states
from write_log import read_log

LAST = struct.Struct(f"<{bank.THREADS}q")
GUEST_LIMIT = 1800.0
DURABILITY = ("sync", "group")
STATES = 12  # of the disk, for each failure
LONG = int(os.environ.get("EXMAP_POWER_FAILURES", "20"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that QEMU may use, outside of the work tree."""
    with tempfile.TemporaryDirectory(prefix="exmap-power-") as name:
        yield Path(name)


class Life:
    """One boot: a bank is recovered and audited, and works until the power fails."""

    def __init__(self, image: Path, number: int, last: tuple[int, ...] | None) -> None:
        self.image = image
        self.last = last
        self.out = image.parent / f"life{number}"
        self.out.mkdir()
        self._acknowledged = self.out / "acknowledged"
        self._acknowledged.write_bytes(LAST.pack(*(last or [-1] * bank.THREADS)))
        self._durability = DURABILITY[number % 2]

    def acknowledged(self) -> tuple[int, ...]:
        """Return each thread's last transfer that has been acknowledged."""
        return LAST.unpack(self._acknowledged.read_bytes())

    def run(self, when: Callable[[], bool]) -> None:
        """Boot a guest, and kill it."""
        guest = vm.Guest(recorded=self.image, load=True, memory="1G", timeout=GUEST_LIMIT)
        command = ["sh", "ci/guest-power.sh", str(DISK_BYTES), self._durability]
        command += [str(number) for number in self.last or ()]
        vm.kill(guest, command, when, out=self.out, lock=False)

    def audit(self) -> tuple[float, int]:
        """Return the seconds that recovery took, and how many transactions were replayed."""
        seconds, recovered = json.loads((self.out / "audit").read_text())
        return seconds, recovered


def after(life: Life, transfers: int, seconds: float) -> Callable[[], bool]:
    """Tell when so many transfers have been acknowledged, and some time has passed."""
    begin = life.acknowledged()
    due: list[float] = []

    def when() -> bool:
        if not due and sum(life.acknowledged()) - sum(begin) >= transfers * bank.THREADS:
            due.append(time.monotonic() + seconds)
        return bool(due) and time.monotonic() >= due[0]

    return when


def fail_often(folder: Path, failures: int, seed: int) -> None:
    rng = random.Random(seed)
    image = folder / "disk"
    image.write_bytes(bytes(DISK_BYTES + ACK_BYTES))
    last: tuple[int, ...] | None = None
    replayed = 0
    for number in range(failures + 1):
        life = Life(image, number, last)
        base = image.read_bytes()
        if number < failures:
            life.run(after(life, rng.randrange(100, 400), rng.uniform(0, 0.2)))
        else:
            life.run((life.out / "audit").exists)
        last = life.acknowledged()
        seconds, recovered = life.audit()
        replayed += recovered
        print(
            f"{number} failures, {sum(last) // bank.THREADS} transfers:"
            f" {recovered} replayed in {seconds:.3f} s"
        )
        if number < failures:
            log = read_log(image.with_name("disk.log"))
            check_states(base, log, life.last or [-1] * bank.THREADS, rng, STATES, folder)
    assert replayed > 0


def test_banks_survive_power_failures(folder: Path) -> None:
    fail_often(folder, 2, seed=3)


@pytest.mark.slow
def test_banks_survive_power_failures_at_length(folder: Path) -> None:
    fail_often(folder, LONG, seed=4)
