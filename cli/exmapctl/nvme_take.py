"""Give NVMe controllers to exmap-nvme and back: what stands in the way, and who owns what."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from exmapctl.controllers import OURS, STOCK, Controller, bind, find_controller, wait_for_disk
from exmapctl.errors import CommandFailedError, ControllerInUseError, NotRootError
from exmapctl.machine import Machine

__all__ = ["Change", "find_obstacles", "release", "take"]


@dataclass(frozen=True, slots=True)
class Change:
    """A controller that has changed hands."""

    address: str
    driver: str
    disks: tuple[str, ...]
    overridden: tuple[str, ...]


def parts_of(machine: Machine, disk: str) -> list[str]:
    """Name a disk and its partitions."""
    folder = machine.path(f"/sys/block/{disk}")
    return [disk, *sorted(path.parent.name for path in folder.glob("*/partition"))]


def mounts_of(machine: Machine, part: str) -> list[str]:
    """Say where a disk or partition is mounted, by name or by device number, and whether it is swap."""
    number = machine.read(f"/sys/class/block/{part}/dev")
    found = []
    for line in machine.read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(), after.split()[1:2]
        if (number and fields[2] == number) or source == [f"/dev/{part}"]:
            boot = " (the running system's root)" if fields[4] == "/" else ""
            found.append(f"{part} is mounted at {fields[4]}{boot}")
    swaps = [line.split()[0] for line in machine.read("/proc/swaps").splitlines()[1:]]
    if f"/dev/{part}" in swaps:
        found.append(f"{part} is swap space")
    return found


def holders_of(machine: Machine, part: str) -> list[str]:
    """Name what is stacked on a disk or partition: device mapper, md."""
    folder = machine.path(f"/sys/class/block/{part}/holders")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [f"{part} is used by {name}" for name in names]


def signatures_of(machine: Machine, part: str) -> list[str]:
    """Say what blkid recognises on a disk or partition: a file system, a partition table."""
    tool = shutil.which("blkid", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if tool is None:
        return [f"{part} may hold anything: there is no blkid to look with"]
    command = [tool, "-p", "-o", "export", str(machine.path(f"/dev/{part}"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    told = []
    if "PTTYPE" in found:
        told.append(f"{part} has a partition table ({found['PTTYPE']})")
    if "TYPE" in found:
        told.append(f"{part} holds {found['TYPE']}")
    if done.returncode == 8:
        told.append(f"{part} has signatures that contradict each other")
    return told


def opened_exclusively(machine: Machine, part: str) -> list[str]:
    """Try to have a disk alone: whoever mounts or stacks on it has."""
    try:
        fd = os.open(machine.path(f"/dev/{part}"), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        return [f"{part} is in use ({error.strerror})"]
    os.close(fd)
    return []


def find_obstacles(machine: Machine, controller: Controller) -> list[str]:
    """Say all that speaks against taking a controller from the stock driver."""
    found: list[str] = []
    for disk in controller.disks:
        for part in parts_of(machine, disk):
            used = mounts_of(machine, part) + holders_of(machine, part)
            found += used or opened_exclusively(machine, part)
            found += signatures_of(machine, part)
    return found


def take(machine: Machine, name: str, force: bool) -> Change:
    """Give a controller to exmap-nvme.

    If that refuses it, the driver that had it gets it back. Raises ControllerInUseError with all that was
    found, unless told to go on; NotRootError; ControllerAbsentError; ModuleNotLoadedError;
    CommandFailedError.
    """
    if os.geteuid():
        raise NotRootError("nvme take")
    controller = find_controller(machine, name)
    if controller.driver == OURS:
        raise CommandFailedError(f"{controller.address} belongs to {OURS} already")
    obstacles = find_obstacles(machine, controller)
    if obstacles and not force:
        raise ControllerInUseError(controller.address, obstacles)
    try:
        bind(machine, controller, OURS)
    except CommandFailedError:
        if controller.driver:
            bind(machine, controller, controller.driver)
        raise
    return Change(controller.address, OURS, controller.disks, tuple(obstacles))


def release(machine: Machine, name: str) -> Change:
    """Give a controller back to the stock driver, and wait for its disk.

    Queues that are open die. Raises what take() does, but for ControllerInUseError.
    """
    if os.geteuid():
        raise NotRootError("nvme release")
    controller = find_controller(machine, name)
    if controller.driver == STOCK:
        raise CommandFailedError(f"{controller.address} belongs to {STOCK} already")
    bind(machine, controller, STOCK)
    found = wait_for_disk(machine, controller)
    return Change(controller.address, STOCK, found.disks, ())
