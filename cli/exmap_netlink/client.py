"""The client without asyncio: runs the asynchronous one."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from exmap_netlink.aio import AsyncClient, AsyncEvents
from exmap_netlink.constants import Command
from exmap_netlink.types import Event, Interface, Pool, Region, Snapshot

__all__ = ["Client", "Events"]

Answer = TypeVar("Answer")


class Runner:
    """An event loop with what it serves; a context manager."""

    def __init__(self, served: AsyncClient | AsyncEvents) -> None:
        self._served = served
        self._runner = asyncio.Runner()
        try:
            self._run(served.open())
        except BaseException:
            self._runner.close()
            raise

    def _run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(coroutine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._served.close()
        self._runner.close()


class Client(Runner):
    """Asks the module, and tells it; a context manager.

    Raises FamilyAbsent if the module is not loaded, NetlinkFailed whenever the kernel refuses.
    """

    def __init__(self) -> None:
        self._client = AsyncClient()
        super().__init__(self._client)

    def request(self, command: Command, flags: int = 0, **attributes: int | None) -> list[Any]:
        """Send a request and return the answers, undecoded; attributes that are None are left out."""
        return self._run(self._client.request(command, flags, **attributes))

    def regions(self) -> list[Region]:
        """List all regions that this user may see, in the order of their ids.

        Raises NetlinkFailed with EACCES if there are only others; DumpInterrupted.
        """
        return self._run(self._client.regions())

    def region(self, region: int) -> Region:
        """Get one region; ENOENT if it does not exist."""
        return self._run(self._client.region(region))

    def interfaces(self, region: int | None = None) -> list[Interface]:
        """List the interfaces of one region, or of all."""
        return self._run(self._client.interfaces(region))

    def interface(self, region: int, interface: int) -> Interface:
        """Get one interface; INTERFACE_CONTROL is the module's own."""
        return self._run(self._client.interface(region, interface))

    def pools(self) -> list[Pool]:
        """List the pools of all regions; a region before SETUP has none."""
        return self._run(self._client.pools())

    def pool(self, region: int) -> Pool:
        """Get the pool of one region; ENOENT before SETUP."""
        return self._run(self._client.pool(region))

    def snapshots(self, region: int | None = None) -> list[Snapshot]:
        """List the snapshots of one region, or of all."""
        return self._run(self._client.snapshots(region))

    def snapshot(self, region: int, snapshot: int) -> Snapshot:
        """Get one snapshot."""
        return self._run(self._client.snapshot(region, snapshot))

    def event_interval(self) -> int:
        """Get how many milliseconds lie between two pool events of a region at least."""
        return self._run(self._client.event_interval())

    def set_event_interval(self, milliseconds: int) -> None:
        """Set it; takes effect at the next look at each pool. Needs CAP_SYS_ADMIN."""
        self._run(self._client.set_event_interval(milliseconds))

    def set(self, region: int, *, flush_threshold: int | None = None, pool_pages: int | None = None) -> None:
        """Change a region at run time: all that is given, or nothing; see AsyncClient.set."""
        self._run(self._client.set(region, flush_threshold=flush_threshold, pool_pages=pool_pages))

    def events(self, timeout: float | None = None) -> "Events":
        """Listen to events, on a socket of its own; needs CAP_SYS_ADMIN. See Events."""
        return Events(timeout)


class Events(Runner):
    """An iterator over events as they come; a context manager.

    Ends after `timeout` seconds without one, if that is given. Nothing that happens after it was made is
    missed, unless the reader is so slow that the kernel drops events: then NetlinkFailed with ENOBUFS.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._events = AsyncEvents(timeout)
        super().__init__(self._events)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return self._run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> Event:
        return await anext(self._events)
