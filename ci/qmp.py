"""Talk to QEMU's monitor (QMP): has the guest panicked, what is in its memory, take a device away."""

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

__all__ = ["Monitor", "MonitorError"]

COMMAND_SECONDS = 120.0


class MonitorError(Exception):
    """QEMU does not answer, or refuses."""


class Monitor:
    """QEMU's monitor at a Unix domain socket, which QEMU makes some time after its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._panicked = False

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def panicked(self) -> bool:
        """Tell whether the guest has said through pvpanic that its kernel panicked."""
        with contextlib.suppress(MonitorError, BlockingIOError):
            self._connect()
            while True:
                self._receive(0)
        return self._panicked

    def dump(self, path: Path) -> None:
        """Stop the guest, and write its memory to an ELF file, as large as that.

        :raises MonitorError: QEMU is gone or refuses.
        """
        self._connect()
        self._execute("dump-guest-memory", protocol=f"file:{path}", paging=False)

    def unplug(self, device: str) -> None:
        """Press the button of a device's slot: the guest has some seconds to object, then it is gone.

        :raises MonitorError: QEMU is gone or refuses.
        """
        self._connect()
        self._execute("device_del", id=device)

    def _connect(self) -> None:
        if self._socket:
            return
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._path))
        except OSError as error:
            connection.close()
            raise MonitorError(f"no monitor at {self._path}: {error.strerror}") from None
        self._socket = connection
        self._receive(COMMAND_SECONDS)
        self._execute("qmp_capabilities")

    def _execute(self, command: str, **arguments: Any) -> None:
        assert self._socket
        request = json.dumps({"execute": command, "arguments": arguments})
        try:
            self._socket.sendall(request.encode())
        except OSError as error:
            raise MonitorError(f"{command}: {error.strerror}") from None
        limit = time.monotonic() + COMMAND_SECONDS
        while "return" not in (answer := self._receive(limit - time.monotonic())):
            if "error" in answer:
                raise MonitorError(f"{command}: {answer['error']['desc']}")

    def _receive(self, timeout: float) -> dict[str, Any]:
        """Return the next message; events are noted besides.

        :raises BlockingIOError: timeout is 0 and there is none.
        """
        assert self._socket
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(timeout, 0))
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                raise
            except OSError as error:
                raise MonitorError(f"QEMU does not answer: {error}") from None
            if not data:
                raise MonitorError("QEMU has gone")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        self._panicked |= message.get("event") == "GUEST_PANICKED"
        return message
