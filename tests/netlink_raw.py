"""Netlink by hand: dumps that stop half-way, and hundreds of messages, for which pyroute2 is slow."""

import socket
import struct

from exmap_netlink import FAMILY, Command
from exmap_netlink.client import ExmapMessage
from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE
from pyroute2.netlink.generic import GenericNetlinkSocket

__all__ = ["NETLINK_GENERIC", "dump", "family_number", "read_some", "start_dump"]

NETLINK_GENERIC = 16


def family_number() -> int:
    with GenericNetlinkSocket() as sock:
        sock.bind(FAMILY, ExmapMessage)
        return int(sock.prid)


def start_dump(family: int, command: Command = Command.REGION_GET) -> socket.socket:
    """A dump that has been begun, and that nobody reads on."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    header = struct.pack("=IHHIIBBH", 20, family, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, command, 1, 0)
    sock.sendto(header, (0, 0))
    return sock


def read_some(sock: socket.socket) -> list[tuple[int, int, int]]:
    """Type, flags and first attribute (the region) of the next messages."""
    data = sock.recv(1 << 20)
    messages = []
    while data:
        length, kind, flags = struct.unpack_from("=IHH", data)
        first = struct.unpack_from("=I", data, 24)[0] if length >= 28 else 0
        messages.append((kind, flags, first))
        data = data[(length + 3) & ~3 :]
    return messages


def dump(family: int, command: Command = Command.REGION_GET) -> tuple[list[int], bool]:
    """The regions of a dump, in its order, and whether it was interrupted."""
    messages: list[tuple[int, int, int]] = []
    with start_dump(family, command) as sock:
        while not messages or messages[-1][0] != NLMSG_DONE:
            messages += read_some(sock)
    regions = [first for kind, _, first in messages if kind == family]
    assert len(regions) == len(messages) - 1
    return regions, any(flags & NLM_F_DUMP_INTR for _, flags, _ in messages)
