"""A synchronous client on pyroute2."""

import asyncio
import errno
from collections import deque
from types import TracebackType
from typing import Any, Self, TypeVar

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket, GenericNetlinkSocket

from exmap_netlink.constants import ATTRIBUTES, FAMILY, GROUP_EVENTS, VERSION, Command
from exmap_netlink.errors import DumpInterrupted, FamilyAbsent, NetlinkFailed
from exmap_netlink.types import Event, Interface, Pool, Region, Snapshot

__all__ = ["Client", "Events", "ExmapMessage"]

PREFIX = "EXMAP_GENL_A_"
ATTEMPTS = 10

Value = TypeVar("Value", Region, Interface, Pool, Snapshot, Event)


class ExmapMessage(genlmsg):  # type: ignore[misc]
    """A message of the family."""

    nla_map = tuple((PREFIX + name, kind) for name, kind in ATTRIBUTES)


class EventSocket(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    """Leaves it to its caller to say that there is no such family."""

    module_err_level = "debug"


class RequestSocket(GenericNetlinkSocket):  # type: ignore[misc]
    """The same, synchronous."""

    async_class = EventSocket


def decode(kind: type[Value], message: Any, **fields: Any) -> Value:
    """Make a value of a message; flags that are not there are False, other attributes None."""
    for name, of in kind.__annotations__.items():
        if name not in fields:
            value = message.get_attr(PREFIX + name.upper())
            fields[name] = value is not None if of is bool else value
    return kind(**fields)


def failed(error: NetlinkError, what: str) -> NetlinkFailed:
    """Translate an error of pyroute2."""
    if what == "bind" and error.code == errno.ENOENT:
        return FamilyAbsent()
    return NetlinkFailed(error.code, what)


class Client:
    """Asks the module, and tells it; a context manager.

    Raises FamilyAbsent if the module is not loaded, NetlinkFailed whenever the kernel refuses.
    """

    def __init__(self) -> None:
        self._socket = RequestSocket()
        try:
            self._socket.bind(FAMILY, ExmapMessage)
        except NetlinkError as error:
            self._socket.close()
            raise failed(error, "bind") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, command: Command, flags: int = 0, **attributes: int | None) -> list[Any]:
        """Send a request and return the answers, undecoded; attributes that are None are left out."""
        message = ExmapMessage()
        message["cmd"] = command
        message["version"] = VERSION
        message["attrs"] = [
            (PREFIX + name.upper(), value) for name, value in attributes.items() if value is not None
        ]
        try:
            return list(
                self._socket.nlm_request(message, msg_type=self._socket.prid, msg_flags=NLM_F_REQUEST | flags)
            )
        except NetlinkError as error:
            raise failed(error, command.name.lower()) from error

    def _dump(self, kind: type[Value], command: Command, region: int | None) -> list[Value]:
        for _ in range(ATTEMPTS):
            answers = self.request(command, NLM_F_DUMP, region=region)
            if not any(answer["header"]["flags"] & NLM_F_DUMP_INTR for answer in answers):
                return [decode(kind, answer) for answer in answers]
        raise DumpInterrupted(command.name.lower())

    def _one(self, kind: type[Value], command: Command, **attributes: int) -> Value:
        return decode(kind, self.request(command, **attributes)[0])

    def regions(self) -> list[Region]:
        """List all regions that this user may see, in the order of their ids.

        Raises NetlinkFailed with EACCES if there are only others; DumpInterrupted.
        """
        return self._dump(Region, Command.REGION_GET, None)

    def region(self, region: int) -> Region:
        """Get one region; ENOENT if it does not exist."""
        return self._one(Region, Command.REGION_GET, region=region)

    def interfaces(self, region: int | None = None) -> list[Interface]:
        """List the interfaces of one region, or of all."""
        return self._dump(Interface, Command.INTERFACE_GET, region)

    def interface(self, region: int, interface: int) -> Interface:
        """Get one interface; INTERFACE_CONTROL is the module's own."""
        return self._one(Interface, Command.INTERFACE_GET, region=region, interface=interface)

    def pools(self) -> list[Pool]:
        """List the pools of all regions; a region before SETUP has none."""
        return self._dump(Pool, Command.POOL_GET, None)

    def pool(self, region: int) -> Pool:
        """Get the pool of one region; ENOENT before SETUP."""
        return self._one(Pool, Command.POOL_GET, region=region)

    def snapshots(self, region: int | None = None) -> list[Snapshot]:
        """List the snapshots of one region, or of all."""
        return self._dump(Snapshot, Command.SNAPSHOT_GET, region)

    def snapshot(self, region: int, snapshot: int) -> Snapshot:
        """Get one snapshot."""
        return self._one(Snapshot, Command.SNAPSHOT_GET, region=region, snapshot=snapshot)

    def event_interval(self) -> int:
        """Get how many milliseconds lie between two pool events of a region at least."""
        answer = self.request(Command.SETTINGS_GET)[0]
        return int(answer.get_attr(PREFIX + "EVENT_INTERVAL"))

    def set_event_interval(self, milliseconds: int) -> None:
        """Set it; takes effect at the next look at each pool. Needs CAP_SYS_ADMIN."""
        self.request(Command.SETTINGS_SET, NLM_F_ACK, event_interval=milliseconds)

    def set(self, region: int, *, flush_threshold: int | None = None, pool_pages: int | None = None) -> None:
        """Change a region at run time: all that is given, or nothing. Needs CAP_SYS_ADMIN.

        Raises NetlinkFailed: EPERM; ENOENT; ERANGE; EINVAL if nothing is given; EBUSY if the pool has not
        enough free frames to shrink; ENOMEM; EBADF before SETUP; EPROTO if the region is dead.
        """
        self.request(
            Command.REGION_SET,
            NLM_F_ACK,
            region=region,
            flush_threshold=flush_threshold,
            pool_pages=pool_pages,
        )

    def events(self, timeout: float | None = None) -> "Events":
        """Listen to events, on a socket of its own; needs CAP_SYS_ADMIN. See Events."""
        return Events(timeout)


class Events:
    """An iterator over events as they come; a context manager.

    Ends after `timeout` seconds without one, if that is given. Nothing that happens after it was made is
    missed, unless the reader is so slow that the kernel drops events: then NetlinkFailed with ENOBUFS.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._waiting: deque[Event] = deque()
        self._runner = asyncio.Runner()
        try:
            self._socket = self._runner.run(self._open())
        except BaseException:
            self._runner.close()
            raise

    async def _open(self) -> EventSocket:
        socket = EventSocket()
        try:
            await socket.bind(FAMILY, ExmapMessage)
            socket.add_membership(GROUP_EVENTS)
        except NetlinkError as error:
            socket.close()
            raise failed(error, "bind") from error
        except OSError as error:
            socket.close()
            raise NetlinkFailed(error.errno or errno.EPERM, "events") from error
        return socket

    async def _receive(self) -> list[Any]:
        return [message async for message in self._socket.get()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._runner.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._waiting:
            try:
                messages = self._runner.run(asyncio.wait_for(self._receive(), self._timeout))
            except TimeoutError:
                raise StopIteration from None
            except NetlinkError as error:
                raise failed(error, "events") from error
            for message in messages:
                self._waiting.append(decode(Event, message, event=Command(message["cmd"]).name.lower()))
        return self._waiting.popleft()
