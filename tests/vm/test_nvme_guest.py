"""exmapctl and an NVMe controller that ci/guest-nvme.sh has given to exmap-nvme."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from exmapctl.app import app
from nvme_device import BAD_READ, BAD_WRITE, DRIVER, bad_controller, owned_controller
from typer.testing import CliRunner

from libexmap import Region, TransferFailed

pytestmark = pytest.mark.vm

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs/reference/bench-records.schema.json").read_text())


def exmapctl_json(*arguments: str) -> Any:
    """Run exmapctl with --json and parse what it prints."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_bench_measures_every_path_and_gives_the_device_back() -> None:
    address = owned_controller()
    short = ("--depths", "1,4", "--seconds", "0.02", "--rounds", "1")
    records = exmapctl_json("bench", "nvme", address, "--overwrite", *short)
    jsonschema.validate(records, SCHEMA)
    cases = {record["case"] for record in records if record["metric"] == "iops"}
    for path, depth in (("user", 4), ("user_shadow", 4), ("pread", 1), ("uring", 4), ("uring_best", 4)):
        assert {f"path={path},op={op},qd={depth},threads=1" for op in ("read", "write")} <= cases
    calls = {r["case"]: r["value"] for r in records if r["metric"] == "syscalls_per_io"}
    assert calls["path=user,op=read,qd=4,threads=1"] == 0
    assert calls["path=pread,op=read,qd=1,threads=1"] == 1
    assert calls["path=uring,op=read,qd=4,threads=1"] > 0
    assert owned_controller() == address


def test_bench_does_not_overwrite_unless_told() -> None:
    done = CliRunner().invoke(app, ["bench", "nvme", owned_controller()])
    assert done.exit_code == 2
    assert "--overwrite" in done.stderr


def refused(*arguments: str) -> str:
    """Run exmapctl, which has to fail; return what it says."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 1
    return done.stderr


@pytest.fixture
def released() -> Iterator[tuple[str, str]]:
    """The controller in the hands of the stock driver, and its disk."""
    address = owned_controller()
    change = exmapctl_json("nvme", "release", address)
    yield address, f"/dev/{change['disks'][0]}"
    if not (DRIVER / address).exists():
        exmapctl_json("nvme", "take", address, "--force")


def test_take_names_a_file_system_and_a_mount(released: tuple[str, str], tmp_path: Path) -> None:
    address, disk = released
    subprocess.run(["wipefs", "-qa", disk], check=True)
    assert exmapctl_json("nvme", "take", address)["overridden"] == []
    assert "already" in refused("nvme", "take", address)
    exmapctl_json("nvme", "release", address)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    assert "holds ext4" in refused("nvme", "take", address)
    subprocess.run(["mount", disk, str(tmp_path)], check=True)
    try:
        told = refused("nvme", "take", address)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert f"is mounted at {tmp_path}" in told
    subprocess.run(["wipefs", "-qa", disk], check=True)


def test_take_names_a_partition_table_and_that_somebody_has_the_disk(released: tuple[str, str]) -> None:
    address, disk = released
    # one Linux partition of 8 MiB in the MBR
    table = bytes(446) + bytes.fromhex("00000200830003000100000000400000") + bytes(48) + b"\x55\xaa"
    Path(disk).write_bytes(table)
    assert "has a partition table (dos)" in refused("nvme", "take", address)
    subprocess.run(["wipefs", "-qa", disk], check=True)
    fd = os.open(disk, os.O_RDWR | os.O_EXCL)
    try:
        assert "is in use" in refused("nvme", "take", address)
    finally:
        os.close(fd)


def test_list_says_who_has_what(released: tuple[str, str]) -> None:
    address, disk = released
    assert {c["address"]: c["driver"] for c in exmapctl_json("nvme", "list")}[address] == "nvme"
    exmapctl_json("nvme", "take", address, "--force")
    mine = {c["address"]: c for c in exmapctl_json("nvme", "list")}[address]
    assert (mine["driver"], mine["disks"], mine["iommu"]) == ("exmap-nvme", [], True)
    for command in ("identify", "smart"):
        assert "belongs to exmap-nvme" in refused("nvme", command, address)
    assert f"/dev/{exmapctl_json('nvme', 'release', address)['disks'][0]}" == disk


def test_identify_and_smart_ask_the_controller(released: tuple[str, str]) -> None:
    address, disk = released
    found = exmapctl_json("nvme", "identify", address)
    size = int(Path(f"/sys/block/{Path(disk).name}/size").read_text()) * 512
    assert found["namespace_lbas"] * found["lba_size"] == size
    assert found["serial"].startswith("exmap")
    health = exmapctl_json("nvme", "smart", disk)
    assert health["critical_warning"] == 0
    assert 0 < health["temperature_celsius"] < 100


@pytest.fixture
def bad_disk() -> Iterator[str]:
    with bad_controller() as address:
        yield address


def test_a_bad_block_fails_its_own_command_alone(bad_disk: str) -> None:
    with Region.open(pages=64, pool=64, backend="kernel") as region:
        region[0].alloc(range(64))
        with region.nvme(bad_disk) as queue:
            blocks = 4096 // queue.lba_size
            unreadable, unwritable = BAD_READ // queue.lba_size, BAD_WRITE // queue.lba_size
            queue.submit("read", range(3), [unreadable + n * blocks for n in (-1, 0, 1)])
            assert queue.wait(min=3).errors.tolist() == [1]
            with pytest.raises(TransferFailed):
                queue.write(0, unwritable - blocks, each=2)
            with pytest.raises(TransferFailed) as caught:
                queue.read([0, 1, 2], [0, unreadable, blocks])
            assert caught.value.done == 2
            queue.check()
            assert queue.read(0, unwritable) == 1
            assert queue.write(0, unreadable) == 1
