"""Who uses /dev/exmap."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from exmapctl.machine import Machine

__all__ = ["User", "find_users"]

DEVICE = "/dev/exmap"


class User(NamedTuple):
    """A process with open descriptors or mappings of /dev/exmap."""

    pid: int
    name: str
    descriptors: int
    mappings: int


def find_users(machine: Machine) -> list[User]:
    """List the processes that hold /dev/exmap.

    Needs root to see the processes of others; those that vanish meanwhile are left out.
    """
    users = (look_at(process) for process in processes(machine))
    return [user for user in users if user.descriptors or user.mappings]


def processes(machine: Machine) -> Iterator[Path]:
    """Walk over /proc's processes in the order of their numbers."""
    found = (path for path in machine.path("/proc").iterdir() if path.name.isdecimal())
    yield from sorted(found, key=lambda path: int(path.name))


def look_at(process: Path) -> User:
    """Count what one process holds."""
    try:
        name = (process / "comm").read_text(errors="replace").strip()
    except OSError:
        name = "?"
    return User(int(process.name), name, count_descriptors(process), count_mappings(process))


def count_descriptors(process: Path) -> int:
    """Count descriptors of the device; 0 if the process hides them."""
    count = 0
    try:
        for descriptor in (process / "fd").iterdir():
            count += points_to_device(descriptor)
    except OSError:
        return count
    return count


def points_to_device(descriptor: Path) -> bool:
    """Tell whether a link of /proc/PID/fd is the device; a closed one is not."""
    try:
        return str(descriptor.readlink()) == DEVICE
    except OSError:
        return False


def count_mappings(process: Path) -> int:
    """Count mappings of the device; 0 if the process hides them."""
    try:
        lines = (process / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    return sum(line.endswith(" " + DEVICE) for line in lines)
