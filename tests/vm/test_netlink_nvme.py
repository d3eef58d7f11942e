"""Events of NVMe controllers. Runs as root in the guest."""

import errno
import itertools
import os
import re
from collections.abc import Iterator

from exmap_netlink import Event, Events
from nvme_device import DRIVER, owned_controller

import libexmap


def number_of(address: str) -> int:
    """Return a PCI address as an event has it."""
    segment, bus, device, function = (int(part, 16) for part in re.split("[:.]", address))
    return segment << 16 | bus << 8 | device << 3 | function


def losses(events: Events, count: int) -> Iterator[Event]:
    """Return what is told of lost controllers, so many times."""
    return itertools.islice((event for event in events if event.event == "controller_lost"), count)


def test_a_controller_that_is_reset_or_given_back_is_told_with_its_owner() -> None:
    address = owned_controller()
    with (
        Events(timeout=60) as events,
        libexmap.Region.open(pages=64, pool=64, backend="kernel") as region,
    ):
        with region.nvme(address) as queue:
            queue.reset()
        with region.nvme(address):
            (DRIVER / "unbind").write_text(address)
            (DRIVER / "bind").write_text(address)
        told = list(losses(events, 2))
    assert [event.error for event in told] == [errno.EIO, errno.ENODEV]
    assert {event.controller for event in told} == {number_of(address)}
    assert {event.pid for event in told} == {os.getpid()}
    assert len({event.region for event in told}) == 1
