"""A client of the generic netlink family of the exmap module.

    with Client() as client:
        for region in client.regions():
            print(region.region, client.pool(region.region).free)

The specification is kmod/uapi/exmap_netlink.h.
"""

from exmap_netlink.client import Client, Events
from exmap_netlink.constants import (
    EVENT_INTERVAL,
    EVENT_INTERVAL_MAX,
    EVENT_INTERVAL_MIN,
    FAMILY,
    GROUP_EVENTS,
    INTERFACE_CONTROL,
    VERSION,
    Command,
)
from exmap_netlink.errors import DumpInterrupted, FamilyAbsent, NetlinkFailed
from exmap_netlink.types import Event, Interface, Pool, Region, Snapshot

__all__ = [
    "EVENT_INTERVAL",
    "EVENT_INTERVAL_MAX",
    "EVENT_INTERVAL_MIN",
    "FAMILY",
    "GROUP_EVENTS",
    "INTERFACE_CONTROL",
    "VERSION",
    "Client",
    "Command",
    "DumpInterrupted",
    "Event",
    "Events",
    "FamilyAbsent",
    "Interface",
    "NetlinkFailed",
    "Pool",
    "Region",
    "Snapshot",
]
