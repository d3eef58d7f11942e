"""The last events that the module has told, or would have told had anyone listened."""

from collections.abc import Iterator
from typing import NamedTuple

import drgn

__all__ = ["Event", "for_each_exmap_event"]

# enum exmap_genl_cmd of kmod/uapi/exmap_netlink.h, by name
PREFIX = "EXMAP_GENL_CMD_"


class Event(NamedTuple):
    """An event; `time` is in seconds since boot, the rest None for what is not about one.

    `controller` is segment << 16 | bus << 8 | device << 3 | function of a PCI address.
    """

    number: int
    time: float
    event: str
    region: int | None
    pid: int | None
    snapshot: int | None
    controller: int | None
    queue: int | None


def for_each_exmap_event(prog: drgn.Program) -> Iterator[Event]:
    """Yield the last events, oldest first.

    >>> [event.event for event in for_each_exmap_event(prog)]
    ['region_created', 'snapshot_created']
    """
    log = prog["exmap_events"].read_()
    found = [event for event in log if event.number]
    for event in sorted(found, key=lambda event: int(event.number)):
        yield Event(
            int(event.number),
            int(event.time) / 1e9,
            _name(prog, int(event.cmd)),
            int(event.region) or None,
            int(event.pid) or None,
            int(event.snapshot) or None,
            int(event.controller) or None,
            int(event.queue) or None,
        )


def _name(prog: drgn.Program, command: int) -> str:
    for enumerator in prog.type("enum exmap_genl_cmd").enumerators or ():
        if enumerator.value == command:
            return str(enumerator.name).removeprefix(PREFIX).lower()
    return f"command {command}"
