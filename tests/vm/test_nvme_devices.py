"""NVMe controllers that are unplugged, slow ones, and such as have other blocks: disks of ci/suite.py for
these tests alone."""

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exmap_netlink import Event, Events
from exmapctl.app import app
from exmapctl.controllers import find_controller
from exmapctl.machine import Machine
from nvme_device import DEVICES, find_disk, number_of, taken, told
from typer.testing import CliRunner

import libexmap
from libexmap import Region

pytestmark = pytest.mark.vm

SECONDS = 60.0
# PCI Express Base Specification 5.0, 7.5.3: the capability of a port, and what its slot is told
PCI_EXPRESS = 0x10
SLOT_CONTROL = 0x18
POWER_INDICATOR_OFF = 0x300
POWER_OFF = 0x400


def press_button(serial: str, address: str) -> None:
    """Ask ci/vm.py for it, which tells QEMU, and QEMU the guest."""
    del address
    out = Path(os.environ["EXMAP_OUT"])
    (out / "unplug.new").write_text(serial)
    (out / "unplug.new").rename(out / "unplug")


def pull_out(serial: str, address: str) -> None:
    """Cut the power of a device's slot behind the kernel's back: QEMU takes the device away at once.

    The kernel learns of it by wait_until_gone().
    """
    del serial
    port = (DEVICES / address).resolve().parent
    with (port / "config").open("r+b", buffering=0) as file:
        config = file.read(256)
        place = config[0x34]
        while config[place] != PCI_EXPRESS:
            place = config[place + 1]
        place += SLOT_CONTROL
        control = int.from_bytes(config[place : place + 2], "little") | POWER_INDICATOR_OFF | POWER_OFF
        file.seek(place)
        file.write(control.to_bytes(2, "little"))


def wait_until_gone(unplug: Callable[[str, str], None], address: str) -> None:
    if unplug is pull_out:
        (DEVICES / address / "remove").write_text("1")
    limit = time.monotonic() + SECONDS
    while (DEVICES / address).exists():
        assert time.monotonic() < limit
        time.sleep(0.1)


def repeat_until_it_fails(call: Callable[[], object]) -> int:
    """Return the error."""
    limit = time.monotonic() + SECONDS
    while time.monotonic() < limit:
        try:
            call()
        except OSError as error:
            return error.errno or 0
    pytest.fail("it does not fail")


def controller_lost(events: Events, address: str, errors: set[int]) -> Event:
    """Return the event that says so of this controller, for one of these errors."""
    (event,) = told(events, "controller_lost", 1)
    assert event.controller == number_of(address)
    assert event.error in errors
    return event


# QEMU answers reads of a device that is not there with zeros, so that it may seem to have been reset
LOST = {errno.EIO, errno.ENODEV}


@pytest.mark.parametrize(
    ("serial", "unplug", "errors"), [("exmap4", press_button, {errno.ENODEV}), ("exmap5", pull_out, LOST)]
)
def test_unplugging_ends_the_queue_of_an_owner_with_reads_in_flight(
    serial: str, unplug: Callable[[str, str], None], errors: set[int]
) -> None:
    numbers = np.arange(128, dtype=np.uint64)
    with (
        taken(serial) as address,
        Events(timeout=SECONDS) as events,
        Region.open(pages=256, pool=256, backend="kernel") as region,
    ):
        region[0].alloc(range(256))
        queue = region.nvme(address, depth=129)

        def keep_reading() -> None:
            queue.submit("read", numbers, numbers)
            queue.wait(min=1, timeout=2.0)

        keep_reading()
        unplug(serial, address)
        assert repeat_until_it_fails(keep_reading) in errors
        assert controller_lost(events, address, errors).pid == os.getpid()
        wait_until_gone(unplug, address)
        with pytest.raises(libexmap.QueueDead):
            queue.check()
        with pytest.raises(libexmap.NoController):
            region.nvme(address)
        queue.close()
        counters = region.counters
        assert (counters.mapped, counters.quarantine) == (256, 0)
        assert region[0].free(range(256)) == 256


@pytest.mark.parametrize(
    ("serial", "unplug", "errors"), [("exmap6", press_button, {errno.ENODEV}), ("exmap7", pull_out, LOST)]
)
def test_unplugging_ends_the_backing_of_a_region_that_reads(
    serial: str, unplug: Callable[[str, str], None], errors: set[int]
) -> None:
    with (
        taken(serial) as address,
        Events(timeout=SECONDS) as events,
        Region.open(pages=512, pool=256, backend="kernel", backing=f"nvme:{address}") as region,
    ):

        def read_again() -> None:
            try:
                region[0].read(range(0, 512, 4))
            finally:
                region[0].free(range(512))

        read_again()
        unplug(serial, address)
        # what was in flight gives EIO
        assert repeat_until_it_fails(read_again) in LOST
        controller_lost(events, address, errors)
        wait_until_gone(unplug, address)
        assert repeat_until_it_fails(lambda: region[0].read([0])) == errno.ENODEV
        # what could not be read waits for a flush
        region.barrier()
        assert region.counters.free == 256


def run_case(program: Path, case: str, serial: str, **environment: str) -> str:
    """Run a case of tests/c/abi on a controller; return what it prints."""
    with taken(serial) as address:
        done = subprocess.run(
            [str(program), "run", case],
            env=os.environ | {"EXMAP_NVME": address} | environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    "case",
    ["nvme_owner_killed_on_a_slow_device_is_gone_in_time", "nvme_backing_sleeps_while_a_slow_device_works"],
)
def test_slow_device(case: str, c_program: Callable[[str], Path]) -> None:
    print(run_case(c_program("abi"), case, "exmap8", EXMAP_SLOW_DISK="1"))


@pytest.mark.parametrize(
    "case",
    [
        "nvme_reads_what_was_written",
        "nvme_errors_of_commands_are_completions",
        "nvme_stock_driver_finds_what_was_written",
        "nvme_backing_reads_what_was_written",
        "nvme_backing_takes_memory_that_is_no_frame",
        "nvme_backing_ends_where_the_namespace_does",
    ],
)
def test_device_with_blocks_of_4096_bytes(case: str, c_program: Callable[[str], Path]) -> None:
    run_case(c_program("abi"), case, "exmap9")


def test_queue_counts_in_the_blocks_of_the_device() -> None:
    with taken("exmap9") as address, Region.open(pages=16, pool=16, backend="kernel") as region:
        region[0].alloc(range(16))
        with region.nvme(address) as queue:
            assert (queue.lba_size, queue.lbas) == (4096, (32 << 20) // 4096)
            region.view(3, 1)[:] = 0x5A
            assert queue.write([3], [77]) == 1
            assert queue.read([4], [77]) == 1
            assert bytes(region.view(4, 1)) == bytes([0x5A]) * 4096


def test_page_that_the_end_of_the_disk_cuts_ends_with_zeros() -> None:
    with taken("exmap8") as address:
        fd = libexmap.nvme_backing(address)
        size = os.lseek(fd, 0, os.SEEK_END)
        assert size % 4096 == 512
        assert os.pwrite(fd, bytes([0x77]) * 512, size - 512) == 512
        os.close(fd)
        last = size // 4096
        with Region.open(pages=last + 2, pool=16, backend="kernel", backing=f"nvme:{address}") as region:
            # something that must not show
            region[0].alloc(range(16))
            region.view(0, 16)[:] = 0x5A
            region[0].free(range(16))
            assert region[0].read([last]) == 1
            assert bytes(region.view(last, 1)) == bytes([0x77]) * 512 + bytes(3584)
            with pytest.raises(libexmap.BeyondBacking):
                region[0].read([last + 1])


@pytest.mark.parametrize(
    ("serial", "told"),
    [
        ("exmap10", "blocks of 2^9 bytes and 8 bytes of metadata; supported are 512 and 4096 without"),
        ("exmap11", "blocks of 2^11 bytes and 0 bytes of metadata; supported are 512 and 4096 without"),
    ],
)
def test_take_refuses_other_blocks_says_why_and_gives_the_disk_back(serial: str, told: str) -> None:
    address = find_disk(serial).address
    done = CliRunner().invoke(app, ["nvme", "take", address, "--force"])
    assert done.exit_code == 1
    assert told in " ".join(done.stderr.split())
    assert find_controller(Machine.here(), address).driver == "nvme"
