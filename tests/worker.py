"""A process that acknowledges what it has done, and is killed."""

import os
import signal
import threading
from collections.abc import Callable

__all__ = ["kill_at_work"]


def kill_at_work(
    work: Callable[[Callable[[bytes], object]], None], size: int, count: int, seconds: float = 0.0
) -> bytes:
    """Fork a process that works, kill it so long after `count` acknowledgements, and return all of them.

    work gets what takes one, of `size` bytes, and never returns.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            work(lambda data: os.write(writer, data))
        finally:
            # an error in the child shows as a status that is no signal
            os._exit(1)
    os.close(writer)
    killer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    data = bytearray()
    while not killer.ident:
        part = os.read(reader, size) if count * size > len(data) else b""
        data += part
        if not part:
            killer.start()
    while part := os.read(reader, 1 << 16):
        data += part
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    killer.join()
    assert os.WIFSIGNALED(status), "the worker failed by itself"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return bytes(data[: len(data) // size * size])
