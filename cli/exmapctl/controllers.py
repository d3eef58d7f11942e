"""NVMe controllers of the machine, as sysfs describes them, and who drives them."""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from exmapctl.errors import CommandFailedError, ControllerAbsentError, ModuleNotLoadedError
from exmapctl.machine import Machine

__all__ = ["OURS", "STOCK", "Controller", "bind", "find_controller", "list_controllers", "wait_for_disk"]

OURS = "exmap-nvme"
STOCK = "nvme"
DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
NVM_EXPRESS = "0x010802"
DISK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Controller:
    """An NVMe controller: its PCI address, its driver ("" if none), and, with the stock one, its disks."""

    address: str
    driver: str
    name: str
    model: str
    serial: str
    iommu: bool
    disks: tuple[str, ...]


def list_controllers(machine: Machine) -> list[Controller]:
    """List all NVMe controllers in the order of their addresses."""
    folder = machine.path(DEVICES)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        describe(machine, path)
        for path in paths
        if machine.read(f"{DEVICES}/{path.name}/class") == NVM_EXPRESS
    ]


def describe(machine: Machine, path: Path) -> Controller:
    """Read what sysfs says of one controller."""
    driver = path / "driver"
    name = next((entry.name for entry in sorted((path / "nvme").glob("nvme*"))), "")
    stock = f"{DEVICES}/{path.name}/nvme/{name}"
    return Controller(
        address=path.name,
        driver=os.path.basename(os.readlink(driver)) if driver.is_symlink() else "",
        name=name,
        model=machine.read(f"{stock}/model") if name else "",
        serial=machine.read(f"{stock}/serial") if name else "",
        iommu=(path / "iommu_group").exists(),
        disks=tuple(sorted(_disks(path / "nvme" / name))) if name else (),
    )


def _disks(stock: Path) -> set[str]:
    """Return the block devices of a controller; nvme1c0n1, a path of several, belongs to nvme1n1."""
    names = (re.fullmatch(r"(nvme\d+)(?:c\d+)?(n\d+)", entry.name) for entry in stock.glob("nvme*n*"))
    return {name[1] + name[2] for name in names if name}


def find_controller(machine: Machine, address: str) -> Controller:
    """Find one by PCI address ("0000:00:04.0"), or by its stock name ("nvme0", "/dev/nvme0n1").

    Raises ControllerAbsentError.
    """
    wanted = re.sub(r"^/dev/", "", address)
    for controller in list_controllers(machine):
        short = controller.address.removeprefix("0000:")
        if wanted and wanted in (controller.address, short, controller.name, *controller.disks):
            return controller
    raise ControllerAbsentError(address)


def write(machine: Machine, name: str, text: str) -> None:
    """Write a sysfs file; raises CommandFailedError."""
    try:
        machine.path(name).write_text(text)
    except OSError as error:
        raise CommandFailedError(f"{name}: {error.strerror}") from error


def last_words(machine: Machine, address: str) -> str:
    """Return what the module has said last of a controller in the kernel log."""
    mark = f"{address}: exmap: "
    found = "see dmesg"
    try:
        fd = os.open(machine.path("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return found
    with contextlib.suppress(BlockingIOError), os.fdopen(fd, "rb", buffering=0) as log:
        while True:
            try:
                record = log.read(8192)
            except BrokenPipeError:  # that record has been overwritten meanwhile
                continue
            if not record:
                break
            _, _, text = record.decode(errors="replace").partition("\n")[0].partition(mark)
            found = text or found
    return found


def bind(machine: Machine, controller: Controller, driver: str) -> None:
    """Give a controller to a driver, whoever has it now; the stock one needs no override.

    Raises ModuleNotLoadedError, CommandFailedError (also if the driver refuses; the kernel log says why).
    """
    if not machine.path(f"{DRIVERS}/{driver}").is_dir():
        if driver == OURS:
            raise ModuleNotLoadedError
        raise CommandFailedError(f"there is no driver {driver}: modprobe {driver}")
    device = f"{DEVICES}/{controller.address}"
    write(machine, f"{device}/driver_override", "\n" if driver == STOCK else driver)
    if machine.path(f"{device}/driver").exists():
        write(machine, f"{device}/driver/unbind", controller.address)
    try:
        write(machine, f"{DRIVERS}/{driver}/bind", controller.address)
    except CommandFailedError as error:
        words = last_words(machine, controller.address)
        raise CommandFailedError(f"{driver} refuses {controller.address} ({error}): {words}") from error


def wait_for_disk(machine: Machine, controller: Controller) -> Controller:
    """Wait until the stock driver shows a disk; raises CommandFailedError."""
    limit = time.monotonic() + DISK_SECONDS
    while time.monotonic() < limit:
        found = find_controller(machine, controller.address)
        if found.disks and machine.path(f"/dev/{found.disks[0]}").exists():
            return found
        time.sleep(0.05)
    raise CommandFailedError(f"{controller.address}: no disk has appeared in {DISK_SECONDS:.0f} s")
