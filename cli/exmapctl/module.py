"""Find, check, load and unload the kernel module."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exmapctl import __version__
from exmapctl.errors import (
    CommandFailedError,
    ModuleAbsentError,
    ModuleInUseError,
    ModuleLoadedError,
    ModuleMismatchError,
    ModuleNotLoadedError,
    NotRootError,
)
from exmapctl.machine import Machine
from exmapctl.users import find_users

__all__ = [
    "GROUP",
    "LoadedModule",
    "build_command",
    "find_module",
    "install_rule",
    "load",
    "source_directory",
    "source_version",
    "unload",
]

GROUP = "exmap"
RULES_DIRECTORY = "/etc/udev/rules.d"
PROJECT = Path(__file__).resolve().parents[2]
INSTALLED_SOURCES = Path(__file__).resolve().parents[1] / "exmap_kmod"


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """What `load` did."""

    path: str
    vermagic: str
    rule: str | None


def run(command: Sequence[str]) -> str:
    """Run a program of the system and return its output.

    Raises CommandFailedError with the last line that it complained.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise CommandFailedError(
            f"{command[0]} is not installed (on Debian: apt install kmod udev)"
        ) from error
    except subprocess.CalledProcessError as error:
        complaint = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise CommandFailedError(f"{' '.join(command)}: {complaint}") from error
    return done.stdout.strip()


def require_root(what: str) -> None:
    """Raise NotRootError unless we are root."""
    if os.geteuid() != 0:
        raise NotRootError(what)


def candidates(machine: Machine, project: Path) -> Iterator[Path]:
    """Walk over the places where a module for this kernel may be, best first."""
    yield project / "build" / f"kmod-{machine.release}" / "exmap.ko"
    yield project / "kmod" / "exmap.ko"
    installed = machine.path(f"/lib/modules/{machine.release}")
    for directory in ("updates", "extra"):
        yield from sorted(installed.glob(f"{directory}/**/exmap.ko*"))


def source_directory(project: Path = PROJECT) -> Path:
    """Return where the module's sources are: in the tree, or installed beside this package."""
    tree = project / "kmod"
    return INSTALLED_SOURCES if INSTALLED_SOURCES.is_dir() and not tree.is_dir() else tree


def build_command(release: str, project: Path = PROJECT) -> str:
    """Return the command that builds the module for a kernel.

    Sources that pip has installed are left alone: dkms copies them, and builds for later kernels too.
    """
    sources = source_directory(project)
    if sources == INSTALLED_SOURCES:
        return f"dkms add {sources} && dkms install exmap/{__version__} -k {release}"
    return f"make -C kmod KERNEL={release}"


def find_module(machine: Machine, project: Path = PROJECT) -> Path:
    """Find a module that was built for the running kernel.

    Raises ModuleAbsentError, or ModuleMismatchError if there are only others.
    """
    mismatch: ModuleMismatchError | None = None
    for path in candidates(machine, project):
        if not path.exists():
            continue
        try:
            check_module(machine, path)
        except ModuleMismatchError as error:
            mismatch = mismatch or error
        else:
            return path
    raise mismatch or ModuleAbsentError(machine.release, build_command(machine.release, project))


def check_module(machine: Machine, path: Path) -> str:
    """Return the vermagic of a module that fits the running kernel.

    Raises ModuleMismatchError if it is another module or another kernel's.
    """
    if not path.exists():
        raise ModuleMismatchError(f"{path}: no such file")
    try:
        name, vermagic = (run(["modinfo", "-F", field, str(path)]) for field in ("name", "vermagic"))
    except CommandFailedError as error:
        raise ModuleMismatchError(f"{path} is no kernel module: {error}") from error
    if name != "exmap":
        raise ModuleMismatchError(f"{path} is the module '{name}', not exmap")
    if vermagic.split(" ")[0] != machine.release:
        raise ModuleMismatchError(
            f"{path} was built for kernel {vermagic.split(' ')[0]}, this is {machine.release}: "
            f"build it with '{build_command(machine.release)}'"
        )
    return vermagic


def source_version(path: Path) -> str:
    """Return what tells builds of different sources apart."""
    return run(["modinfo", "-F", "srcversion", str(path)])


def load(machine: Machine, path: Path | None, parameters: Sequence[str], with_rule: bool) -> LoadedModule:
    """Check a module and insert it; with `with_rule` first create the group and install the udev rule."""
    if machine.module_loaded:
        raise ModuleLoadedError
    path = path or find_module(machine)
    vermagic = check_module(machine, path)
    require_root("load")
    rule = install_rule(machine) if with_rule else None
    run(["insmod", str(path), *parameters])
    return LoadedModule(str(path), vermagic, rule)


def install_rule(machine: Machine, project: Path = PROJECT) -> str:
    """Create the group exmap and install the shipped udev rule; return the rule's path."""
    sources = source_directory(project)
    rules = sorted(sources.glob("*.rules"))
    if not rules:
        raise CommandFailedError(f"no udev rule in {sources}: install from a source tree")
    run(["groupadd", "--system", "--force", GROUP])
    directory = machine.path(RULES_DIRECTORY)
    directory.mkdir(parents=True, exist_ok=True)
    target = Path(shutil.copy(rules[0], directory))
    run(["udevadm", "control", "--reload"])
    return str(target)


def unload(machine: Machine) -> None:
    """Take the module out.

    Raises ModuleInUseError naming the processes that hold it.
    """
    if not machine.module_loaded:
        raise ModuleNotLoadedError
    require_root("unload")
    users = find_users(machine)
    if users:
        names = ", ".join(f"{user.name} ({user.pid})" for user in users)
        raise ModuleInUseError(f"exmap is in use by {names}: end them first")
    run(["rmmod", "exmap"])
