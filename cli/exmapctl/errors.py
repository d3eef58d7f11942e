"""What can go wrong, each in one line that says what to do next."""

import sys
from typing import NoReturn

__all__ = [
    "BenchFailedError",
    "CommandFailedError",
    "ControllerAbsentError",
    "ControllerInUseError",
    "ExmapctlError",
    "MissingExtraError",
    "ModuleAbsentError",
    "ModuleInUseError",
    "ModuleLoadedError",
    "ModuleMismatchError",
    "ModuleNotLoadedError",
    "NotPermittedError",
    "NotRootError",
    "complain",
]


class ExmapctlError(Exception):
    """Base of all errors that the command line reports; `exit_code` is its exit code."""

    exit_code = 1


class NotRootError(ExmapctlError):
    """The command changes the system and needs root."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs root: run it with sudo")


class NotPermittedError(ExmapctlError):
    """Others' regions are not shown to everyone."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs membership of the group of /dev/exmap, or root")


class ModuleAbsentError(ExmapctlError):
    """No exmap.ko was found for the running kernel."""

    def __init__(self, release: str, build: str) -> None:
        super().__init__(f"no exmap.ko for kernel {release}: build it with '{build}' or name it")


class ModuleMismatchError(ExmapctlError):
    """The module was built for another kernel, or is no exmap module."""


class ModuleLoadedError(ExmapctlError):
    """The module is in the kernel already."""

    def __init__(self) -> None:
        super().__init__("exmap is loaded already: 'exmapctl unload' takes it out")


class ModuleNotLoadedError(ExmapctlError):
    """The module is not in the kernel."""

    def __init__(self) -> None:
        super().__init__("exmap is not loaded: 'exmapctl load' does it")


class ModuleInUseError(ExmapctlError):
    """Processes still use the module."""


class CommandFailedError(ExmapctlError):
    """A program of the system failed."""


class ControllerAbsentError(ExmapctlError):
    """There is no such NVMe controller."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is no NVMe controller of this machine: 'exmapctl nvme list' shows them")


class ControllerInUseError(ExmapctlError):
    """Somebody uses a controller's disk, or has left something on it."""

    def __init__(self, address: str, obstacles: list[str]) -> None:
        super().__init__(f"{address}: {'; '.join(obstacles)}. --force takes it all the same")


class MissingExtraError(ExmapctlError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'exmap[{extra}]'")


class BenchFailedError(ExmapctlError):
    """A bench could not be run, or what it measured cannot be trusted."""


def complain(message: str, code: int) -> NoReturn:
    """Print one line on stderr and exit."""
    print(f"exmapctl: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
