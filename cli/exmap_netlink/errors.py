"""What goes wrong, as OSErrors."""

import errno
import os

__all__ = ["DumpInterrupted", "FamilyAbsent", "NetlinkFailed"]


class NetlinkFailed(OSError):
    """The kernel refused a request; `errno` says why."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(code, f"{what}: {os.strerror(code)}")


class FamilyAbsent(NetlinkFailed):
    """There is no family exmap: the module is not loaded, or this is another network namespace."""

    def __init__(self) -> None:
        super().__init__(errno.ENOENT, "no netlink family exmap (is the module loaded?)")


class DumpInterrupted(NetlinkFailed):
    """Objects came or went during every attempt to list them."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EAGAIN, f"{what}: the list kept changing")
