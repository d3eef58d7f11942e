"""The client, for asyncio, on pyroute2."""

import asyncio
import errno
from collections import deque
from types import TracebackType
from typing import Any, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError

from exmap_netlink.constants import GROUP_EVENTS, Command
from exmap_netlink.errors import DumpInterrupted, NetlinkFailed
from exmap_netlink.message import ExmapSocket, decode, failed, open_socket, request
from exmap_netlink.types import Event, Interface, Pool, Region, Snapshot, Value

__all__ = ["AsyncClient", "AsyncEvents"]

ATTEMPTS = 10


class AsyncClient:
    """Asks the module, and tells it; an asynchronous context manager.

    Raises FamilyAbsent when it is entered and the module is not loaded, NetlinkFailed whenever the kernel
    refuses. Requests of several tasks may overlap.
    """

    _socket: ExmapSocket

    def __init__(self) -> None:
        # a socket has one dump at a time: another one gets EBUSY
        self._dumping = asyncio.Lock()

    async def open(self) -> None:
        """Open the socket, as entering the context does."""
        self._socket = await open_socket()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def request(self, command: Command, flags: int = 0, **attributes: int | None) -> list[Any]:
        """Send a request and return the answers, undecoded; attributes that are None are left out."""
        try:
            answers = await self._socket.nlm_request(
                request(command, **attributes),
                msg_type=self._socket.prid,
                msg_flags=NLM_F_REQUEST | flags,
            )
            return [answer async for answer in answers]
        except NetlinkError as error:
            raise failed(error, command.name.lower()) from error

    async def _dump(self, kind: type[Value], command: Command, region: int | None) -> list[Value]:
        for _ in range(ATTEMPTS):
            async with self._dumping:
                answers = await self.request(command, NLM_F_DUMP, region=region)
            if not any(answer["header"]["flags"] & NLM_F_DUMP_INTR for answer in answers):
                return [decode(kind, answer) for answer in answers]
        raise DumpInterrupted(command.name.lower())

    async def _one(self, kind: type[Value], command: Command, **attributes: int) -> Value:
        return decode(kind, (await self.request(command, **attributes))[0])

    async def regions(self) -> list[Region]:
        """List all regions that this user may see, in the order of their ids.

        Raises NetlinkFailed with EACCES if there are only others; DumpInterrupted.
        """
        return await self._dump(Region, Command.REGION_GET, None)

    async def region(self, region: int) -> Region:
        """Get one region; ENOENT if it does not exist."""
        return await self._one(Region, Command.REGION_GET, region=region)

    async def interfaces(self, region: int | None = None) -> list[Interface]:
        """List the interfaces of one region, or of all."""
        return await self._dump(Interface, Command.INTERFACE_GET, region)

    async def interface(self, region: int, interface: int) -> Interface:
        """Get one interface; INTERFACE_CONTROL is the module's own."""
        return await self._one(Interface, Command.INTERFACE_GET, region=region, interface=interface)

    async def pools(self) -> list[Pool]:
        """List the pools of all regions; a region before SETUP has none."""
        return await self._dump(Pool, Command.POOL_GET, None)

    async def pool(self, region: int) -> Pool:
        """Get the pool of one region; ENOENT before SETUP."""
        return await self._one(Pool, Command.POOL_GET, region=region)

    async def snapshots(self, region: int | None = None) -> list[Snapshot]:
        """List the snapshots of one region, or of all."""
        return await self._dump(Snapshot, Command.SNAPSHOT_GET, region)

    async def snapshot(self, region: int, snapshot: int) -> Snapshot:
        """Get one snapshot."""
        return await self._one(Snapshot, Command.SNAPSHOT_GET, region=region, snapshot=snapshot)

    async def event_interval(self) -> int:
        """Get how many milliseconds lie between two pool events of a region at least."""
        answer = (await self.request(Command.SETTINGS_GET))[0]
        return int(answer.get_attr("EXMAP_GENL_A_EVENT_INTERVAL"))

    async def set_event_interval(self, milliseconds: int) -> None:
        """Set it; takes effect at the next look at each pool. Needs CAP_SYS_ADMIN."""
        await self.request(Command.SETTINGS_SET, NLM_F_ACK, event_interval=milliseconds)

    async def set(
        self, region: int, *, flush_threshold: int | None = None, pool_pages: int | None = None
    ) -> None:
        """Change a region at run time: all that is given, or nothing. Needs CAP_SYS_ADMIN.

        Raises NetlinkFailed: EPERM; ENOENT; ERANGE; EINVAL if nothing is given; EBUSY if the pool has not
        enough free frames to shrink; ENOMEM; EBADF before SETUP; EPROTO if the region is dead.
        """
        await self.request(
            Command.REGION_SET,
            NLM_F_ACK,
            region=region,
            flush_threshold=flush_threshold,
            pool_pages=pool_pages,
        )


class AsyncEvents:
    """An asynchronous iterator over events as they come, and context manager; needs CAP_SYS_ADMIN.

    Ends after `timeout` seconds without one, if that is given. Nothing that happens after it was entered is
    missed, unless the reader is so slow that the kernel drops events: then NetlinkFailed with ENOBUFS.
    """

    _socket: ExmapSocket

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._waiting: deque[Event] = deque()

    async def open(self) -> None:
        """Begin to listen, as entering the context does."""
        self._socket = await open_socket()
        try:
            self._socket.add_membership(GROUP_EVENTS)
        except OSError as error:
            self._socket.close()
            raise NetlinkFailed(error.errno or errno.EPERM, "events") from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _receive(self) -> list[Any]:
        return [message async for message in self._socket.get()]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            try:
                messages = await asyncio.wait_for(self._receive(), self._timeout)
            except TimeoutError:
                raise StopAsyncIteration from None
            except NetlinkError as error:
                raise failed(error, "events") from error
            for message in messages:
                self._waiting.append(decode(Event, message, event=Command(message["cmd"]).name.lower()))
        return self._waiting.popleft()
