"""NVMe controllers of the guest."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from exmapctl.controllers import list_controllers
from exmapctl.machine import Machine
from exmapctl.nvme_take import release, take

__all__ = ["BAD_READ", "BAD_WRITE", "DRIVER", "bad_controller", "owned_controller"]

DRIVER = Path("/sys/bus/pci/drivers/exmap-nvme")
# offsets on the disk with bad blocks: ci/disks.py
BAD_READ, BAD_WRITE = 8 << 20, 12 << 20


def owned_controller() -> str:
    """Return the PCI address of a controller that ci/guest-nvme.sh has given to exmap-nvme."""
    addresses = [path.name for path in DRIVER.glob("*") if re.fullmatch(r"[0-9a-f:.]+", path.name)]
    if not addresses:
        pytest.skip("no controller is bound to exmap-nvme")
    return addresses[0]


@contextlib.contextmanager
def bad_controller() -> Iterator[str]:
    """Have exmap-nvme drive the disk with bad blocks (ci/vm.py); its PCI address."""
    machine = Machine.here()
    found = [c.address for c in list_controllers(machine) if c.serial == "exmap3"]
    if not found:
        pytest.skip("there is no disk with bad blocks")
    take(machine, found[0], force=False)
    yield found[0]
    release(machine, found[0])
