"""Runs in an icount guest, where CPU time counts instructions: what exmapctl status and top take, as JSON."""

import fcntl
import json
import os
import pty
import struct
import sys
import termios

import libexmap

EXMAPCTL = (sys.executable, "-m", "exmapctl")
REGIONS = 3
REFRESHES = 10


def instructions(*arguments: str) -> float:
    """Run exmapctl on a terminal of 80 by 24, and say what it took."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(EXMAPCTL[0], [*EXMAPCTL, *arguments])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        while os.read(fd, 65536):
            pass
    except OSError:
        pass  # that is how the end of a terminal shows
    os.close(fd)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return (usage.ru_utime + usage.ru_stime) * 1e9


def main() -> None:
    """Measure."""
    regions = [
        libexmap.Region.open(pages=4096, pool=256, interfaces=4, backend="kernel") for _ in range(REGIONS)
    ]
    instructions("status")
    status = instructions("status")
    few, many = (instructions("top", "--interval", "0.1", "--count", str(n)) for n in (2, 2 + REFRESHES))
    print(json.dumps({"status": status, "refresh": (many - few) / REFRESHES}))
    for region in regions:
        region.close()


if __name__ == "__main__":
    main()
