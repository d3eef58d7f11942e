"""Power failures: a guest that works on a database is killed at random moments, and another one recovers it.

QEMU loses nothing that the guest's kernel has written when it is killed, only what that had not; what a disk
with a volatile cache may lose is tried as well: all writes and flushes are recorded, and states of the
disk made of them.  With --slow EXMAP_POWER_FAILURES says how many there are.
"""

import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import vm
from loads import LOADS, NOTHING, TALLY, THREADS, Tally, kill_while_it_works
from power import DISK_BYTES, check_states, make_disk
from write_log import read_log

GUEST_LIMIT = 1800.0
DURABILITY = ("sync", "group")
KERNELS = ("6.12", "6.1")
STATES = 12  # of the disk, for each failure
LONG = int(os.environ.get("EXMAP_POWER_FAILURES", "20"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that QEMU may use, outside of the work tree."""
    with tempfile.TemporaryDirectory(prefix="exmap-power-") as name:
        yield Path(name)


@dataclass(slots=True)
class Machine:
    """A disk with a load's database, and what has been acknowledged; its guest ends once it is `over`."""

    name: str
    image: Path
    over: threading.Event
    tallies: Sequence[Tally] = (NOTHING,) * THREADS
    lives: int = 0

    @property
    def changes(self) -> int:
        """Return how much has been acknowledged."""
        return sum(map(sum, self.tallies))


class Life:
    """One boot of a machine: its database is recovered and audited, and worked on until the power fails."""

    def __init__(self, machine: Machine) -> None:
        number = machine.lives
        machine.lives += 1
        self.machine = machine
        self.kernel = KERNELS[number // 2 % 2]
        self.durability = DURABILITY[number % 2]
        # side by side, two guests of two CPUs each take more than twice as long as one after the other
        self.cpus = 1 if number % 9 else 2
        self.out = machine.image.parent / f"{machine.name}{number}"
        self.out.mkdir()
        self._acknowledged = self.out / "acknowledged"
        self._acknowledged.write_bytes(b"".join(TALLY.pack(*tally) for tally in machine.tallies))

    def acknowledged(self) -> list[Tally]:
        """Return what each thread has had acknowledged last."""
        return [(a, b, c) for a, b, c in TALLY.iter_unpack(self._acknowledged.read_bytes())]

    def changes(self) -> int:
        """Return how much has been acknowledged in this life."""
        return sum(map(sum, self.acknowledged())) - self.machine.changes

    def run(self, when: Callable[[], bool]) -> None:
        """Boot a guest, and kill it."""
        guest = vm.Guest(
            kernel=self.kernel,
            smp=self.cpus,
            recorded=self.machine.image,
            load=True,
            memory="1G",
            timeout=GUEST_LIMIT,
        )
        command = ["sh", "ci/guest-power.sh", str(DISK_BYTES), self.machine.name, self.durability]
        over = self.machine.over
        vm.kill(guest, command, lambda: over.is_set() or when(), out=self.out, lock=False)

    def audit(self) -> tuple[float, int]:
        """Return the seconds that recovery took, and how many transactions were replayed."""
        seconds, recovered = json.loads((self.out / "audit").read_text())
        return seconds, recovered


def after(life: Life, changes: int, seconds: float) -> Callable[[], bool]:
    """Tell when so many changes have been acknowledged, and some time has passed."""
    due: list[float] = []

    def when() -> bool:
        if not due and life.changes() >= changes:
            due.append(time.monotonic() + seconds)
        return bool(due) and time.monotonic() >= due[0]

    return when


def fail(machine: Machine, rng: random.Random, changes: int, states: int) -> int:
    """Recover in a guest, work and kill it, try states of the disk; return how many were replayed."""
    life = Life(machine)
    base = machine.image.read_bytes()
    begin = time.monotonic()
    life.run(after(life, changes, rng.uniform(0, 0.2)))
    seconds, recovered = life.audit()
    print(
        f"{machine.name} {life.durability} {life.kernel} {life.cpus} CPU:"
        f" {recovered} replayed in {seconds:.3f} s, {life.changes()} changes,"
        f" killed after {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    log = read_log(machine.image.with_name(machine.image.name + ".log"))
    check_states(LOADS[machine.name], base, log, machine.tallies, rng, states, machine.image.parent)
    machine.tallies = life.acknowledged()
    return recovered


def make_machine(name: str, folder: Path, over: threading.Event) -> Machine:
    """Make a disk whose database's process has been killed, so that its first guest has a log to replay."""
    (folder / name).mkdir()
    machine = Machine(name, folder / name / "disk", over)
    make_disk(LOADS[name], machine.image)
    machine.tallies = kill_while_it_works(
        LOADS[name], machine.image, machine.tallies, changes=20, backend="posix", durability="group"
    )
    return machine


def test_databases_survive_power_failures(folder: Path) -> None:
    rng = random.Random(3)
    machine = make_machine("tpcc", folder, threading.Event())
    assert fail(machine, rng, changes=10, states=4) > 0
    found = LOADS["tpcc"].audit(machine.image, machine.tallies, backend="posix")
    assert found.recovered > 0


def fail_often(machine: Machine, seed: int, failures: int) -> list[int]:
    """Let the power fail so often; return how many were replayed after each."""
    rng = random.Random(seed)
    try:
        replays = [fail(machine, rng, rng.randrange(20, 200), STATES) for _ in range(failures)]
        found = LOADS[machine.name].audit(machine.image, machine.tallies, backend="posix")
    except BaseException:
        machine.over.set()
        raise
    print(f"{machine.name}: {found.recovered} replayed in {found.seconds:.3f} s, {machine.changes} changes")
    return [*replays, found.recovered]


@pytest.mark.slow
def test_databases_survive_power_failures_at_length(folder: Path) -> None:
    over = threading.Event()
    machines = [make_machine(name, folder, over) for name in LOADS]
    shares = [(LONG + number) // len(machines) for number in range(len(machines))]
    # side by side: most guests have one CPU
    with ThreadPoolExecutor(len(machines)) as pool:
        work = [pool.submit(fail_often, *each) for each in zip(machines, (4, 5), shares, strict=True)]
        try:
            replays = [replayed for future in work for replayed in future.result()]
        finally:
            over.set()
    # a failure comes a while after the last checkpoint: few logs are empty then
    print(f"{sum(map(bool, replays))} of {len(replays)} recoveries had a log to replay")
    assert sum(map(bool, replays)) > len(replays) / 2
