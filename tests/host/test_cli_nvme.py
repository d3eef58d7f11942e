"""exmapctl nvme, on a made-up machine: who drives what, and what stands in the way."""

import json
import shutil
from pathlib import Path

import pytest
from exmapctl import nvme_take
from exmapctl.app import app
from exmapctl.controllers import OURS, bind, find_controller, list_controllers
from exmapctl.errors import (
    CommandFailedError,
    ControllerAbsentError,
    ControllerInUseError,
    ModuleNotLoadedError,
)
from exmapctl.machine import Machine
from exmapctl.nvme_take import find_obstacles, parts_of, take
from typer.testing import CliRunner

FREE = "0000:00:04.0"
BOOT = "0000:00:05.0"


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_controller(root: Path, address: str, name: str) -> None:
    """Add a controller that the stock driver has, with one disk."""
    device = root / "sys/bus/pci/devices" / address
    put(device / "class", "0x010802\n")
    put(device / "driver_override", "(null)\n")
    put(device / f"nvme/{name}/model", "QEMU NVMe Ctrl\n")
    put(device / f"nvme/{name}/serial", f"serial-{name}\n")
    (device / f"nvme/{name}/{name}n1").mkdir()
    (device / "driver").symlink_to(root / "sys/bus/pci/drivers/nvme")
    put(root / f"sys/block/{name}n1/dev", f"259:{address[9]}\n")
    put(root / f"sys/class/block/{name}n1/dev", f"259:{address[9]}\n")
    put(root / f"dev/{name}n1")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for driver in ("nvme", "exmap-nvme"):
        put(tmp_path / f"sys/bus/pci/drivers/{driver}/bind")
        put(tmp_path / f"sys/bus/pci/drivers/{driver}/unbind")
    add_controller(tmp_path, FREE, "nvme0")
    add_controller(tmp_path, BOOT, "nvme1")
    put(tmp_path / "sys/bus/pci/devices/0000:00:01.0/class", "0x020000\n")
    part = tmp_path / "sys/block/nvme1n1/nvme1n1p1"
    put(part / "partition", "1\n")
    put(tmp_path / "sys/class/block/nvme1n1p1/dev", "259:9\n")
    put(tmp_path / "dev/nvme1n1p1")
    (tmp_path / "sys/class/block/nvme1n1p1/holders/dm-0").mkdir(parents=True)
    put(tmp_path / "proc/self/mountinfo", "22 1 259:9 / / rw - ext4 /dev/nvme1n1p1 rw\n")
    put(tmp_path / "proc/swaps", "Filename Type\n/dev/nvme1n1 partition 1 0 -2\n")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return Machine(tmp_path, "6.12")


def test_list_names_controllers_and_nothing_else(machine: Machine) -> None:
    found = list_controllers(machine)
    assert [(c.address, c.driver, c.disks, c.iommu) for c in found] == [
        (FREE, "nvme", ("nvme0n1",), False),
        (BOOT, "nvme", ("nvme1n1",), False),
    ]
    assert found[0].serial == "serial-nvme0"


@pytest.mark.parametrize("name", [FREE, "00:04.0", "nvme0", "/dev/nvme0", "nvme0n1", "/dev/nvme0n1"])
def test_a_controller_has_several_names(machine: Machine, name: str) -> None:
    assert find_controller(machine, name).address == FREE


def test_disks_are_found_by_their_paths_and_whatever_their_numbers(machine: Machine) -> None:
    stock = machine.path(f"/sys/bus/pci/devices/{FREE}/nvme/nvme0")
    (stock / "nvme0n1").rename(stock / "nvme3c0n2")
    (stock / "hwmon7").mkdir()
    assert find_controller(machine, "/dev/nvme3n2").disks == ("nvme3n2",)


@pytest.mark.parametrize("name", ["0000:00:01.0", "nvme7", "", "nvme0n1p1"])
def test_other_names_are_refused(machine: Machine, name: str) -> None:
    shutil.rmtree(machine.path(f"/sys/bus/pci/devices/{FREE}/nvme"))  # as if it were another driver's
    with pytest.raises(ControllerAbsentError):
        find_controller(machine, name)


def test_obstacles_are_all_named(machine: Machine) -> None:
    assert parts_of(machine, "nvme1n1") == ["nvme1n1", "nvme1n1p1"]
    found = find_obstacles(machine, find_controller(machine, BOOT))
    assert "nvme1n1p1 is mounted at / (the running system's root)" in found
    assert "nvme1n1p1 is used by dm-0" in found
    assert "nvme1n1 is swap space" in found
    assert find_obstacles(machine, find_controller(machine, FREE)) == []


def test_signatures_of_a_disk_are_found(machine: Machine) -> None:
    table = bytearray(1 << 20)
    table[446:462] = bytes([0, 0, 2, 0, 0x83, 0, 3, 0, 1, 0, 0, 0, 0x10, 0, 0, 0])
    table[510:512] = b"\x55\xaa"
    machine.path("/dev/nvme0n1").write_bytes(bytes(table))
    assert find_obstacles(machine, find_controller(machine, FREE)) == ["nvme0n1 has a partition table (dos)"]
    swap = bytearray(1 << 20)
    swap[4086:4096] = b"SWAPSPACE2"
    swap[1024:1032] = (1).to_bytes(4, "little") + (255).to_bytes(4, "little")
    machine.path("/dev/nvme0n1").write_bytes(bytes(swap))
    assert find_obstacles(machine, find_controller(machine, FREE)) == ["nvme0n1 holds swap"]


def test_without_blkid_nothing_is_known_to_be_empty(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvme_take.shutil, "which", lambda *names, **options: None)
    assert find_obstacles(machine, find_controller(machine, FREE)) == [
        "nvme0n1 may hold anything: there is no blkid to look with"
    ]


def test_take_refuses_and_force_takes(machine: Machine) -> None:
    unbind = machine.path("/sys/bus/pci/drivers/nvme/unbind")
    with pytest.raises(ControllerInUseError, match=r"mounted at /.*--force"):
        take(machine, BOOT, force=False)
    assert unbind.read_text() == ""
    change = take(machine, BOOT, force=True)
    assert change.driver == OURS
    assert "nvme1n1 is swap space" in change.overridden
    assert unbind.read_text() == BOOT
    assert machine.path("/sys/bus/pci/drivers/exmap-nvme/bind").read_text() == BOOT
    assert machine.path(f"/sys/bus/pci/devices/{BOOT}/driver_override").read_text() == "exmap-nvme"


def test_take_needs_the_module(machine: Machine) -> None:
    for name in ("bind", "unbind"):
        machine.path(f"/sys/bus/pci/drivers/exmap-nvme/{name}").unlink()
    machine.path("/sys/bus/pci/drivers/exmap-nvme").rmdir()
    with pytest.raises(ModuleNotLoadedError):
        take(machine, FREE, force=False)
    with pytest.raises(CommandFailedError, match="modprobe"):
        bind(machine, find_controller(machine, FREE), "vfio-pci")


def test_commands_print_json_and_one_line_errors(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(Machine, "here", lambda: machine)
    done = CliRunner().invoke(app, ["nvme", "list", "--json"])
    assert [c["address"] for c in json.loads(done.stdout)] == [FREE, BOOT]
    done = CliRunner().invoke(app, ["nvme", "take", BOOT])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for command in ("take", "release", "identify", "smart"):
        done = CliRunner().invoke(app, ["nvme", command, FREE])
        assert done.exit_code == 1
        assert "needs root" in done.stderr
