"""The module goes while it is asked over netlink. Runs as root in the guest."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from exmap_netlink import Client, Events
from netlink_raw import family_number, read_some, start_dump
from pyroute2.netlink import NLMSG_DONE
from pyroute2.netlink.exceptions import NetlinkError

DEVICE = Path("/dev/exmap")
MANY = 200


def module(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def reloaded() -> Iterator[None]:
    try:
        yield
    finally:
        if "exmap" not in Path("/proc/modules").read_text().split():
            assert module("insmod", os.environ["EXMAP_KO"]).returncode == 0
        for _ in range(500):
            if DEVICE.exists():
                break
            time.sleep(0.01)


@pytest.mark.usefixtures("reloaded")
def test_a_dump_that_has_not_ended_holds_the_module_and_nothing_else() -> None:
    fds = [os.open(DEVICE, os.O_RDWR) for _ in range(MANY)]
    family = family_number()
    abandoned, continued = start_dump(family), start_dump(family)
    first = read_some(continued)
    assert 0 < len(first) < MANY
    for fd in fds:
        os.close(fd)
    assert "in use" in module("rmmod", "exmap").stderr
    rest: list[tuple[int, int, int]] = []
    while not rest or rest[-1][0] != NLMSG_DONE:
        rest += read_some(continued)
    # what was in the socket's buffer already may still come; the regions that are gone do not
    assert len(first) + len(rest) < MANY
    assert "in use" in module("rmmod", "exmap").stderr
    abandoned.close()
    done = module("rmmod", "exmap")
    assert done.returncode == 0, done.stderr
    continued.close()


@pytest.mark.usefixtures("reloaded")
def test_the_module_comes_and_goes_while_it_is_asked_and_listened_to() -> None:
    stop = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, NetlinkError), Client() as own:
                while not stop.is_set():
                    answers.append(len(own.regions()) + len(own.snapshots()))

    def listen() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, NetlinkError), Events(timeout=0.2) as events:
                list(events)

    threads = [threading.Thread(target=work) for work in (ask, listen)]
    for thread in threads:
        thread.start()
    try:
        gone = 0
        for _ in range(15):
            gone += module("rmmod", "exmap").returncode == 0
            module("insmod", os.environ["EXMAP_KO"])
            with contextlib.suppress(OSError):
                os.close(os.open(DEVICE, os.O_RDWR))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert gone > 5
    assert answers
