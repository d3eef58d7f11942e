"""Identify and the health log, asked of the stock driver."""

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from exmapctl._bench import ffi
from exmapctl.controllers import STOCK, find_controller
from exmapctl.errors import CommandFailedError, NotRootError
from exmapctl.machine import Machine

__all__ = ["Health", "Identity", "identify", "smart"]

# linux/nvme_ioctl.h: struct nvme_admin_cmd, and _IOWR('N', 0x41, that)
ADMIN_COMMAND = struct.Struct("=BBHIIIQQIIIIIIIIII")
IOCTL_ADMIN = 0xC0484E41
# NVM Express Base Specification 2.0, 5.17 and 5.16
IDENTIFY, GET_LOG_PAGE = 0x06, 0x02
CNS_NAMESPACE, CNS_CONTROLLER = 0, 1
LOG_HEALTH = 0x02
ANY_NAMESPACE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Identity:
    """What a controller says of itself and of a namespace. Sizes are in bytes; max_transfer 0: no limit."""

    model: str
    serial: str
    firmware: str
    namespace_lbas: int
    lba_size: int
    max_transfer: int
    write_cache: bool
    write_zeroes: bool
    deallocate: bool


@dataclass(frozen=True, slots=True)
class Health:
    """The SMART / Health log. Data units are 512,000 bytes; the warning is a set of bits."""

    critical_warning: int
    temperature_celsius: int
    available_spare_percent: int
    percentage_used: int
    data_units_read: int
    data_units_written: int
    power_on_hours: int
    unsafe_shutdowns: int
    media_errors: int


def admin(path: str, opcode: int, nsid: int, cdw10: int, length: int) -> bytes:
    """Send an admin command that reads, and return its data; raises CommandFailedError."""
    buffer = ffi.new("uint8_t[]", length)
    address = int(ffi.cast("uintptr_t", buffer))
    command = bytearray(
        ADMIN_COMMAND.pack(opcode, 0, 0, nsid, 0, 0, 0, address, 0, length, cdw10, 0, 0, 0, 0, 0, 0, 0)
    )
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandFailedError(f"{path}: {error.strerror}") from error
    try:
        status = fcntl.ioctl(fd, IOCTL_ADMIN, command)
    except OSError as error:
        raise CommandFailedError(f"{path}: {os.strerror(error.errno or errno.EIO)}") from error
    finally:
        os.close(fd)
    if status:
        raise CommandFailedError(f"{path}: the controller answers with status {status:#x}")
    return bytes(ffi.buffer(buffer))


def device_of(machine: Machine, name: str, what: str) -> tuple[str, str]:
    """Find the character device and the first disk of a controller that the stock driver has."""
    if os.geteuid():
        raise NotRootError(what)
    controller = find_controller(machine, name)
    if controller.driver != STOCK or not controller.disks:
        raise CommandFailedError(
            f"{controller.address} belongs to {controller.driver or 'no driver'}: '{what}' asks the stock"
            " driver, so 'exmapctl nvme release' it first"
        )
    return f"/dev/{controller.name}", controller.disks[0]


def text_of(field: bytes) -> str:
    """Read a padded field."""
    return field.decode("ascii", "replace").strip(" \0")


def identify(machine: Machine, name: str) -> Identity:
    """Ask a controller and its first namespace what they are."""
    device, disk = device_of(machine, name, "nvme identify")
    own = admin(device, IDENTIFY, 0, CNS_CONTROLLER, 4096)
    nsid = int(machine.read(f"/sys/block/{disk}/nsid") or 1)
    space = admin(device, IDENTIFY, nsid, CNS_NAMESPACE, 4096)
    formats = struct.unpack_from("<I", space, 128 + 4 * (space[26] & 0xF))[0]
    optional = struct.unpack_from("<H", own, 520)[0]
    return Identity(
        model=text_of(own[24:64]),
        serial=text_of(own[4:24]),
        firmware=text_of(own[64:72]),
        namespace_lbas=struct.unpack_from("<Q", space, 0)[0],
        lba_size=1 << (formats >> 16 & 0xFF),
        max_transfer=4096 << own[77] if own[77] else 0,
        write_cache=bool(own[525] & 1),
        write_zeroes=bool(optional & 8),
        deallocate=bool(optional & 4),
    )


def smart(machine: Machine, name: str) -> Health:
    """Read a controller's health log."""
    device, _ = device_of(machine, name, "nvme smart")
    # dword 10: the log, and its length in dwords, less one
    log = admin(device, GET_LOG_PAGE, ANY_NAMESPACE, LOG_HEALTH | (512 // 4 - 1) << 16, 512)

    def number(offset: int) -> int:
        return int.from_bytes(log[offset : offset + 16], "little")

    return Health(
        critical_warning=log[0],
        temperature_celsius=struct.unpack_from("<H", log, 1)[0] - 273,
        available_spare_percent=log[3],
        percentage_used=log[5],
        data_units_read=number(32),
        data_units_written=number(48),
        power_on_hours=number(128),
        unsafe_shutdowns=number(144),
        media_errors=number(160),
    )
