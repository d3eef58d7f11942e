"""exmapdb on the kernel backend, beside posix, on files and a disk. Runs as root in the guest.

EXMAP_TEST_BLOCK names a disk that may be overwritten, EXMAP_TEST_DIR a directory on a file system
that is mounted from another disk.
"""

import functools
import json
import mmap
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from db_pages import check_file, page_blocks, read_pages
from exmapdb.cli import app
from typer.testing import CliRunner

pytestmark = pytest.mark.vm

PAGE = 4096
ROWS = 6000
DISK = os.environ.get("EXMAP_TEST_BLOCK", "/dev/nvme0n1")
needs_disk = pytest.mark.skipif(not Path(DISK).is_block_device(), reason=f"no {DISK}")


def small_demo(*arguments: str) -> Any:
    # in this process: starting Python takes an emulated machine very long
    small = ["demo", "--rows", "6000", "--lookups", "200", "--memory", "256KiB"]
    return CliRunner().invoke(app, [*small, *arguments])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that takes direct I/O, if there is one."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EXMAP_TEST_DIR", "/tmp")) as name:
        yield Path(name)


@pytest.fixture
def disk() -> str:
    """A disk without a trace of what it held."""
    fd = os.open(DISK, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 1 << 20) as zeros:
        os.pwritev(fd, [zeros], 0)
    os.close(fd)
    return DISK


def load(path: Path | str, backend: exmapdb.Backend, rows: int = ROWS) -> None:
    with exmapdb.open(path, memory="256KiB", backend=backend, flag="n") as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        for part in np.array_split(np.random.default_rng(3).permutation(rows), 6):
            table.insert_many({"k": part, "v": [f"{i:080}" for i in part]})
        assert db.stats().evicted > 0
        assert db.stats().backend == backend


def check(path: Path | str, backend: exmapdb.Backend, rows: int = ROWS, recovered: bool = False) -> None:
    with exmapdb.open(path, memory="256KiB", backend=backend, flag="w") as db:
        table = db.table("t")
        seen = [row for batch in table.scan() for row in batch.to_rows()]
        assert seen == [(i, f"{i:080}") for i in range(rows)]
        for i in range(0, rows, 19):
            assert table.get(i) == {"k": i, "v": f"{i:080}"}
        stats = db.stats()
        assert stats.backend == backend
        assert stats.evicted > stats.pool_pages
        assert (stats.recovered > 0) == recovered
        assert recovered or stats.pages_written == 0


@pytest.mark.parametrize(
    ("writer", "reader"), [("kernel", "kernel"), ("kernel", "posix"), ("posix", "kernel")]
)
def test_backends_read_each_others_files(
    folder: Path, writer: exmapdb.Backend, reader: exmapdb.Backend
) -> None:
    load(folder / "t.exdb", writer)
    check(folder / "t.exdb", reader)


def test_auto_takes_the_kernel_backend(folder: Path) -> None:
    with exmapdb.open(folder / "t.exdb", memory="256KiB") as db:
        assert db.stats().backend == "kernel"


def test_kernel_backend_works_without_direct_io() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        load(Path(name) / "t.exdb", "kernel")
        check(Path(name) / "t.exdb", "kernel")


@needs_disk
@pytest.mark.parametrize(
    ("writer", "reader"), [("kernel", "kernel"), ("kernel", "posix"), ("posix", "kernel")]
)
def test_backends_read_each_others_disks(disk: str, writer: exmapdb.Backend, reader: exmapdb.Backend) -> None:
    load(disk, writer)
    check(disk, reader)


def test_a_corrupt_page_is_named_and_can_be_mended(folder: Path) -> None:
    path = folder / "t.exdb"
    load(path, "kernel")
    places = page_blocks(path.read_bytes())
    page = max(places)
    good = read_pages(path)[page * PAGE :]
    with exmapdb.open(path, memory="256KiB", backend="kernel", flag="w") as db:
        table = db.table("t")
        write_block(path, places[page], bytes([good[0]]) + b"\1" + good[2:])
        for _ in range(2):
            with pytest.raises(exmapdb.CorruptPageError) as error:
                table.count()
            assert error.value.page == page
        write_block(path, places[page], good)
        assert table.count() == ROWS


def write_block(path: Path, block: int, data: bytes) -> None:
    # through the page cache, which direct reads write back first: not every file takes O_DIRECT
    with path.open("r+b") as file:
        file.seek(block * PAGE)
        file.write(data)


def test_a_file_cut_while_open_gives_a_named_error(folder: Path) -> None:
    path = folder / "t.exdb"
    load(path, "kernel")
    places = page_blocks(path.read_bytes())
    page = max(places, key=places.__getitem__)
    with exmapdb.open(path, memory="256KiB", backend="kernel", flag="w") as db:
        os.truncate(path, places[page] * PAGE)
        with pytest.raises(exmapdb.TruncatedDatabaseError) as error:
            db.table("t").count()
        assert error.value.page == page
        assert db.table("t").get(0) is not None or db.table("t").get(1) is not None


def test_a_full_disk_makes_the_database_read_only_and_loses_nothing() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        small = Path(name) / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", small], check=True)
        try:
            options: Any = {"memory": "256KiB", "backend": "kernel", "log": "256KiB"}
            db = exmapdb.open(small / "t.exdb", **options)
            table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
            rows = fill(table)
            with pytest.raises(exmapdb.ReadOnlyError):
                table.insert({"k": -1, "v": ""})
            with pytest.raises(exmapdb.ReadOnlyError):
                db.close()
            subprocess.run(["mount", "-o", "remount,size=8M", small], check=True)
            with exmapdb.open(small / "t.exdb", **options) as db:
                # the batch that failed may be there, all of it
                assert db.table("t").count() in (rows, rows + 100)
                db.table("t").insert({"k": -1, "v": ""})
        finally:
            subprocess.run(["umount", small], check=True)


def fill(table: exmapdb.Table) -> int:
    for i in range(0, 100_000, 100):
        try:
            table.insert_many({"k": np.arange(i, i + 100), "v": ["x" * 80] * 100})
        except exmapdb.StorageError:
            return i
    raise AssertionError("the disk took everything")


def test_a_copy_of_an_open_database_is_recovered_on_either_backend(folder: Path) -> None:
    path = folder / "t.exdb"
    load(path, "kernel")
    with exmapdb.open(path, memory="256KiB", backend="kernel", flag="w") as db:
        db.table("t").insert_many({"k": np.arange(-500, 0), "v": ["new"] * 500})
        data = path.read_bytes()
    for backend in ("kernel", "posix"):
        copy = folder / backend
        copy.write_bytes(data)
        with exmapdb.open(copy, memory="256KiB", backend=backend, flag="w") as db:
            assert db.stats().recovered == 1
            assert db.table("t").count() == ROWS + 500


def test_checkpoints_go_on_beside_writers_on_the_kernel_backend(folder: Path) -> None:
    path = folder / "t.exdb"
    with exmapdb.open(path, memory="512KiB", backend="kernel", workers=2, log="256KiB") as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        for part in np.array_split(np.random.default_rng(1).permutation(12_000), 60):
            table.insert_many({"k": part, "v": [f"{i:080}" for i in part]})
        assert db.stats().checkpoints > 4
        data = path.read_bytes()
    path.write_bytes(data)
    check(path, "kernel", 12_000, recovered=True)
    check_file(path)


def test_snapshots_and_transactions_beside_writers_on_the_kernel_backend(folder: Path) -> None:
    with exmapdb.open(folder / "t.exdb", memory="1MiB", backend="kernel", log="1MiB") as db:
        table = db.create_table("t", {"k": "int64", "n": "int64", "pad": "text"}, key="k")
        keys = np.arange(3000)
        table.insert_many({"k": keys, "n": keys * 0, "pad": ["p" * 80] * len(keys)})
        done = threading.Event()
        problems: list[object] = []

        def swap(txn: exmapdb.Transaction, a: int, b: int) -> None:
            mine = txn.table("t")
            for key, change in ((a, 1), (b, -1)):
                row = mine.get(key)
                assert row is not None
                mine.update(key, {"n": row["n"] + change})

        def write(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while not done.is_set():
                a, b = rng.choice(3000, 2, replace=False).tolist()
                db.run(functools.partial(swap, a=a, b=b))

        writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
        for thread in writers:
            thread.start()
        for _ in range(4):
            # a thread's first call of numpy.random may take longer than all snapshots
            commits = db.stats().commits
            while db.stats().commits < commits + 4:
                time.sleep(0.001)
            with db.snapshot() as snapshot:
                for _ in range(2):
                    seen = [batch["n"].values for batch in snapshot.table("t").scan(columns=["n"])]
                    values = np.concatenate(seen)
                    if len(values) != 3000 or values.sum():
                        problems.append(values.sum())
        done.set()
        for thread in writers:
            thread.join()
        assert problems == []
        assert sum(batch["n"].values.sum() for batch in table.scan()) == 0
        assert db.stats().commits > 10


def test_snapshots_side_by_side_on_the_kernel_backend(folder: Path) -> None:
    with exmapdb.open(folder / "t.exdb", memory="1MiB", backend="kernel", log="1MiB") as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        alive: list[tuple[exmapdb.Snapshot, str]] = []

        def fill(value: str) -> None:
            table.insert_many({"k": range(2000), "v": [value * 80] * 2000}, replace=True)

        def values(snapshot: exmapdb.Snapshot) -> set[str]:
            return {v for batch in snapshot.table("t").scan() for _, v in batch.to_rows()}

        # each holds what the next one's writers have changed, until too little of the pool is left
        with pytest.raises(exmapdb.StorageError, match="close some"):  # noqa: PT012
            for letter in "abcdefghijklmnopqrstuvwxyz":
                fill(letter)
                alive.append((db.snapshot(), letter * 80))
        assert 3 <= len(alive) < 20
        fill("z")
        assert all(values(snapshot) == {value} for snapshot, value in alive)
        # the oldest stays, and there is room for new ones again
        for snapshot, _ in alive[1:]:
            snapshot.close()
        for letter in "xyz":
            fill(letter)
            with db.snapshot() as newer:
                assert values(newer) == {letter * 80}
        assert values(alive[0][0]) == {alive[0][1]}
        alive[0][0].close()
        assert table.count() == 2000


def test_backups_and_indexes_on_the_kernel_backend(folder: Path) -> None:
    load(folder / "t.exdb", "kernel")
    with exmapdb.open(folder / "t.exdb", memory="512KiB", backend="kernel", log="2MiB") as db:
        db.create_index("t", "by_v", "v")
        full = db.backup(folder / "full")
        db.table("t").delete_many({"k": range(100, 200)})
        changed = db.backup(folder / "changed", base=folder / "full")
        assert 0 < changed.stored < full.stored == full.pages
        db.table("t").delete_many({"k": range(200, 300)})
    files = [folder / "full", folder / "changed"]
    exmapdb.restore(folder / "copy.exdb", files, backend="kernel", memory="512KiB")
    check_file(folder / "copy.exdb")
    with exmapdb.open(folder / "copy.exdb", memory="512KiB", backend="kernel", log="2MiB") as db:
        table = db.table("t")
        expected = [(k, f"{k:080}") for k in range(ROWS) if not 100 <= k < 200]
        assert [row for batch in table.scan(index="by_v") for row in batch.to_rows()] == expected
        batch, found = table.lookup({"k": np.array([99, 100, 250])}, columns=["k"])
        assert batch["k"].values.tolist() == [99, 250]
        assert found.tolist() == [True, False, True]


def test_backups_read_what_the_difference_of_two_snapshots_names(folder: Path) -> None:
    files, rows = [folder / f"{i}" for i in range(4)], list(range(ROWS))
    with exmapdb.open(folder / "t.exdb", memory="512KiB", backend="kernel", log="2MiB") as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": rows, "v": [f"{i:080}" for i in rows]})
        pages = db.backup(files[0], keep=True).read
        for i, base in enumerate(files[:-1]):
            table.delete_many({"k": rows[500 * i : 500 * i + 20]})
            # evicts and reads most pages
            assert table.count() == ROWS - 20 * (i + 1)
            few = db.backup(files[i + 1], base=base, keep=i < 2)
            assert 0 < few.stored <= few.read < pages / 8
        read = db.backup(folder / "all", base=files[3]).read
        assert read >= pages
    exmapdb.restore(folder / "copy.exdb", files, backend="kernel", memory="512KiB")
    check_file(folder / "copy.exdb")
    with exmapdb.open(folder / "copy.exdb", memory="512KiB", backend="kernel", log="2MiB") as db:
        gone = {k for i in range(3) for k in range(500 * i, 500 * i + 20)}
        found = [row for batch in db.table("t").scan() for row in batch.to_rows()]
        assert found == [(k, f"{k:080}") for k in rows if k not in gone]


def test_a_snapshot_that_a_backup_has_kept_makes_room_for_others(folder: Path) -> None:
    load(folder / "t.exdb", "kernel")
    with exmapdb.open(folder / "t.exdb", memory="512KiB", backend="kernel", log="2MiB") as db:
        db.backup(folder / "full", keep=True)
        snapshots = []
        # each holds copies of what changes while it is the newest
        with pytest.raises(exmapdb.StorageError, match="close some"):  # noqa: PT012
            while True:
                snapshots.append(db.snapshot())
                db.table("t").insert_many({"k": range(1500), "v": ["x"] * 1500}, replace=True)
        for snapshot in snapshots:
            snapshot.close()
        done = db.backup(folder / "inc", base=folder / "full")
        assert done.read == done.pages


def test_threads_share_a_table_on_the_kernel_backend(folder: Path) -> None:
    with exmapdb.open(folder / "t.exdb", memory="512KiB", backend="kernel", workers=3) as db:
        table = db.create_table("t", {"k": "int64", "v": "int64"}, key="k")
        problems: list[object] = []

        def work(start: int) -> None:
            ids = np.arange(start, 20_000, 3)
            for part in np.array_split(np.random.default_rng(start).permutation(ids), 20):
                table.insert_many({"k": part, "v": part + 1})
                row = table.get(int(part[0]))
                if row != {"k": part[0], "v": part[0] + 1}:
                    problems.append(row)

        threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert table.count() == 20_000
        assert db.stats().evicted > 0


def test_threads_delete_and_scan_both_ways_on_the_kernel_backend(folder: Path) -> None:
    path = folder / "t.exdb"
    with exmapdb.open(path, memory="512KiB", backend="kernel", workers=3) as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": np.arange(9000), "v": [f"{i:080}" for i in range(9000)]})
        kept = np.arange(0, 9000, 3)
        done = threading.Event()
        problems: list[object] = []

        def delete(start: int) -> None:
            ids = np.arange(start, 9000, 3)
            for part in np.array_split(np.random.default_rng(start).permutation(ids), 20):
                if table.delete_many({"k": part}) != len(part):
                    problems.append(start)

        def scan() -> None:
            while not done.is_set():
                for reverse in (False, True):
                    batches = list(table.scan(columns=["k"], reverse=reverse))
                    seen = np.concatenate([batch["k"].values for batch in batches])
                    seen = seen[::-1] if reverse else seen
                    if (np.diff(seen) <= 0).any() or not np.isin(kept, seen).all():
                        problems.append(reverse)

        writers = [threading.Thread(target=delete, args=(start,)) for start in (1, 2)]
        reader = threading.Thread(target=scan)
        for thread in [*writers, reader]:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        reader.join()
        assert problems == []
        assert [row for batch in table.scan(columns=["k"]) for row in batch["k"].values] == kept.tolist()
        table.delete_many({"k": kept})
        stats = db.stats()
        assert (
            stats.free_pages == stats.allocated_pages - 7
        )  # page 0, the directory, the runs, three of the catalog, the root
        assert stats.evicted > 0
    check_file(path)


@needs_disk
@pytest.mark.parametrize("backend", ["kernel", "posix"])
def test_demo_on_a_disk_ends_with_ok(disk: str, backend: str) -> None:
    done = small_demo("--backend", backend, "--device", disk)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "demo: ok"


def test_demo_on_a_file_counts_what_the_module_did(folder: Path) -> None:
    done = small_demo("--backend", "kernel", "--device", str(folder / "t.exdb"), "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["ok"]
    assert result["backend"] == "kernel"
    assert sum(phase["evicted"] for phase in result["phases"]) > result["pool_pages"]
    assert sum(phase["tlb_flushes"] for phase in result["phases"]) > 0


@needs_disk
def test_a_disk_with_a_file_system_is_refused_unless_forced(disk: str) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    with pytest.raises(exmapdb.DeviceInUseError, match="ext4"):
        exmapdb.open(disk, backend="kernel")
    done = small_demo("--backend", "kernel", "--device", disk)
    assert done.exit_code == 1
    assert "ext4" in done.stdout.splitlines()[-1]
    exmapdb.open(disk, backend="kernel", force=True).close()


@needs_disk
def test_a_mounted_disk_is_refused_even_if_forced(disk: str) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        subprocess.run(["mount", disk, name], check=True)
        try:
            with pytest.raises(exmapdb.DeviceInUseError, match="mounted"):
                exmapdb.open(disk, backend="kernel", flag="n", force=True)
        finally:
            subprocess.run(["umount", name], check=True)


@needs_disk
def test_a_disk_is_open_once(disk: str) -> None:
    with exmapdb.open(disk, backend="kernel"), pytest.raises(exmapdb.DeviceInUseError):
        exmapdb.open(disk, backend="posix")


def test_demo_proves_a_snapshot_that_copies_only_what_changes(folder: Path) -> None:
    done = small_demo("--backend", "kernel", "--device", str(folder / "s.exdb"), "--json")
    assert done.exit_code == 0, done.stdout
    snapshot = json.loads(done.stdout)["snapshot"]
    assert snapshot["changed"] > 0
    assert snapshot["comparisons"] >= snapshot["pages"] > snapshot["copied"] > 0


def test_demo_fails_if_frozen_pages_follow_the_writer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "s.exdb"
    monkeypatch.setattr(exmapdb.Frozen, "page", lambda frozen, page: path.read_bytes()[page * PAGE :][:PAGE])
    done = small_demo("--backend", "kernel", "--device", str(path))
    assert done.exit_code == 1
    assert "snapshot: page" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("mode", ["cases", "stress"])
def test_who_reads_without_latches_is_not_misled(
    c_program: Callable[[str], Path], folder: Path, mode: str
) -> None:
    command = [str(c_program("db_optimistic")), str(folder / "t.exdb"), mode, "kernel"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr
