"""The guest's side of tests/crash/test_power.py: recover a database, audit it, work until the power fails.

    power_guest.py DISK LOAD DURABILITY

Partition 1 of the disk has the database; partition 2 gets the acknowledgements.  $EXMAP_OUT, which is on the
other machine, has those of earlier lives, and gets them as well, after that.
"""

import json
import os
import sys
from pathlib import Path

from loads import LOADS, TALLY, Tally
from power import Acknowledger


def main(disk: str, name: str, durability: str) -> None:
    """Put what the audit found into $EXMAP_OUT, and work."""
    out = Path(os.environ["EXMAP_OUT"])
    load, path = LOADS[name], Path(f"{disk}p1")
    options = {"backend": "kernel", "durability": durability}
    before = [(a, b, c) for a, b, c in TALLY.iter_unpack((out / "acknowledged").read_bytes())]
    found = load.audit(path, before, **options)
    (out / "audit.new").write_text(json.dumps([found.seconds, found.recovered]))
    (out / "audit.new").rename(out / "audit")
    inside = Acknowledger(Path(f"{disk}p2"), 0)
    outside = os.open(out / "acknowledged", os.O_RDWR)

    def acknowledge(thread: int, tally: Tally) -> None:
        inside(thread, tally)
        os.pwrite(outside, TALLY.pack(*tally), thread * TALLY.size)

    # from here on they may not be lost either
    for thread, tally in enumerate(found.tallies):
        acknowledge(thread, tally)
    load.work(path, found.tallies, acknowledge, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
