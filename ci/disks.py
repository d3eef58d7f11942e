"""QEMU's options for a guest's NVMe disks."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["options"]

BAD_READ, BAD_WRITE = 8 << 20, 12 << 20
SLOW_IOPS = 500


def options(sizes: Sequence[str], recorded: Path | None, out: Path) -> list[str]:
    """Return the options of disks exmap0, exmap1 ...: new ones of these sizes in out, then the recorded one.

    A size is as qemu-img understands it ("1G").  A disk of one that ends in ":slow" does SLOW_IOPS transfers
    a second; of one that ends in ":bad" it cannot read its block of 4 KiB at BAD_READ, nor write the one at
    BAD_WRITE.  The recorded disk is an image that is kept; what is written and flushed goes to the file
    beside it whose name has ".log" appended, made anew.  ValueError.
    """
    drives = [_new_drive(size, out / f"nvme{n}.img", f"n{n}") for n, size in enumerate(sizes)]
    if recorded:
        drives.append(_recorded_drive(recorded, f"n{len(sizes)}"))
    devices = [f"-device nvme,drive=n{n},serial=exmap{n},max_ioqpairs=8" for n in range(len(drives))]
    return [option for pair in zip(drives, devices, strict=True) for option in pair]


def _new_drive(wanted: str, image: Path, name: str) -> str:
    size, _, flaw = wanted.partition(":")
    file = f"file={image}"
    if flaw == "slow":
        file += f",throttling.iops-total={SLOW_IOPS}"
    elif flaw == "bad":
        file = f"file.driver=blkdebug,file.image.driver=file,file.image.filename={image}{_bad_blocks()}"
    elif flaw:
        raise ValueError(f"{wanted}: a disk is bad or slow, or neither")
    subprocess.run(["truncate", "-s", size, str(image)], check=True)
    return f"-drive {file},if=none,id={name},format=raw,cache=writeback"


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
