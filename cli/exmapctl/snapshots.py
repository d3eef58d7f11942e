"""Snapshots of other processes: find who holds them, borrow their descriptors, and compare two.

A snapshot is a descriptor of the process that took it. pidfd_getfd makes another one of it, for whoever may
trace that process: root, as a rule.
"""

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from fcntl import ioctl
from typing import NamedTuple

from exmapctl.errors import CommandFailedError, NotRootError
from exmapctl.machine import Machine
from exmapctl.users import processes

__all__ = ["Borrowed", "Difference", "borrow", "compare"]

# uapi/exmap.h
IOCTL_SNAPSHOT_INFO = 0xC0586B17
INFO = struct.Struct("=8xQQQQIIII32x")
IOCTL_SNAPSHOT_DIFF = 0x40286B19
DIFF = struct.Struct("=QiIQQQ")
LINK = "[exmap-snapshot]"
# asm/unistd_64.h
SYS_PIDFD_GETFD = 438


class Borrowed(NamedTuple):
    """A snapshot that another process holds, through a descriptor of ours."""

    fd: int
    pid: int
    snapshot: int
    region: int
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    broken: bool


class Difference(NamedTuple):
    """Where two snapshots differ: runs of (first page, number of pages), within the range that both cover."""

    older: int
    newer: int
    region: int
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    changed: int
    runs: list[tuple[int, int]]


def copy_descriptor(pid: int, fd: int) -> int:
    """Make a descriptor of ours of another process's."""
    pidfd = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        copy = int(libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0))
    finally:
        os.close(pidfd)
    if copy < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return copy


def look_at(pid: int, fd: int) -> Borrowed:
    """Copy a descriptor and ask what it is.

    Raises OSError, ENOTTY if it is no snapshot.
    """
    copy = copy_descriptor(pid, fd)
    try:
        info = bytearray(INFO.size)
        ioctl(copy, IOCTL_SNAPSHOT_INFO, info)
    except BaseException:
        os.close(copy)
        raise
    start, count, _, _, snapshot, region, broken, _ = INFO.unpack(info)
    return Borrowed(copy, pid, snapshot, region, start, count, bool(broken))


def holders(machine: Machine) -> Iterator[tuple[int, int]]:
    """Walk over the processes and descriptors that are snapshots."""
    for process in processes(machine):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if LINK in str(descriptor.readlink()):
                        yield int(process.name), int(descriptor.name)


def find(number: int) -> Borrowed:
    """Find a snapshot by its id, in whatever process holds a descriptor of it."""
    for pid, fd in holders(Machine.here()):
        try:
            found = look_at(pid, fd)
        except (ProcessLookupError, OSError) as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise NotRootError("snapshot diff") from error
            continue
        if found.snapshot == number:
            return found
        os.close(found.fd)
    hint = "" if os.geteuid() == 0 else " that you may look into"
    raise CommandFailedError(f"no process{hint} holds a descriptor of snapshot {number}: see 'snapshot list'")


@contextlib.contextmanager
def borrow(name: str) -> Iterator[Borrowed]:
    """Borrow a snapshot by its id, or as PID:FD.

    Raises NotRootError, CommandFailedError.
    """
    pid, colon, fd = name.partition(":")
    try:
        found = look_at(int(pid), int(fd)) if colon else find(int(pid))
    except ValueError as error:
        raise CommandFailedError(f"{name} is neither the id of a snapshot nor PID:FD") from error
    except PermissionError as error:
        raise NotRootError("snapshot diff") from error
    except OSError as error:
        reason = "no snapshot" if error.errno == errno.ENOTTY else error.strerror
        raise CommandFailedError(f"{name}: {reason}") from error
    try:
        yield found
    finally:
        os.close(found.fd)


def runs_of(bitmap: bytes, start: int, count: int) -> list[tuple[int, int]]:
    """Find the runs of set bits, as (first page, number of pages)."""
    runs: list[tuple[int, int]] = []
    for page in range(count):
        if page % 8 == 0 and not bitmap[page // 8]:
            continue
        if bitmap[page // 8] >> page % 8 & 1:
            if runs and sum(runs[-1]) == start + page:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((start + page, 1))
    return runs


def compare(one: Borrowed, other: Borrowed) -> Difference:
    """Compare two snapshots over the pages that both cover.

    Raises CommandFailedError: other regions, nothing in common, or content of one is lost.
    """
    older, newer = sorted((one, other), key=lambda snapshot: snapshot.snapshot)
    start = max(one.start, other.start)
    count = min(one.start + one.count, other.start + other.count) - start
    if one.region != other.region:
        raise CommandFailedError(f"snapshots of different regions: {one.region} and {other.region}")
    if count <= 0:
        raise CommandFailedError("the snapshots have no page in common")
    bitmap = bytearray(-(-count // 8))
    buffer = (ctypes.c_char * len(bitmap)).from_buffer(bitmap)
    request = DIFF.pack(0, newer.fd, 0, start, count, ctypes.addressof(buffer))
    try:
        ioctl(older.fd, IOCTL_SNAPSHOT_DIFF, request)
    except OSError as error:
        reason = "content of one is lost" if error.errno == errno.ENODATA else error.strerror
        raise CommandFailedError(f"snapshot diff: {reason}") from error
    runs = runs_of(bytes(bitmap), start, count)
    changed = sum(length for _, length in runs)
    return Difference(older.snapshot, newer.snapshot, one.region, start, count, changed, runs)
