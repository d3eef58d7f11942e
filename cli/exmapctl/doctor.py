"""Checks of this machine, each with the command that mends what is wrong."""

import grp
import pwd
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exmapctl.errors import ExmapctlError
from exmapctl.machine import CAP_IPC_LOCK, CAP_SYS_RAWIO, Machine
from exmapctl.module import GROUP, PROJECT, build_command, find_module, source_version

__all__ = ["CHECKS", "SUPPORTED_SERIES", "Check", "examine"]

SUPPORTED_SERIES = ("6.1", "6.12", "7.2")
ADVISED_MEMLOCK = 1 << 30
DEVICE = "/dev/exmap"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `status` is ok, warn or fail; `fix` is what mends it, empty if nothing need be done."""

    check: str
    status: str
    detail: str
    fix: str = ""


def examine(machine: Machine, project: Path = PROJECT) -> list[Check]:
    """Run all checks."""
    return [check(machine, project) for check in CHECKS]


def check_kernel(machine: Machine, project: Path) -> Check:
    """Compare the kernel's version with the supported series."""
    series = ".".join(machine.release.split("-")[0].split(".")[:2])
    if series in SUPPORTED_SERIES:
        return Check("kernel", "ok", f"{machine.release} (series {series})")
    detail = f"{machine.release} is not in the matrix: tested series are {', '.join(SUPPORTED_SERIES)}"
    return Check("kernel", "warn", detail, "apt install linux-image-amd64")


def check_xen(machine: Machine, project: Path) -> Check:
    """Refuse Xen PV: raw page-table writes bypass its hypervisor."""
    if machine.read("/sys/hypervisor/type") == "xen" and machine.read("/sys/hypervisor/guest_type") == "PV":
        return Check(
            "xen", "fail", "a Xen PV guest: the module refuses to load", "boot as a PVH or HVM guest"
        )
    return Check("xen", "ok", "no Xen PV guest")


def check_headers(machine: Machine, project: Path) -> Check:
    """Look for the headers that a build of the module needs."""
    if machine.path(f"/lib/modules/{machine.release}/build").exists():
        return Check("headers", "ok", f"/lib/modules/{machine.release}/build")
    fix = f"apt install linux-headers-{machine.release}"
    return Check("headers", "warn", "none for this kernel: the module cannot be built here", fix)


def check_module_built(machine: Machine, project: Path) -> Check:
    """Look for a module that fits the kernel."""
    try:
        return Check("built", "ok", str(find_module(machine, project)))
    except ExmapctlError as error:
        status = "warn" if machine.module_loaded else "fail"
        return Check("built", status, str(error), build_command(machine.release, project))


def check_module_current(machine: Machine, project: Path) -> Check:
    """Compare the module in the kernel with the one that `load` would take."""
    loaded = machine.read("/sys/module/exmap/srcversion")
    if not loaded:
        return Check("current", "ok", "no module to compare")
    try:
        path = find_module(machine, project)
        built = source_version(path)
    except ExmapctlError:
        return Check("current", "ok", "no built module to compare with")
    if built == loaded:
        return Check("current", "ok", f"the loaded module is {path}")
    return Check("current", "warn", f"the loaded module is not {path}", "exmapctl unload && exmapctl load")


def check_module_loaded(machine: Machine, project: Path) -> Check:
    """Look whether the module is live."""
    if machine.module_loaded:
        return Check("loaded", "ok", machine.read("/sys/module/exmap/version") or "yes")
    return Check("loaded", "fail", "exmap is not in the kernel", "exmapctl load")


def check_device(machine: Machine, project: Path) -> Check:
    """Check owner, group and mode of the device."""
    try:
        found = machine.path(DEVICE).stat()
    except OSError:
        return Check("device", "fail", f"no {DEVICE}", "exmapctl load")
    mode = stat.S_IMODE(found.st_mode)
    owner = f"{owner_name(found.st_uid)}:{group_name(found.st_gid)}"
    detail = f"{DEVICE} is {owner} {mode:04o}"
    if mode & 0o007:
        return Check("device", "fail", f"{detail}: open to everybody", f"chmod 0660 {DEVICE}")
    if owner != f"root:{GROUP}" or mode != 0o660:
        fix = f"exmapctl unload && exmapctl load --install-rule (or: chown root:{GROUP} {DEVICE})"
        return Check("device", "warn", f"{detail}, should be root:{GROUP} 0660", fix)
    return Check("device", "ok", detail)


def owner_name(uid: int) -> str:
    """Name a user, or give the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Name a group, or give the number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def check_rule(machine: Machine, project: Path) -> Check:
    """Look for the udev rule that gives the device its group."""
    for directory in ("/etc/udev/rules.d", "/lib/udev/rules.d", "/usr/lib/udev/rules.d"):
        for rule in machine.path(directory).glob("*exmap*.rules"):
            return Check("udev rule", "ok", str(rule))
    return Check(
        "udev rule", "warn", "not installed: only root may use exmap", "exmapctl load --install-rule"
    )


def check_group_exists(machine: Machine, project: Path) -> Check:
    """Look for the group that the udev rule gives the device to."""
    groups = [line.split(":")[0] for line in machine.read("/etc/group").splitlines()]
    if GROUP in groups:
        return Check("group exists", "ok", f"there is a group {GROUP}")
    detail = f"no group {GROUP}: the udev rule has no effect"
    return Check("group exists", "warn", detail, f"groupadd --system {GROUP}")


def check_group(machine: Machine, project: Path) -> Check:
    """Check that this process is in the group exmap."""
    if GROUP in machine.group_names():
        return Check("group", "ok", f"this process is in the group {GROUP}")
    return Check(
        "group",
        "warn",
        f"this process is not in the group {GROUP}",
        f"usermod -aG {GROUP} $USER, then log in again",
    )


def check_memlock(machine: Machine, project: Path) -> Check:
    """Check that a pool of 1 GiB would fit into RLIMIT_MEMLOCK."""
    limit = machine.memlock_bytes()
    if limit < 0 or machine.has_capability(CAP_IPC_LOCK):
        return Check(
            "memlock", "ok", "pools of any size" if limit < 0 else "CAP_IPC_LOCK: the limit does not apply"
        )
    detail = f"RLIMIT_MEMLOCK is {limit >> 10} KiB: larger pools are refused"
    if limit >= ADVISED_MEMLOCK:
        return Check("memlock", "ok", detail)
    return Check(
        "memlock", "warn", detail, f"echo '@{GROUP} - memlock unlimited' >/etc/security/limits.d/exmap.conf"
    )


def check_rawio(machine: Machine, project: Path) -> Check:
    """Check the capability that the page-table export needs."""
    if machine.has_capability(CAP_SYS_RAWIO):
        return Check("rawio", "ok", "CAP_SYS_RAWIO: the page-table export is allowed")
    return Check("rawio", "warn", "no CAP_SYS_RAWIO: no page-table export", "run as root, if you need it")


def check_iommu(machine: Machine, project: Path) -> Check:
    """Look for an IOMMU, which only direct access to devices needs."""
    groups = machine.path("/sys/kernel/iommu_groups")
    count = sum(1 for _ in groups.iterdir()) if groups.is_dir() else 0
    if count:
        return Check("iommu", "ok", f"{count} groups")
    fix = (
        """sed -i 's/^GRUB_CMDLINE_LINUX="/&intel_iommu=on amd_iommu=on /' /etc/default/grub"""
        " && update-grub && reboot"
    )
    return Check("iommu", "warn", "none: fine for mapping, not for owning NVMe devices", fix)


CHECKS: tuple[Callable[[Machine, Path], Check], ...] = (
    check_kernel,
    check_xen,
    check_headers,
    check_module_built,
    check_module_loaded,
    check_module_current,
    check_device,
    check_rule,
    check_group_exists,
    check_group,
    check_memlock,
    check_rawio,
    check_iommu,
)
