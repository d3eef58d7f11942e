"""Messages of the family for pyroute2, and how they become values."""

import errno
from typing import Any

from pyroute2.netlink import genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket

from exmap_netlink.constants import ATTRIBUTES, FAMILY, VERSION, Command
from exmap_netlink.errors import FamilyAbsent, NetlinkFailed
from exmap_netlink.types import Value, make

__all__ = ["ExmapMessage", "ExmapSocket", "decode", "failed", "open_socket", "request"]

PREFIX = "EXMAP_GENL_A_"


class ExmapMessage(genlmsg):  # type: ignore[misc]
    """A message of the family."""

    nla_map = tuple((PREFIX + name, kind) for name, kind in ATTRIBUTES)


class ExmapSocket(AsyncGenericNetlinkSocket):  # type: ignore[misc]
    """Leaves it to its caller to say that there is no such family."""

    module_err_level = "debug"


def request(command: Command, **attributes: int | None) -> ExmapMessage:
    """Make a request; attributes that are None are left out."""
    message = ExmapMessage()
    message["cmd"] = command
    message["version"] = VERSION
    message["attrs"] = [
        (PREFIX + name.upper(), value) for name, value in attributes.items() if value is not None
    ]
    return message


def decode(kind: type[Value], message: Any, **fields: Any) -> Value:
    """Make a value of a message."""
    return make(kind, lambda name: message.get_attr(PREFIX + name), **fields)


def failed(error: NetlinkError, what: str) -> NetlinkFailed:
    """Translate an error of pyroute2."""
    if what == "bind" and error.code == errno.ENOENT:
        return FamilyAbsent()
    return NetlinkFailed(error.code, what)


async def open_socket() -> ExmapSocket:
    """Open a socket that is bound to the family.

    Raises FamilyAbsent, NetlinkFailed.
    """
    socket = ExmapSocket()
    try:
        await socket.bind(FAMILY, ExmapMessage)
    except NetlinkError as error:
        socket.close()
        raise failed(error, "bind") from error
    return socket
