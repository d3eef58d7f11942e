"""Netlink by hand: dumps that stop half-way, and hundreds of messages, for which pyroute2 is slow."""

import socket

from exmap_netlink import Command, Reader
from exmap_netlink.reader import NETLINK_GENERIC, pack_request, unpack_messages
from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE

__all__ = ["NETLINK_GENERIC", "dump", "family_number", "read_some", "start_dump"]


def family_number() -> int:
    with Reader() as reader:
        return reader.family


def start_dump(family: int, command: Command = Command.REGION_GET) -> socket.socket:
    """A dump that has been begun, and that nobody reads on."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    sock.sendto(pack_request(family, command, flags=NLM_F_DUMP), (0, 0))
    return sock


def read_some(sock: socket.socket) -> list[tuple[int, int, int]]:
    """Type, flags and first attribute (the region) of the next messages."""
    return [
        (kind, flags, int.from_bytes(payload[8:12], "little"))
        for kind, flags, payload in unpack_messages(sock.recv(1 << 20))
    ]


def dump(family: int, command: Command = Command.REGION_GET) -> tuple[list[int], bool]:
    """The regions of a dump, in its order, and whether it was interrupted."""
    messages: list[tuple[int, int, int]] = []
    with start_dump(family, command) as sock:
        while not messages or messages[-1][0] != NLMSG_DONE:
            messages += read_some(sock)
    regions = [first for kind, _, first in messages if kind == family]
    assert len(regions) == len(messages) - 1
    return regions, any(flags & NLM_F_DUMP_INTR for _, flags, _ in messages)
