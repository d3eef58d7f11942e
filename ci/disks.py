"""QEMU's options for a guest's NVMe disks."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["KINDS", "can_be_unplugged", "device_id", "options"]

KINDS = ("", "bad", "slow", "fast", "hot", "2k", "4k", "meta")
BAD_READ, BAD_WRITE = 8 << 20, 12 << 20
SLOW_IOPS = 500


def options(wanted: Sequence[str], recorded: Path | None, out: Path) -> list[str]:
    """Return the options of disks exmap0, exmap1 ...: new ones in out, then the recorded one.

    A new disk is a size as truncate understands it ("1G"), perhaps with a kind: "1G:slow" does SLOW_IOPS
    transfers a second; ":fast" is read by io_uring, which has what is in the host's page cache at once where
    QEMU's threads would have to be woken; ":bad" cannot read its block of 4 KiB at BAD_READ, nor write the
    one at BAD_WRITE; ":2k" and ":4k" have blocks of 2048 and 4096 bytes; ":meta" has metadata; ":hot" has a
    slot of its own, from which it can be unplugged, in a guest with an IOMMU.  The recorded disk is an image
    that is kept; what is written and flushed goes to the file beside it whose name has ".log" appended, made
    anew.  ValueError.
    """
    found = []
    for number, disk in enumerate(wanted):
        size, _, kind = disk.partition(":")
        if kind not in KINDS:
            raise ValueError(f"{disk}: a disk is {', '.join(KINDS[1:-1])} or {KINDS[-1]}, or nothing of it")
        image = out / f"nvme{number}.img"
        subprocess.run(["truncate", "-s", size, str(image)], check=True)
        found += [_drive(kind, image, f"n{number}"), *_devices(number, kind)]
    if recorded:
        found += [_recorded_drive(recorded, f"n{len(wanted)}"), *_devices(len(wanted), "")]
    return found


def can_be_unplugged(wanted: Sequence[str]) -> bool:
    """Tell whether one of the disks can be."""
    return any(disk.endswith(":hot") for disk in wanted)


def device_id(serial: str) -> str:
    """Return what QEMU's monitor calls the device of a disk."""
    return serial.replace("exmap", "disk")


def _drive(kind: str, image: Path, name: str) -> str:
    if kind == "fast":
        return f"-blockdev driver=file,filename={image},aio=io_uring,node-name={name}"
    file = f"file={image}"
    if kind == "slow":
        file += f",throttling.iops-total={SLOW_IOPS}"
    elif kind == "bad":
        file = f"file.driver=blkdebug,file.image.driver=file,file.image.filename={image}{_bad_blocks()}"
    return f"-drive {file},if=none,id={name},format=raw,cache=writeback"


def _devices(number: int, kind: str) -> list[str]:
    """Return the options of a controller and its namespace, on the drive of that number."""
    serial = f"exmap{number}"
    controller = f"-device nvme,serial={serial},max_ioqpairs=8,id={device_id(serial)}"
    namespace = f"drive=n{number}"
    if kind == "hot":
        port = f"-device pcie-root-port,id=port{number},chassis={number + 1}"
        return [port, f"{controller},bus=port{number},{namespace}"]
    if kind == "meta":
        return [controller, f"-device nvme-ns,bus={device_id(serial)},ms=8,{namespace}"]
    if kind in ("2k", "4k"):
        block = int(kind[0]) << 10
        namespace += f",logical_block_size={block},physical_block_size={block}"
    return [f"{controller},{namespace}"]


def _bad_blocks() -> str:
    rules = [("read", BAD_READ), ("write", BAD_WRITE)]
    return "".join(
        f",file.inject-error.{number}.event=none,file.inject-error.{number}.iotype={kind}"
        f",file.inject-error.{number}.sector={offset // 512},file.inject-error.{number}.errno=5"
        for number, (kind, offset) in enumerate(rules)
    )


def _recorded_drive(image: Path, name: str) -> str:
    log = image.with_name(image.name + ".log")
    log.write_bytes(b"")
    return (
        f"-blockdev node-name={name},driver=blklogwrites,log-sector-size=512"
        f",file.driver=file,file.filename={image},log.driver=file,log.filename={log}"
    )
