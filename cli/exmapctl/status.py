"""What `exmapctl status` shows: the module, its users, and the regions.

Imports as little as it can: `status` has to be quick on slow machines.
"""

import struct
from fcntl import ioctl
from typing import NamedTuple

from exmapctl import introspect
from exmapctl.machine import Machine
from exmapctl.output import print_json, print_table
from exmapctl.users import User, find_users

__all__ = ["INFO", "IOCTL_INFO", "Abi", "Status", "read_status", "run", "status_rows"]

# uapi/exmap.h: struct exmap_info up to what is asked for here, and its size
IOCTL_INFO = 0xC0806B10
# where the driver has links to its devices
TAKEN = "/sys/bus/pci/drivers/exmap-nvme"
INFO = struct.Struct("=8xIIQ")
CHUNK_PAGES = struct.Struct("=I")
CHUNK_PAGES_OFFSET, INFO_BYTES = 68, 128


class Abi(NamedTuple):
    """What EXMAP_IOCTL_INFO says; `features` is a set of EXMAP_FEATURE_* bits."""

    abi_version: int
    page_size: int
    features: int
    chunk_pages: int


class Status(NamedTuple):
    """The module as the kernel shows it; `abi` is None if /dev/exmap could not be asked.

    `devices` are the PCI addresses of the NVMe controllers that were taken.
    """

    kernel: str
    loaded: bool
    version: str
    references: int
    parameters: dict[str, str]
    abi: Abi | None
    users: list[User]
    devices: list[str]


def read_status(machine: Machine) -> Status:
    """Read what the kernel shows of the module; all empty if it is not loaded."""
    sysfs = "/sys/module/exmap"
    return Status(
        kernel=machine.release,
        loaded=machine.module_loaded,
        version=machine.read(f"{sysfs}/version"),
        references=int(machine.read(f"{sysfs}/refcnt") or 0),
        parameters=read_parameters(machine, f"{sysfs}/parameters"),
        abi=ask_abi(machine) if machine.module_loaded else None,
        users=find_users(machine) if machine.module_loaded else [],
        devices=sorted(path.name for path in machine.path(TAKEN).glob("*:*:*.*")),
    )


def status_rows(status: Status) -> list[tuple[str, object]]:
    """Lay a status out for people."""
    rows: list[tuple[str, object]] = [
        ("kernel", status.kernel),
        ("loaded", "yes" if status.loaded else "no"),
    ]
    if not status.loaded:
        return rows
    rows += [("version", status.version), ("references", status.references)]
    rows += [(f"parameter {name}", value) for name, value in status.parameters.items()]
    if status.abi:
        rows += [("ABI version", status.abi.abi_version), ("features", f"{status.abi.features:#x}")]
    rows += [
        (f"user {user.pid}", f"{user.name}: {user.descriptors} descriptors, {user.mappings} mappings")
        for user in status.users
    ]
    rows += [(f"device {address}", "taken from the stock NVMe driver") for address in status.devices]
    return rows


def read_parameters(machine: Machine, directory: str) -> dict[str, str]:
    """Read all module parameters."""
    path = machine.path(directory)
    if not path.is_dir():
        return {}
    return {entry.name: machine.read(f"{directory}/{entry.name}") for entry in sorted(path.iterdir())}


def ask_abi(machine: Machine) -> Abi | None:
    """Ask /dev/exmap what it is; None if this user may not open it."""
    info = bytearray(INFO_BYTES)
    try:
        with machine.path("/dev/exmap").open("r+b", buffering=0) as device:
            ioctl(device, IOCTL_INFO, info)
    except OSError:
        return None
    version, page_size, features = INFO.unpack_from(info)
    return Abi(version, page_size, features, *CHUNK_PAGES.unpack_from(info, CHUNK_PAGES_OFFSET))


def show(status: Status, regions: list[introspect.RegionStatus] | None, as_json: bool) -> None:
    """Print what is known of the module, and of its regions; None: not for this user."""
    if as_json:
        print_json({**status._asdict(), "regions": regions})
        return
    rows = status_rows(status)
    if regions is None:
        rows.append(("regions", "shown to root and the group of /dev/exmap"))
    print_table("exmap", ("what", "value"), rows)
    if not regions:
        return
    print_table("regions", introspect.REGION_COLUMNS, introspect.region_rows(regions))
    snapshots = [snapshot for region in regions for snapshot in region.snapshots]
    if snapshots:
        print_table("snapshots", introspect.SNAPSHOT_COLUMNS, introspect.snapshot_rows(snapshots))


def run(as_json: bool) -> None:
    """Read and show."""
    status = read_status(Machine.here())
    show(status, introspect.read_regions_if_permitted() if status.loaded else [], as_json)
