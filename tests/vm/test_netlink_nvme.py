"""Events of NVMe controllers and their queues. Runs as root in the guest."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator

import pytest
from exmap_netlink import EVENT_INTERVAL, Client, Event, Events
from nvme_device import BAD_READ, DRIVER, bad_controller, number_of, owned_controller, told

import libexmap

# status code type 2, media errors; code 0x81, unrecovered read error: Base 4.2.3.3
UNRECOVERED_READ = 0x281


@contextlib.contextmanager
def event_interval(milliseconds: int) -> Iterator[None]:
    with Client() as client:
        client.set_event_interval(milliseconds)
        yield
        client.set_event_interval(EVENT_INTERVAL)


def open_region() -> libexmap.Region:
    return libexmap.Region.open(pages=64, pool=64, backend="kernel")


def test_a_controller_that_is_reset_or_given_back_is_told_with_its_owner() -> None:
    address = owned_controller()
    with Events(timeout=60) as events, open_region() as region:
        with region.nvme(address) as queue:
            queue.reset()
        with region.nvme(address):
            (DRIVER / "unbind").write_text(address)
            (DRIVER / "bind").write_text(address)
        lost = told(events, "controller_lost", 2)
    assert [event.error for event in lost] == [errno.EIO, errno.ENODEV]
    assert {event.controller for event in lost} == {number_of(address)}
    assert {event.pid for event in lost} == {os.getpid()}
    assert len({event.region for event in lost}) == 1


def test_a_controller_that_was_lost_is_told_when_it_works_again() -> None:
    address = owned_controller()

    def use() -> None:
        with open_region() as region, region.nvme(address):
            pass

    use()
    with Events(timeout=20) as events:
        # nothing was lost
        use()
        with open_region() as region, region.nvme(address) as queue:
            queue.reset()
        use()
        (DRIVER / "unbind").write_text(address)
        (DRIVER / "bind").write_text(address)
        use()
        (DRIVER / address / "reset").write_text("1")
        # one that is reset, and then given back before anybody has used it, was lost once
        (DRIVER / "unbind").write_text(address)
        (DRIVER / "bind").write_text(address)
        (DRIVER / "unbind").write_text(address)
        (DRIVER / "bind").write_text(address)
        seen: list[Event] = []
        while [event.event for event in seen].count("controller_back") < 4:
            seen.append(next(event for event in events if event.event.startswith("controller_")))
    assert [event.event for event in seen] == ["controller_lost", "controller_back"] * 4
    assert {event.controller for event in seen} == {number_of(address)}
    backs = seen[1::2]
    assert {(event.region, event.pid, event.error) for event in backs} == {(None, None, None)}


def test_queues_that_die_with_their_controller_are_told_with_their_owner() -> None:
    address = owned_controller()
    with event_interval(10), Events(timeout=60) as events, open_region() as region:
        with region.nvme(address) as one, region.nvme(address):
            one.reset()
        died = told(events, "queue_error", 2)
        # one that is closed has not failed
        with region.nvme(address):
            pass
        with region.nvme(address):
            (DRIVER / "unbind").write_text(address)
            (DRIVER / "bind").write_text(address)
        died += told(events, "queue_error", 1)
    assert [event.error for event in died] == [errno.EIO, errno.EIO, errno.ENODEV]
    assert {event.controller for event in died} == {number_of(address)}
    assert {event.pid for event in died} == {os.getpid()}
    assert len({event.region for event in died} - {None}) == 1
    assert len({event.queue for event in died[:2]} - {None}) == 2
    assert {(event.commands, event.status) for event in died} == {(None, None)}


def read_bad_block(fd: int) -> None:
    with pytest.raises(OSError, match="Input/output"):
        os.pread(fd, 4096, BAD_READ)


def test_commands_of_the_kernel_that_fail_are_told_with_their_status() -> None:
    with bad_controller() as address, event_interval(10), Events(timeout=60) as events:
        fd = libexmap.nvme_backing(address)
        assert len(os.pread(fd, 4096, 0)) == 4096
        read_bad_block(fd)
        [error] = told(events, "queue_error", 1)
        os.close(fd)
    assert error.controller == number_of(address)
    assert (error.commands, error.status, error.error) == (1, UNRECOVERED_READ, None)
    assert error.queue
    assert (error.region, error.pid) == (None, None)


def test_errors_of_queues_are_told_as_rarely_as_the_interval_says_and_none_is_lost() -> None:
    interval = 0.5
    with bad_controller() as address, event_interval(int(interval * 1000)), Events(timeout=60) as events:
        fd = libexmap.nvme_backing(address)
        begin = time.monotonic()
        count = 0
        while time.monotonic() - begin < 3:
            read_bad_block(fd)
            count += 1
        elapsed = time.monotonic() - begin
        os.close(fd)
        seen: list[Event] = []
        while sum(event.commands or 0 for event in seen) < count:
            seen += told(events, "queue_error", 1)
        queues = len({event.queue for event in seen})
    assert count > 4 * elapsed / interval
    assert sum(event.commands or 0 for event in seen) == count
    # a queue a CPU; told at once, then in each interval, and what is left
    assert len(seen) <= queues * (elapsed / interval + 2)
