"""Lists what there is, without pyroute2, whose import takes longer than all that `exmapctl status` does."""

import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from exmap_netlink.constants import ATTRIBUTES, FAMILY, VERSION, Command
from exmap_netlink.errors import DumpInterrupted, FamilyAbsent, NetlinkFailed
from exmap_netlink.types import Interface, Pool, Region, Snapshot, Value, make

__all__ = ["NETLINK_GENERIC", "Reader", "pack_request", "unpack_messages"]

# linux/netlink.h, linux/genetlink.h
NETLINK_GENERIC = 16
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2

HEADERS = struct.Struct("=IHHIIBBH")
ATTRIBUTE = struct.Struct("=HH")
NUMBER_OF = {name: number for number, (name, _) in enumerate(ATTRIBUTES)}
ATTEMPTS = 10
BUFFER = 1 << 17


def pack_request(family: int, command: int, attributes: bytes = b"", flags: int = 0) -> bytes:
    """Make a request."""
    length = HEADERS.size + len(attributes)
    return HEADERS.pack(length, family, NLM_F_REQUEST | flags, 1, 0, command, VERSION, 0) + attributes


def pack_attribute(number: int, value: bytes) -> bytes:
    """Make an attribute."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, number) + value + bytes(-length % 4)


def unpack_messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags, and what follows the header of netlink, of each message."""
    while data:
        length, kind, flags = struct.unpack_from("=IHH", data)
        yield kind, flags, data[16:length]
        data = data[(length + 3) & ~3 :]


def unpack_attributes(data: bytes) -> dict[int, bytes]:
    """Find the attributes of a message of generic netlink."""
    found = {}
    data = data[4:]
    while data:
        length, number = ATTRIBUTE.unpack_from(data)
        found[number] = data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


class Reader:
    """Lists regions, interfaces, pools and snapshots; a context manager.

    Gives what Client gives, and raises what it raises. `family` is the number of the family.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        try:
            self.family = self._find_family()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _find_family(self) -> int:
        name = pack_attribute(CTRL_ATTR_FAMILY_NAME, FAMILY.encode() + b"\0")
        self._socket.send(pack_request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name))
        kind, _, payload = next(unpack_messages(self._socket.recv(BUFFER)))
        if kind == NLMSG_ERROR:
            raise FamilyAbsent
        return int.from_bytes(unpack_attributes(payload)[CTRL_ATTR_FAMILY_ID], "little")

    def _answers(self, command: Command, attributes: bytes) -> tuple[list[bytes], bool]:
        """The payloads of a dump, and whether something changed meanwhile."""
        self._socket.send(pack_request(self.family, command, attributes, NLM_F_DUMP))
        answers: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, payload in unpack_messages(self._socket.recv(BUFFER)):
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    answers.append(payload)
                    continue
                error = -int.from_bytes(payload[:4], "little", signed=True)
                if error:
                    raise NetlinkFailed(error, command.name.lower())
                return answers, interrupted

    def _dump(self, kind: type[Value], command: Command, region: int | None) -> list[Value]:
        attributes = b"" if region is None else pack_attribute(NUMBER_OF["REGION"], struct.pack("=I", region))
        for _ in range(ATTEMPTS):
            answers, interrupted = self._answers(command, attributes)
            if not interrupted:
                return [decode(kind, answer) for answer in answers]
        raise DumpInterrupted(command.name.lower())

    def regions(self) -> list[Region]:
        """List all regions that this user may see; see Client."""
        return self._dump(Region, Command.REGION_GET, None)

    def interfaces(self, region: int | None = None) -> list[Interface]:
        """List the interfaces of one region, or of all."""
        return self._dump(Interface, Command.INTERFACE_GET, region)

    def pools(self) -> list[Pool]:
        """List the pools of all regions; a region before SETUP has none."""
        return self._dump(Pool, Command.POOL_GET, None)

    def snapshots(self, region: int | None = None) -> list[Snapshot]:
        """List the snapshots of one region, or of all."""
        return self._dump(Snapshot, Command.SNAPSHOT_GET, region)


def decode(kind: type[Value], payload: bytes) -> Value:
    """Make a value of a message."""
    found = unpack_attributes(payload)

    def number(name: str) -> int | None:
        value = found.get(NUMBER_OF[name])
        return None if value is None else int.from_bytes(value, "little")

    return make(kind, number)
