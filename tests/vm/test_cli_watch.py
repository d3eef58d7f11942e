"""exmapctl top and stats on real regions. Runs as root in the guest."""

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from threading import Event, Thread

import pytest
from exmapctl.app import app
from typer.testing import CliRunner

import libexmap

# rich, and interpreters, take their time here
# with a kernel that looks for data races, beside other guests, the first screen took more than a minute
PATIENCE = 300


@pytest.fixture
def region() -> Iterator[libexmap.Region]:
    with libexmap.Region.open(pages=4096, pool=256, interfaces=2, backend="kernel") as region:
        yield region


@contextlib.contextmanager
def work_on(region: libexmap.Region) -> Iterator[None]:
    """Map and free 64 pages every few milliseconds, until the test ends: then the region is looked at."""
    stop = Event()

    def work() -> None:
        while not stop.is_set():
            region[0].alloc(range(64))
            region[0].free(range(64))
            time.sleep(0.005)

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_stats_watch_prints_rates_that_are_alike(region: libexmap.Region) -> None:
    with work_on(region):
        done = CliRunner().invoke(app, ["stats", "--watch", "--interval", "0.5", "--count", "3", "--json"])
        assert done.exit_code == 0, done.output
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(lines) == 3
        for line in lines:
            assert (line["pid"], line["pool"]["pool_pages"]) == (os.getpid(), 256)
            rates = line["per_second"]
            assert rates["allocs"] > 64
            assert abs(rates["allocs"] - rates["frees"]) <= 64 / 0.5
            assert rates["reads"] == 0


def test_stats_prints_totals_and_a_table(region: libexmap.Region) -> None:
    with work_on(region):
        [one] = json.loads(CliRunner().invoke(app, ["stats", "--json"]).stdout)
        assert one["allocs"] >= one["frees"] > 0
        assert json.loads(CliRunner().invoke(app, ["stats", "12345", "--json"]).stdout) == []
        told = CliRunner().invoke(app, ["stats", "--watch", "--interval", "0.2", "--count", "2"]).stdout
        assert told.splitlines()[0].split()[:3] == ["region", "alloc", "free"]
        assert len(told.splitlines()) == 3


def test_top_shows_regions_follows_keys_and_leaves_the_terminal_as_it_was(region: libexmap.Region) -> None:
    with work_on(region):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        before = termios.tcgetattr(slave)
        command = [sys.executable, "-m", "exmapctl", "top", "--interval", "0.5"]
        environment = os.environ | {"TERM": "xterm"}
        child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        seen = b""

        def until(text: bytes) -> None:
            nonlocal seen
            end = time.monotonic() + PATIENCE
            while text not in seen:
                assert time.monotonic() < end, seen[-2000:]
                seen += os.read(master, 65536)

        until(b"1 regions")
        until(str(os.getpid()).encode())
        os.write(master, b"\r")
        until(b"control")
        os.write(master, b"q")
        until(b"\x1b[?1049l")
        assert child.wait(PATIENCE) == 0
        assert termios.tcgetattr(slave) == before
        os.close(slave)
        os.close(master)
