"""A disk whose volatile cache is lost: whatever state that leaves, what was acknowledged is there.

qemu-storage-daemon shows a recorded image as a file, on which a load works by way of the posix backend.
"""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import disks
import exmapdb
import processes
import pytest
from loads import LOADS, NOTHING, THREADS, kill_while_it_works
from power import DISK_BYTES, Acknowledger, check_states, make_disk
from write_log import read_log

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-storage-daemon") or not Path("/dev/fuse").exists(),
    reason="no qemu-storage-daemon (Debian's qemu-system-common), or no /dev/fuse",
)
PAGE = 4096
SCHEMA = {"k": "int64", "v": "text"}
LONG = int(os.environ.get("EXMAP_KILLS", "300"))


@contextlib.contextmanager
def recorded(image: Path) -> Iterator[Path]:
    """Yield a file that is the image, and whose writes and flushes are recorded."""
    file = image.with_name("recorded")
    file.touch()
    option, _ = disks.options([], image, image.parent)
    export = f"type=fuse,id=export,node-name=n0,mountpoint={file},writable=on"
    command = ["qemu-storage-daemon", *option.split(), "--export", export]
    command[1] = "--blockdev"
    with processes.process_group(command):
        limit = time.monotonic() + 60
        while file.stat().st_size == 0:
            assert time.monotonic() < limit, "no export"
            time.sleep(0.01)
        yield file


def fail_often(folder: Path, name: str, durability: exmapdb.Durability, failures: int, states: int) -> None:
    rng = random.Random(f"{name} {durability} {failures}")
    load, image = LOADS[name], folder / "disk"
    make_disk(load, image)
    tallies = [NOTHING] * THREADS
    for _ in range(failures):
        base = image.read_bytes()
        with recorded(image) as file:
            acknowledged = kill_while_it_works(
                load,
                file,
                tallies,
                rng.randrange(50, 250),
                Acknowledger(file, DISK_BYTES),
                backend="posix",
                durability=durability,
            )
        log = read_log(image.with_name("disk.log"))
        assert sum(write.offset >= DISK_BYTES for write in log) > 40
        check_states(load, base, log, tallies, rng, states, folder)
        tallies = load.audit(image, acknowledged, backend="posix").tallies


@pytest.mark.parametrize(("name", "durability"), [("bank", "sync"), ("tpcc", "group")])
def test_a_lost_cache_loses_nothing_that_was_acknowledged(
    tmp_path: Path, name: str, durability: exmapdb.Durability
) -> None:
    fail_often(tmp_path, name, durability, failures=2, states=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LOADS))
@pytest.mark.parametrize("durability", ["sync", "group"])
def test_a_lost_cache_loses_nothing_that_was_acknowledged_at_length(
    tmp_path: Path, name: str, durability: exmapdb.Durability
) -> None:
    fail_often(tmp_path, name, durability, failures=max(LONG // 20, 1), states=40)


def crashed_between_copies(path: Path) -> bytes:
    """Return a file whose copies of page 0 name two images, with 1000 rows in t and 400 in u."""
    rows = {"k": range(1000), "v": [f"{i:080}" for i in range(1000)]}
    with exmapdb.open(path, memory="512KiB", backend="posix", log="256KiB") as db:
        table = db.create_table("t", SCHEMA, key="k")
        table.insert_many(rows)
        db.checkpoint()
        older = path.read_bytes()[PAGE : 2 * PAGE]
        table.insert_many(rows, replace=True)
        db.checkpoint()
        table.delete_many({"k": range(1000, 2000)})
        other = db.create_table("u", SCHEMA, key="k")
        other.insert_many({name: values[:400] for name, values in rows.items()})
        data = path.read_bytes()
    return data[:PAGE] + older + data[2 * PAGE :]


def test_a_crash_between_the_copies_of_page_0_may_be_followed_by_one_that_damages_a_copy(
    tmp_path: Path,
) -> None:
    base = crashed_between_copies(tmp_path / "t.exdb").ljust(DISK_BYTES, b"\0")
    image, state = tmp_path / "disk", tmp_path / "state.exdb"
    image.write_bytes(base)
    with recorded(image) as file, exmapdb.open(file, flag="w", memory="512KiB", backend="posix"):
        pass
    log = read_log(image.with_name("disk.log"))
    copies = [place for place, write in enumerate(log) if write.data and write.offset < 2 * PAGE]
    assert len(copies) > 2
    for place in copies:
        disk = bytearray(base)
        for write in log[:place]:
            disk[write.offset : write.offset + len(write.data)] = write.data
        # the sector that was being written
        disk[log[place].offset : log[place].offset + 512] = b"?" * 512
        state.write_bytes(disk)
        with exmapdb.open(state, flag="w", memory="512KiB", backend="posix") as db:
            assert db.check().trees
            for name, count in (("t", 1000), ("u", 400)):
                found = [row for batch in db.table(name).scan() for row in batch.to_rows()]
                assert found == [(i, f"{i:080}") for i in range(count)]
