"""The guest's side of tests/crash/test_power.py: recover the bank, audit it, and work until the power fails.

    power_guest.py DISK DURABILITY [LAST...]

Partition 1 of the disk has the bank, which is made unless the last transfers that were acknowledged,
one a thread, are given; partition 2 gets the acknowledgements.  $EXMAP_OUT, which is on the
other machine, gets them as well, after that.
"""

import json
import os
import sys
from pathlib import Path

import exmapdb
from bank import ACK, THREADS, Bank, audit, make_bank, up_to, work
from power import Acknowledger

OPTIONS = {"memory": "256KiB", "backend": "kernel", "log": "256KiB"}


def main(disk: str, durability: exmapdb.Durability, *last: str) -> None:
    """Put what the audit found into $EXMAP_OUT, and work."""
    out = Path(os.environ["EXMAP_OUT"])
    options = OPTIONS | {"durability": durability}
    path = Path(f"{disk}p1")
    bank = Bank(path, options, up_to(map(int, last))) if last else make_bank(path, **options)
    found = audit(bank, durable=True)
    (out / "audit.new").write_text(json.dumps([found.seconds, found.recovered]))
    (out / "audit.new").rename(out / "audit")
    inside = Acknowledger(Path(f"{disk}p2"), 0)
    outside = os.open(out / "acknowledged", os.O_RDWR)

    def acknowledge(number: int) -> None:
        inside(number)
        os.pwrite(outside, ACK.pack(number), number % THREADS * ACK.size)

    work(bank, found.firsts, acknowledge)


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:])  # type: ignore[arg-type]
