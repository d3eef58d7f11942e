"""The machine under our feet, as /proc and /sys describe it."""

import grp
import os
import resource
from pathlib import Path
from typing import NamedTuple

__all__ = ["CAP_IPC_LOCK", "CAP_SYS_RAWIO", "Machine"]

# linux/capability.h
CAP_IPC_LOCK = 14
CAP_SYS_RAWIO = 17


class Machine(NamedTuple):
    """A root directory with /proc, /sys, /dev and /lib below it, and its kernel's release."""

    root: Path
    release: str

    @classmethod
    def here(cls) -> "Machine":
        """Describe the running machine."""
        return cls(Path("/"), os.uname().release)

    def path(self, name: str) -> Path:
        """Find an absolute path below the root."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Read a small file, stripped; empty if it is not there or not ours to read."""
        try:
            return self.path(name).read_text(errors="replace").strip()
        except OSError:
            return ""

    @property
    def module_loaded(self) -> bool:
        """Tell whether exmap is live in the kernel."""
        return self.path("/sys/module/exmap/initstate").exists()

    def has_capability(self, number: int) -> bool:
        """Tell whether this process has a capability in effect."""
        for line in self.read("/proc/self/status").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
        return False

    @staticmethod
    def memlock_bytes() -> int:
        """Return the soft RLIMIT_MEMLOCK in bytes, -1 if unlimited."""
        return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]

    @staticmethod
    def group_names() -> frozenset[str]:
        """Name the groups that this process is in."""
        names = set()
        for gid in {os.getegid(), *os.getgroups()}:
            try:
                names.add(grp.getgrgid(gid).gr_name)
            except KeyError:
                continue
        return frozenset(names)
