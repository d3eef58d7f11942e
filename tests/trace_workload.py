"""Does everything that the module has a tracepoint for, over and over, until it is killed.

Prints a character a round.
Give it the address of a controller that belongs to exmap-nvme, for the events of NVMe commands.
"""

import mmap
import os
import sys
import time

import libexmap

PAGES, POOL = 1024, 256


def map_and_free(region: libexmap.Region) -> None:
    """Calls, flushes for several reasons, frames that are retired."""
    region[0].alloc(range(512, 576))
    region[0].free(range(512, 544))
    region[0].free(range(544, 576), lazy=True)
    region.barrier()


def freeze(region: libexmap.Region) -> None:
    """A snapshot that is read, written beside, left a frame, and broken for lack of frames."""
    region[0].alloc(range(100))
    with region.snapshot() as snapshot:
        snapshot.page(0)[0]
        for page in range(10):
            region.page(page)[0] = 1
        region[0].free([20])
        region[0].alloc(range(100, 100 + region.counters.free))
        region.page(10)[0] = 1
    region[0].free(range(POOL))


def drive(region: libexmap.Region, address: str) -> None:
    """A read that the kernel submits, and a reset."""
    fd = libexmap.nvme_backing(address)
    with mmap.mmap(-1, 4096) as buffer:
        os.preadv(fd, [buffer], 0)
    os.close(fd)
    with region.nvme(address) as queue:
        queue.reset()


def main() -> None:
    """Work until killed."""
    with libexmap.Region.open(
        pages=PAGES, pool=POOL, interfaces=1, snapshots=True, backend="kernel"
    ) as region:
        while True:
            map_and_free(region)
            freeze(region)
            for address in sys.argv[1:]:
                drive(region, address)
            print(end=".", flush=True)
            time.sleep(0.05)


if __name__ == "__main__":
    main()
