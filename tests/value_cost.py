"""What values larger than a page cost to read, beside copies of as many bytes: ratios, in turns.

.venv/bin/python tests/value_cost.py [posix|kernel] [FOLDER]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np

TURNS = 41
VALUE, SCANNED, ROWS = 1 << 20, 100 << 10, 200


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare(name: str, size: int, call: Callable[[], Any]) -> None:
    """Print how quick a call is that gives so many bytes, where a copy of as many is 1."""
    source = np.arange(size, dtype=np.uint8)
    kept = np.empty_like(source)
    copies: dict[str, Callable[[], Any]] = {
        "into memory in use": lambda: np.copyto(kept, source),
        "into new memory": source.tobytes,
    }
    times: dict[str, list[float]] = {what: [] for what in ("call", *copies)}
    for _ in range(TURNS):
        times["call"].append(timed(call))
        for what, copy in copies.items():
            times[what].append(timed(copy))
    mine = statistics.median(times["call"])
    ratios = ", ".join(f"{statistics.median(times[what]) / mine:.2f} of memcpy {what}" for what in copies)
    print(f"{name}: {ratios}")


def main(backend: Any = "posix", folder: str | None = None) -> None:
    """Make a database, all of it resident, and compare."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as made,
        exmapdb.open(Path(made) / "t.exdb", memory="64MiB", backend=backend, durability="async") as db,
    ):
        table = db.create_table("t", {"k": "int64", "v": "bytes"}, key="k")
        table.insert({"k": 0, "v": bytes(VALUE)})
        scanned = db.create_table("s", {"k": "int64", "v": "bytes"}, key="k")
        for key in range(ROWS):
            scanned.insert({"k": key, "v": bytes([key]) * SCANNED})
        compare("get of a value of 1 MiB", VALUE, lambda: table.get(0))
        compare("to_arrow of 200 values of 100 KiB", ROWS * SCANNED, scanned.to_arrow)
        compare("the same, batch by batch", ROWS * SCANNED, lambda: sum(b.rows for b in scanned.scan()))
        assert db.stats().misses == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
