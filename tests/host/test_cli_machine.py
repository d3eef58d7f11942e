"""doctor, users and the search for a module, on machines that are made of files."""

from pathlib import Path

import kernels
import pytest
from exmapctl import doctor, module
from exmapctl.errors import (
    ModuleAbsentError,
    ModuleInUseError,
    ModuleLoadedError,
    ModuleMismatchError,
    ModuleNotLoadedError,
)
from exmapctl.machine import CAP_IPC_LOCK, CAP_SYS_RAWIO, Machine
from exmapctl.status import read_status, status_rows
from exmapctl.users import User, find_users

RELEASE = "6.12.95+deb12-amd64"


def put(root: Path, name: str, text: str = "") -> Path:
    """Write a file below a root."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def status_of(name: str, root: Path, release: str = RELEASE) -> doctor.Check:
    """Run all checks and pick one."""
    found = {check.check: check for check in doctor.examine(Machine(root, release), root)}
    return found[name]


@pytest.fixture
def modinfo(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace programs: modinfo answers with the file's two lines; all calls are noted."""
    calls: list[list[str]] = []

    def run(command: list[str]) -> str:
        calls.append(list(command))
        if command[0] != "modinfo":
            return ""
        fields = ("name", "vermagic", "srcversion")
        return dict(zip(fields, Path(command[3]).read_text().split("\n"), strict=False))[command[2]]

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "require_root", lambda what: None)
    return calls


@pytest.mark.parametrize(
    ("release", "status"),
    [(RELEASE, "ok"), ("6.1.0-56-amd64", "ok"), ("6.10.3-1-amd64", "warn"), ("5.10.0-8-amd64", "warn")],
)
def test_doctor_knows_the_supported_kernels(tmp_path: Path, release: str, status: str) -> None:
    assert status_of("kernel", tmp_path, release).status == status


def test_doctor_refuses_xen_pv(tmp_path: Path) -> None:
    put(tmp_path, "sys/hypervisor/type", "xen\n")
    put(tmp_path, "sys/hypervisor/guest_type", "PV\n")
    assert status_of("xen", tmp_path).status == "fail"


def test_doctor_accepts_other_xen_guests(tmp_path: Path) -> None:
    put(tmp_path, "sys/hypervisor/type", "xen\n")
    put(tmp_path, "sys/hypervisor/guest_type", "PVH\n")
    assert status_of("xen", tmp_path).status == "ok"


def test_doctor_names_the_missing_headers(tmp_path: Path) -> None:
    assert status_of("headers", tmp_path).fix == f"apt install linux-headers-{RELEASE}"


def test_doctor_fails_without_a_module(tmp_path: Path) -> None:
    assert [status_of(name, tmp_path).status for name in ("built", "loaded", "device")] == ["fail"] * 3


@pytest.mark.parametrize("mode", [0o661, 0o662, 0o664, 0o666])
def test_doctor_fails_for_a_device_that_is_open_to_everybody(tmp_path: Path, mode: int) -> None:
    put(tmp_path, "dev/exmap").chmod(mode)
    assert status_of("device", tmp_path).status == "fail"


def test_doctor_warns_of_a_device_of_the_wrong_group(tmp_path: Path) -> None:
    put(tmp_path, "dev/exmap").chmod(0o660)
    check = status_of("device", tmp_path)
    assert check.status == "warn"
    assert "--install-rule" in check.fix


@pytest.mark.parametrize(("capabilities", "status"), [(0, "warn"), (1 << CAP_SYS_RAWIO, "ok")])
def test_doctor_reads_capabilities(tmp_path: Path, capabilities: int, status: str) -> None:
    put(tmp_path, "proc/self/status", f"Name:\tx\nCapEff:\t{capabilities:016x}\n")
    assert status_of("rawio", tmp_path).status == status


@pytest.mark.parametrize(
    ("limit", "capabilities", "status"),
    [(-1, 0, "ok"), (1 << 30, 0, "ok"), (8 << 20, 0, "warn"), (8 << 20, 1 << CAP_IPC_LOCK, "ok")],
)
def test_doctor_weighs_memlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, capabilities: int, status: str
) -> None:
    put(tmp_path, "proc/self/status", f"CapEff:\t{capabilities:016x}\n")
    monkeypatch.setattr(Machine, "memlock_bytes", staticmethod(lambda: limit))
    assert status_of("memlock", tmp_path).status == status


def test_doctor_counts_iommu_groups(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel/iommu_groups/0").mkdir(parents=True)
    assert status_of("iommu", tmp_path).status == "ok"


def test_doctor_gives_a_fix_for_all_that_is_not_ok(tmp_path: Path) -> None:
    checks = doctor.examine(Machine(tmp_path, "5.10.0"), tmp_path)
    assert [check.check for check in checks if check.status != "ok" and not check.fix] == []


def test_the_supported_kernels_are_those_of_the_matrix() -> None:
    packaged = [name for name, entry in kernels.matrix().items() if "variant" not in entry]
    assert packaged == list(doctor.SUPPORTED_SERIES)


def test_doctor_says_how_to_build_for_this_kernel(tmp_path: Path, modinfo: list[list[str]]) -> None:
    put(tmp_path, "kmod/exmap.ko", "exmap\n6.1.0-56-amd64 SMP\n")
    found = status_of("built", tmp_path)
    assert (found.status, found.fix) == ("fail", f"make -C kmod KERNEL={RELEASE}")
    assert "built for kernel 6.1.0-56-amd64" in found.detail


@pytest.mark.parametrize(("built", "status"), [("ABC", "ok"), ("DEF", "warn")])
def test_doctor_notices_that_an_older_build_is_loaded(
    tmp_path: Path, modinfo: list[list[str]], built: str, status: str
) -> None:
    put(tmp_path, "sys/module/exmap/srcversion", "ABC\n")
    put(tmp_path, "kmod/exmap.ko", f"exmap\n{RELEASE} SMP\n{built}\n")
    found = status_of("current", tmp_path)
    assert (found.status, "exmapctl load" in found.fix) == (status, status == "warn")


def test_doctor_looks_for_the_group(tmp_path: Path) -> None:
    assert status_of("group exists", tmp_path).fix == "groupadd --system exmap"
    put(tmp_path, "etc/group", "root:x:0:\nexmap:x:999:\n")
    assert status_of("group exists", tmp_path).status == "ok"


def test_doctor_looks_for_the_rule(tmp_path: Path) -> None:
    assert status_of("udev rule", tmp_path).fix == "exmapctl load --install-rule"
    put(tmp_path, "etc/udev/rules.d/60-exmap.rules", "")
    assert status_of("udev rule", tmp_path).status == "ok"


def test_a_module_for_the_running_kernel_is_preferred(tmp_path: Path, modinfo: list[list[str]]) -> None:
    put(tmp_path, "kmod/exmap.ko", "exmap\n6.1.0-56-amd64 SMP\n")
    fitting = put(tmp_path, f"lib/modules/{RELEASE}/updates/dkms/exmap.ko.xz", f"exmap\n{RELEASE} SMP\n")
    assert module.find_module(Machine(tmp_path, RELEASE), tmp_path) == fitting


def test_the_build_directory_of_the_kernel_is_searched(tmp_path: Path, modinfo: list[list[str]]) -> None:
    built = put(tmp_path, f"build/kmod-{RELEASE}/exmap.ko", f"exmap\n{RELEASE} SMP\n")
    assert module.find_module(Machine(tmp_path, RELEASE), tmp_path) == built


def test_no_module_is_an_error(tmp_path: Path, modinfo: list[list[str]]) -> None:
    with pytest.raises(ModuleAbsentError, match=r"make -C kmod"):
        module.find_module(Machine(tmp_path, RELEASE), tmp_path)


def test_a_module_of_another_kernel_is_refused(tmp_path: Path, modinfo: list[list[str]]) -> None:
    other = put(tmp_path, "kmod/exmap.ko", "exmap\n6.1.0-56-amd64 SMP\n")
    with pytest.raises(ModuleMismatchError, match=r"built for kernel 6\.1\.0-56-amd64"):
        module.load(Machine(tmp_path, RELEASE), other, (), with_rule=False)
    assert not [call for call in modinfo if call[0] == "insmod"]


def test_a_module_of_another_name_is_refused(tmp_path: Path, modinfo: list[list[str]]) -> None:
    other = put(tmp_path, "other.ko", f"other\n{RELEASE} SMP\n")
    with pytest.raises(ModuleMismatchError, match="not exmap"):
        module.load(Machine(tmp_path, RELEASE), other, (), with_rule=False)


def test_load_passes_parameters_on(tmp_path: Path, modinfo: list[list[str]]) -> None:
    path = put(tmp_path, "exmap.ko", f"exmap\n{RELEASE} SMP\n")
    module.load(Machine(tmp_path, RELEASE), path, ["flush_threshold=4096"], with_rule=False)
    assert modinfo[-1] == ["insmod", str(path), "flush_threshold=4096"]


def test_load_refuses_a_second_time(tmp_path: Path, modinfo: list[list[str]]) -> None:
    put(tmp_path, "sys/module/exmap/initstate", "live\n")
    with pytest.raises(ModuleLoadedError):
        module.load(Machine(tmp_path, RELEASE), None, (), with_rule=False)


def test_the_rule_is_installed_with_its_group(tmp_path: Path, modinfo: list[list[str]]) -> None:
    put(tmp_path, "kmod/60-exmap.rules", 'KERNEL=="exmap"\n')
    target = module.install_rule(Machine(tmp_path, RELEASE), tmp_path)
    assert Path(target) == tmp_path / "etc/udev/rules.d/60-exmap.rules"
    assert Path(target).read_text() == 'KERNEL=="exmap"\n'
    assert [call[0] for call in modinfo] == ["groupadd", "udevadm"]


def hold_device(root: Path, pid: int) -> None:
    """Let a process have one descriptor and two mappings of the device."""
    put(root, f"proc/{pid}/comm", "db\n")
    put(
        root,
        f"proc/{pid}/maps",
        "1-2 rw-s 0 0:6 1 /dev/exmap\n2-3 r--s 0 0:6 1 /dev/exmap\n3-4 r-xp 0 0:6 2 /bin/x\n",
    )
    (root / f"proc/{pid}/fd").mkdir()
    (root / f"proc/{pid}/fd/3").symlink_to("/dev/exmap")
    (root / f"proc/{pid}/fd/4").symlink_to("/dev/null")


def test_users_are_found_by_descriptors_and_mappings(tmp_path: Path) -> None:
    hold_device(tmp_path, 42)
    put(tmp_path, "proc/7/comm", "idle\n")
    put(tmp_path, "proc/uptime", "1\n")
    assert find_users(Machine(tmp_path, RELEASE)) == [User(42, "db", 1, 2)]


def test_unload_names_the_users(tmp_path: Path, modinfo: list[list[str]]) -> None:
    put(tmp_path, "sys/module/exmap/initstate", "live\n")
    hold_device(tmp_path, 42)
    with pytest.raises(ModuleInUseError, match=r"db \(42\)"):
        module.unload(Machine(tmp_path, RELEASE))
    assert not modinfo


def test_unload_of_an_absent_module_is_an_error(tmp_path: Path, modinfo: list[list[str]]) -> None:
    with pytest.raises(ModuleNotLoadedError):
        module.unload(Machine(tmp_path, RELEASE))


def test_status_reads_what_the_kernel_shows(tmp_path: Path) -> None:
    put(tmp_path, "sys/module/exmap/initstate", "live\n")
    put(tmp_path, "sys/module/exmap/version", "0.1.0\n")
    put(tmp_path, "sys/module/exmap/refcnt", "3\n")
    put(tmp_path, "sys/module/exmap/parameters/flush_threshold", "8192\n")
    for name in ("0000:00:05.0", "0000:00:04.0", "bind", "module"):
        put(tmp_path, f"sys/bus/pci/drivers/exmap-nvme/{name}")
    hold_device(tmp_path, 42)
    status = read_status(Machine(tmp_path, RELEASE))
    assert status.kernel == RELEASE
    assert status.devices == ["0000:00:04.0", "0000:00:05.0"]
    shown = dict(status_rows(status))
    assert (shown["kernel"], shown["version"]) == (RELEASE, "0.1.0")
    assert {"device 0000:00:04.0", "user 42", "parameter flush_threshold"} <= set(shown)
    assert (status.loaded, status.version, status.references) == (True, "0.1.0", 3)
    assert status.parameters == {"flush_threshold": "8192"}
    assert [user.pid for user in status.users] == [42]
    assert status.abi is None
