"""Opening the file, block device or NVMe controller that backs a database, without harm to what it holds."""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exmapdb._core import ffi, lib
from exmapdb.errors import (
    BackendUnavailableError,
    DatabaseLockedError,
    DeviceInUseError,
    NotADatabaseError,
)
from libexmap import ExmapError, QueueBusy, nvme_backing

__all__ = [
    "NVME",
    "PAGE_SIZE",
    "Backing",
    "Flag",
    "Storage",
    "capacity_pages",
    "log_pages",
    "open_backing",
    "parse_size",
]

PAGE_SIZE: int = lib.EXDB_PAGE_SIZE

NVME = "nvme:"
DEFAULT_CAPACITY = 1 << 30
LOG_SHARE = 16  # of the capacity
LOG_RANGE = (1 << 20, 64 << 20)
LABEL_BYTES = 128 << 10  # where file systems and partition tables say what they are

Flag = Literal["w", "c", "n"]
UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def parse_size(size: int | str) -> int:
    """Return the bytes of 4096, "4096", "64MiB" or "1 GiB". ValueError."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]iB)?\s*", size, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{size!r} is no size: write it as 64MiB")
    return int(match[1]) * UNITS[(match[2] or "").upper()]


Storage = Literal["file", "block device", "NVMe queues"]


@dataclass(frozen=True, slots=True)
class Backing:
    """An open file or device: whoever has it closes the descriptor.

    storage: the way to it; pages: whole pages in it now; create: a new database has to be made in it.
    """

    fd: int
    path: str
    storage: Storage
    pages: int
    create: bool

    @property
    def is_device(self) -> bool:
        """Return whether its size is given."""
        return self.storage != "file"


def open_backing(path: str | os.PathLike[str], flag: Flag, force: bool) -> Backing:
    """Open `path` for direct I/O and claim it: files by flock, devices by O_EXCL.

    "nvme:" and a PCI address is a controller that is bound to exmap-nvme, whose queues the kernel drives.
    flag is that of `dbm.open`: w an existing database, c one that is made if there is none, n always
    a new one.  What is not a database is never overwritten without `force`, and a device in use never.
    Raises NotADatabaseError, DatabaseLockedError, DeviceInUseError, BackendUnavailableError (no such
    controller), FileNotFoundError and other OSErrors.
    """
    name = os.fspath(path)
    storage = _storage_of(name, flag)
    match storage:
        case "NVMe queues":
            fd = _open_controller(name)
        case "block device":
            fd = _open_device(name)
        case _:
            fd = _open_file(name, flag)
    try:
        create = _wants_create(fd, name, flag, force, storage)
        if create and storage == "file":
            os.ftruncate(fd, 0)
        return Backing(fd, name, storage, os.lseek(fd, 0, os.SEEK_END) // PAGE_SIZE, create)
    except BaseException:
        os.close(fd)
        raise


def _storage_of(name: str, flag: Flag) -> Storage:
    if name.startswith(NVME):
        return "NVMe queues"
    mode = os.stat(name).st_mode if flag == "w" or Path(name).exists() else stat.S_IFREG
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise NotADatabaseError(errno.EINVAL, "neither a regular file nor a block device", name)
    return "block device" if stat.S_ISBLK(mode) else "file"


def _open_controller(name: str) -> int:
    try:
        return nvme_backing(name.removeprefix(NVME), exclusive=True)
    except QueueBusy as error:
        raise DeviceInUseError(errno.EBUSY, "somebody else has the controller", name) from error
    except ExmapError as error:
        raise BackendUnavailableError(error.errno or errno.ENODEV, str(error), name) from error


def _open_device(name: str) -> int:
    try:
        return os.open(name, os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        message = "the device is mounted or in use: unmount it, or take another one"
        raise DeviceInUseError(errno.EBUSY, message, name) from error


def _open_file(name: str, flag: Flag) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | (0 if flag == "w" else os.O_CREAT)
    try:
        fd = os.open(name, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        # tmpfs before Linux 6.6, for one, has no direct I/O
        if error.errno != errno.EINVAL:
            raise
        fd = os.open(name, flags, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise DatabaseLockedError(
            error.errno, "the database is open elsewhere: close it there", name
        ) from error
    return fd


def _read_head(fd: int, size: int) -> bytes:
    # direct I/O wants aligned memory
    with contextlib.closing(mmap.mmap(-1, size)) as memory:
        length = os.preadv(fd, [memory], 0)
        return memory[:length]


def _wants_create(fd: int, name: str, flag: Flag, force: bool, storage: Storage) -> bool:
    # two copies of the same page, in a database
    head = _read_head(fd, 2 * PAGE_SIZE)
    copies = (head[at : at + PAGE_SIZE] for at in range(0, len(head), PAGE_SIZE))
    if any(len(copy) == PAGE_SIZE and lib.exdb_probe(ffi.from_buffer(copy)) for copy in copies):
        return flag == "n"
    if flag == "w":
        raise NotADatabaseError(errno.EINVAL, "no database of exmapdb", name)
    if head and not force:
        if storage == "block device":
            _refuse_signatures(name)
        elif storage == "NVMe queues":
            # there is no block device that blkid could look at
            if any(_read_head(fd, LABEL_BYTES)):
                raise DeviceInUseError(errno.EEXIST, "the disk is not empty: use force", name)
        else:
            message = "the file holds something else: remove it, or use force"
            raise NotADatabaseError(errno.EEXIST, message, name)
    return True


def _refuse_signatures(name: str) -> None:
    """Raise DeviceInUseError unless blkid finds nothing on the device."""
    blkid = shutil.which("blkid", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if blkid is None:
        raise DeviceInUseError(errno.EEXIST, "no blkid to look for file systems: use force", name)
    done = subprocess.run([blkid, "--probe", name], capture_output=True, text=True, check=False)
    # 2: nothing found; 0: found; 8: more than one thing found
    if done.returncode != 2:
        found = done.stdout.partition(": ")[2].strip() or done.stderr.strip() or "something"
        message = f"the device holds {found}: take another one, or use force"
        raise DeviceInUseError(errno.EEXIST, message, name)


def capacity_pages(backing: Backing, pool: int, capacity: int | str | None) -> int:
    """Return how many pages the trees may grow to. ValueError."""
    if capacity is not None:
        wanted = max(parse_size(capacity) // PAGE_SIZE, pool)
        return min(wanted, backing.pages) if backing.is_device else max(wanted, backing.pages)
    if backing.is_device:
        return backing.pages
    return max(DEFAULT_CAPACITY // PAGE_SIZE, 4 * pool, 2 * backing.pages)


def log_pages(log: int | str | None, capacity: int) -> int:
    """Return the pages of a new log. ValueError."""
    if log is None:
        low, high = LOG_RANGE
        return min(max(capacity * PAGE_SIZE // LOG_SHARE, low), high) // PAGE_SIZE
    pages = parse_size(log) // PAGE_SIZE
    if pages < lib.EXDB_LOG_MIN:
        raise ValueError(f"a log has at least {lib.EXDB_LOG_MIN * PAGE_SIZE >> 10}KiB")
    return pages
