"""A client of the generic netlink family of the exmap module.

    with Client() as client:
        for region in client.regions():
            print(region.region, client.pool(region.region).free)

    async with AsyncClient() as client, AsyncEvents() as events:
        async for event in events:
            print(event, await client.regions())

Reader lists the same things without pyroute2. The specification is kmod/uapi/exmap_netlink.h.
"""

from typing import TYPE_CHECKING, Any

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
from exmap_netlink.reader import Reader
from exmap_netlink.types import Event, Interface, Pool, Region, Snapshot

if TYPE_CHECKING:
    from exmap_netlink.aio import AsyncClient, AsyncEvents
    from exmap_netlink.client import Client, Events

__all__ = [
    "EVENT_INTERVAL",
    "EVENT_INTERVAL_MAX",
    "EVENT_INTERVAL_MIN",
    "FAMILY",
    "GROUP_EVENTS",
    "INTERFACE_CONTROL",
    "VERSION",
    "AsyncClient",
    "AsyncEvents",
    "Client",
    "Command",
    "DumpInterrupted",
    "Event",
    "Events",
    "FamilyAbsent",
    "Interface",
    "NetlinkFailed",
    "Pool",
    "Reader",
    "Region",
    "Snapshot",
]


def __getattr__(name: str) -> Any:
    """Import what stands on pyroute2 when it is asked for, which takes a while."""
    if name in ("AsyncClient", "AsyncEvents"):
        from exmap_netlink import aio

        return getattr(aio, name)
    if name in ("Client", "Events"):
        from exmap_netlink import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
