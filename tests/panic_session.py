"""Runs in a guest: have snapshots, and NVMe commands in flight, say so on stdout, and panic when told to.

The controller stops after a full completion queue. So what is submitted when the queue is full of completions
that were reaped, but of which the controller was not told, stays in flight for ever.
"""

import dataclasses
import json
import os
import time
from pathlib import Path

from nvme_device import owned_controller

import libexmap

DEPTH = 32
# reaped, and one less than libexmap tells the controller of at once
REAPED = (DEPTH + 3) // 4 - 1
FIRST_PAGE = 512


def main() -> None:
    """Panic, when there is a file `go` among the results."""
    with (
        libexmap.Region.open(pages=4096, pool=1500, snapshots=True, backend="kernel") as region,
        region.nvme(owned_controller(), depth=DEPTH) as queue,
    ):
        region[0].alloc(range(100))
        region[0].alloc(range(FIRST_PAGE, FIRST_PAGE + 100))
        older = region.snapshot(count=512)
        region.page(3)[0] = 1
        newer = region.snapshot(count=512, reserve=5)
        region[0].free(range(50, 60))
        pages = [FIRST_PAGE + i for i in range(DEPTH - 1 + REAPED)]
        blocks = [8 * page for page in pages]
        assert queue.submit("read", pages[: DEPTH - 1], blocks[: DEPTH - 1]) == DEPTH - 1
        time.sleep(1)
        assert len(queue.wait(REAPED, REAPED).tags) == REAPED
        assert queue.submit("read", pages[DEPTH - 1 :], blocks[DEPTH - 1 :]) == REAPED
        time.sleep(1)
        truth = {
            "pid": os.getpid(),
            "address": region.page(0).ctypes.data,
            "snapshots": [dataclasses.asdict(snapshot.info()) for snapshot in (older, newer)],
            "in_flight": pages[DEPTH - 1 :],
            "lba_size": queue.lba_size,
        }
        print(json.dumps(truth), flush=True)
        while not Path(os.environ["EXMAP_OUT"], "go").exists():
            time.sleep(0.5)
        Path("/proc/sysrq-trigger").write_text("c")


if __name__ == "__main__":
    main()
