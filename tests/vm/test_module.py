"""The module itself: its parameter, loading and unloading, and the udev rule. Runs as root in the guest."""

import contextlib
import ctypes
import errno
import grp
import mmap
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvme_device import owned_controller

import libexmap

ROOT = Path(__file__).resolve().parents[2]
DEVICE = Path("/dev/exmap")
PARAMETER = Path("/sys/module/exmap/parameters/flush_threshold")
THRESHOLD = 8192
THRESHOLD_MAX = 15360
OFF_EXMAP = 0

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def insmod(*parameters: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["insmod", os.environ["EXMAP_KO"], *parameters], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        # devtmpfs makes the node in a thread of its own
        for _ in range(500):
            if DEVICE.exists():
                break
            time.sleep(0.01)
    return done


def rmmod() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["rmmod", "exmap"], capture_output=True, text=True, check=False)


def loaded() -> bool:
    return any(line.startswith("exmap ") for line in Path("/proc/modules").read_text().splitlines())


def references() -> int:
    return int(Path("/sys/module/exmap/refcnt").read_text())


@pytest.fixture
def reloaded() -> Iterator[None]:
    """Leave a freshly loaded module behind, whatever the test did."""
    try:
        yield
    finally:
        if loaded():
            rmmod()
        assert insmod().returncode == 0


def threshold_of_a_new_region() -> int:
    with libexmap.Region.open(pages=1024, pool=64, backend="kernel") as region:
        return region.info.flush_threshold


def test_flush_threshold_has_a_default() -> None:
    assert int(PARAMETER.read_text()) == THRESHOLD
    assert threshold_of_a_new_region() == THRESHOLD


@pytest.mark.usefixtures("reloaded")
def test_flush_threshold_changed_at_run_time_holds_for_new_regions_only() -> None:
    with libexmap.Region.open(pages=1024, pool=64, backend="kernel") as old:
        for value in (1, 77, THRESHOLD_MAX):
            PARAMETER.write_text(str(value))
            assert int(PARAMETER.read_text()) == value
            assert threshold_of_a_new_region() == value
        assert old.info.flush_threshold == THRESHOLD


@pytest.mark.parametrize("value", ["0", str(THRESHOLD_MAX + 1), "-1", "4294967296", "many", ""])
def test_flush_threshold_out_of_range_is_refused_at_run_time(value: str) -> None:
    fd = os.open(PARAMETER, os.O_WRONLY)
    try:
        with pytest.raises(OSError) as raised:  # noqa: PT011 -- errno says which
            os.write(fd, value.encode() + b"\n")
    finally:
        os.close(fd)
    assert raised.value.errno in (errno.EINVAL, errno.ERANGE)
    assert int(PARAMETER.read_text()) == THRESHOLD


@pytest.mark.usefixtures("reloaded")
def test_flush_threshold_at_load() -> None:
    assert rmmod().returncode == 0
    for value in ("0", str(THRESHOLD_MAX + 1), "many"):
        assert insmod(f"flush_threshold={value}").returncode != 0
        assert not loaded()
        assert not DEVICE.exists()
    assert insmod("flush_threshold=77").returncode == 0
    assert int(PARAMETER.read_text()) == 77
    assert threshold_of_a_new_region() == 77


def test_flush_threshold_is_writable_by_root_alone() -> None:
    assert PARAMETER.stat().st_mode & 0o777 == 0o644


def assert_in_use() -> None:
    assert references() > 0
    done = rmmod()
    assert done.returncode != 0
    assert "in use" in done.stderr
    assert loaded()


@pytest.mark.usefixtures("reloaded")
def test_rmmod_is_refused_while_a_descriptor_is_open() -> None:
    fd = os.open(DEVICE, os.O_RDWR)
    assert_in_use()
    os.close(fd)
    assert references() == 0
    assert rmmod().returncode == 0


@pytest.mark.usefixtures("reloaded")
def test_rmmod_is_refused_while_a_mapping_is_alive() -> None:
    size = 1024 * mmap.PAGESIZE
    fd = os.open(DEVICE, os.O_RDWR)
    # mmap.mmap would keep a descriptor
    address = LIBC.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, OFF_EXMAP)
    os.close(fd)
    assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    assert_in_use()
    assert LIBC.munmap(address, size) == 0
    assert references() == 0
    assert rmmod().returncode == 0


@pytest.mark.usefixtures("reloaded")
def test_rmmod_is_refused_while_a_snapshot_is_alive() -> None:
    with libexmap.Region.open(
        pages=1024, pool=1024, interfaces=1, backend="kernel", snapshots=True
    ) as region:
        region[0].alloc(range(500))
        snapshot = region.snapshot()
    assert_in_use()
    snapshot.close()
    assert references() == 0
    assert rmmod().returncode == 0


@pytest.mark.usefixtures("reloaded")
def test_rmmod_is_refused_while_a_queue_is_alive() -> None:
    address = owned_controller()
    with libexmap.Region.open(pages=64, pool=64, backend="kernel") as region:
        queue = region.nvme(address)
    assert_in_use()
    queue.close()
    assert references() == 0
    fd = libexmap.nvme_backing(address)
    assert_in_use()
    os.close(fd)
    assert rmmod().returncode == 0
    assert insmod().returncode == 0
    assert owned_controller() == address


@pytest.mark.usefixtures("reloaded")
def test_rmmod_succeeds_once_the_user_was_killed() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            region = libexmap.Region.open(pages=4096, pool=1024, interfaces=2, backend="kernel")
            region[0].alloc(range(500))
            region[1].alloc(range(1000, 1500))
            region[0].free(range(100, 200), lazy=True)
            os.write(writer, b"!")
            signal.pause()
        os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    assert_in_use()
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert references() == 0
    assert rmmod().returncode == 0


def traces_of_the_module() -> list[str]:
    """What of the module is still to be seen in /proc and /sys: memory, symbols, device, names."""
    files = ("/proc/vmallocinfo", "/proc/kallsyms", "/proc/misc", "/proc/modules", "/proc/slabinfo")
    found = [
        f"{name}: {line}"
        for name in files
        for line in Path(name).read_text().splitlines()
        if re.search(r"\bexmap\b", line)
    ]
    places = (DEVICE, Path("/sys/module/exmap"), Path("/sys/class/misc/exmap"))
    return found + [str(path) for path in places if path.exists()]


def free_kib() -> int:
    """Free memory in KiB, without what the kernel could drop at once.

    Pages on the per-CPU lists count as free: since Linux 6.7 these lists grow to an eighth of a
    zone when many pages are freed at once, and MemFree leaves them out.
    """
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    free = re.search(r"^MemFree: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert free is not None
    lists = re.findall(r"^ +count: +(\d+)$", Path("/proc/zoneinfo").read_text(), re.MULTILINE)
    assert lists
    return int(free.group(1)) + 4 * sum(map(int, lists))


@pytest.mark.usefixtures("reloaded")
def test_loading_twenty_times_leaves_nothing_behind() -> None:
    """Each life has 64 MiB of frames: even one that is not returned shows in the memory that is free.

    Small objects are looked for per region, see cgroup_loses_not_an_object_to_a_region_that_was_closed
    in tests/c/abi/memory.c, and by kmemleak, which the debug kernel runs when the module is gone.
    """
    assert rmmod().returncode == 0
    assert traces_of_the_module() == []
    before = free_kib()
    for _ in range(20):
        assert insmod().returncode == 0
        with libexmap.Region.open(pages=32768, pool=16384, interfaces=2, backend="kernel") as region:
            region[0].alloc(range(4000))
            region[0].free(range(1000, 2000), lazy=True)
            assert region.counters.conserved
        done = rmmod()
        assert done.returncode == 0, done.stderr
    assert traces_of_the_module() == []
    assert before - free_kib() < 32 << 10


@pytest.fixture
def group_exmap(tmp_path: Path) -> Iterator[int]:
    """Members of a group exmap exist while the test runs; yields its number."""
    number = 4242
    groups = tmp_path / "group"
    groups.write_text(Path("/etc/group").read_text() + f"exmap:x:{number}:\n")
    groups.chmod(0o644)
    subprocess.run(["mount", "--bind", str(groups), "/etc/group"], check=True)
    try:
        assert grp.getgrnam("exmap").gr_gid == number
        yield number
    finally:
        subprocess.run(["umount", "/etc/group"], check=True)


@pytest.fixture
def installed_rule() -> Iterator[Path]:
    """The rule file where udev looks for it; the device gets its old owner back."""
    rule = Path("/run/udev/rules.d/60-exmap.rules")
    rule.parent.mkdir(parents=True, exist_ok=True)
    rule.write_text((ROOT / "kmod/60-exmap.rules").read_text())
    try:
        yield rule
    finally:
        rule.unlink()
        os.chown(DEVICE, 0, 0)
        DEVICE.chmod(0o660)


def test_udev_rule_gives_the_device_to_the_group(group_exmap: int, installed_rule: Path) -> None:
    DEVICE.chmod(0o600)
    done = subprocess.run(
        ["udevadm", "test", "--action=add", "/sys/class/misc/exmap"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    said = [line for line in done.stdout.splitlines() if str(installed_rule) in line]
    # read, and obeyed line by line; udev names the line of a rule that it does not understand
    assert said[0] == f"Reading rules file: {installed_rule}"
    assert [re.sub(r"^.*rules:\d+ ", "", line) for line in said[1:]] == [f"GROUP {group_exmap}", "MODE 0660"]
    assert (DEVICE.stat().st_gid, DEVICE.stat().st_mode & 0o777) == (group_exmap, 0o660)
