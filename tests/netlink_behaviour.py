"""What several tests of the netlink family need."""

import contextlib
import errno
import fcntl
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["DEVICE", "SnapshotRegion", "as_user", "device_of"]

DEVICE = Path("/dev/exmap")
NOBODY = 65534
PAGE = mmap.PAGESIZE
FAULT_ALLOC, SNAPSHOTS = 2, 16
IOCTL_SETUP, IOCTL_SNAPSHOT = 0x40186B01, 0x40406B16


class SnapshotRegion:
    """A region with snapshots, whose pages come by touching them."""

    def __init__(self, pages: int, pool: int) -> None:
        self.pages = pages
        self.fd = os.open(DEVICE, os.O_RDWR)
        fcntl.ioctl(self.fd, IOCTL_SETUP, struct.pack("=iiQQ", -1, 1, pool, FAULT_ALLOC | SNAPSHOTS))
        self.memory = mmap.mmap(self.fd, pages * PAGE, mmap.MAP_SHARED)

    def write(self, count: int) -> None:
        for page in range(count):
            self.memory[page * PAGE] = 1

    def snapshot(self, reserve: int = 0) -> int:
        wanted = bytearray(struct.pack("=QQQQ32x", 0, 0, self.pages, reserve))
        return fcntl.ioctl(self.fd, IOCTL_SNAPSHOT, wanted)

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


@contextlib.contextmanager
def device_of(group: int) -> Iterator[None]:
    os.chown(DEVICE, 0, group)
    try:
        yield
    finally:
        os.chown(DEVICE, 0, 0)


def as_user(groups: list[int], ask: Callable[[], Any]) -> Any:
    """What a function returns, or the errno of its OSError, when nobody, in these groups, runs it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer: Any = "failed"
        with contextlib.suppress(BaseException):
            os.setgroups(groups)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                answer = ask()
            except OSError as error:
                answer = errno.errorcode[error.errno or 0]
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as results:
        answer = json.loads(results.read())
    os.waitpid(child, 0)
    return answer
