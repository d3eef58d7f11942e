"""NVMe controllers of the guest."""

import re
from pathlib import Path

import pytest

__all__ = ["DRIVER", "owned_controller"]

DRIVER = Path("/sys/bus/pci/drivers/exmap-nvme")


def owned_controller() -> str:
    """Return the PCI address of a controller that ci/guest-nvme.sh has given to exmap-nvme."""
    addresses = [path.name for path in DRIVER.glob("*") if re.fullmatch(r"[0-9a-f:.]+", path.name)]
    if not addresses:
        pytest.skip("no controller is bound to exmap-nvme")
    return addresses[0]
