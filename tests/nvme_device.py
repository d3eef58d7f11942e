"""NVMe controllers of the guest."""

import itertools
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from exmap_netlink import Event, Events
from exmapctl.controllers import OURS, STOCK, Controller, bind, list_controllers, wait_for_disk
from exmapctl.machine import Machine

__all__ = [
    "BAD_READ",
    "BAD_WRITE",
    "DEVICES",
    "DRIVER",
    "bad_controller",
    "find_disk",
    "number_of",
    "owned_controller",
    "taken",
    "told",
]

DEVICES = Path("/sys/bus/pci/devices")
DRIVER = Path("/sys/bus/pci/drivers/exmap-nvme")
# offsets on the disk with bad blocks: ci/disks.py
BAD_READ, BAD_WRITE = 8 << 20, 12 << 20


def owned_controller() -> str:
    """Return the PCI address of a controller that ci/guest-nvme.sh has given to exmap-nvme."""
    addresses = [path.name for path in DRIVER.glob("*") if re.fullmatch(r"[0-9a-f:.]+", path.name)]
    if not addresses:
        pytest.skip("no controller is bound to exmap-nvme")
    return addresses[0]


def find_disk(serial: str) -> Controller:
    """Return the controller, which the stock driver has, of a disk of ci/suite.py."""
    for controller in list_controllers(Machine.here()):
        if controller.serial == serial:
            return controller
    pytest.skip(f"this guest has no disk {serial}")


@contextmanager
def taken(serial: str) -> Iterator[str]:
    """Have exmap-nvme drive the controller of a disk, until it is gone; yield its address."""
    controller = find_disk(serial)
    bind(Machine.here(), controller, OURS)
    try:
        yield controller.address
    finally:
        if (DEVICES / controller.address).exists():
            bind(Machine.here(), controller, STOCK)
            wait_for_disk(Machine.here(), controller)


def bad_controller() -> AbstractContextManager[str]:
    """Have exmap-nvme drive the controller of the disk with bad blocks."""
    return taken("exmap3")


def number_of(address: str) -> int:
    """Return a PCI address as an event has it."""
    segment, bus, device, function = (int(part, 16) for part in re.split("[:.]", address))
    return segment << 16 | bus << 8 | device << 3 | function


def told(events: Events, kind: str, count: int) -> list[Event]:
    """Return what is told of a kind, so many times; that it does not come in time is a failure."""
    found = list(itertools.islice((event for event in events if event.event == kind), count))
    assert len(found) == count
    return found
