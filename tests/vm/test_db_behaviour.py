"""What a database promises, on the kernel backend: tests that the host runs on posix, the short ones."""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import exmapdb
import pytest
from backends import BACKENDS
from db_machine import DatabaseMachine, settings_of
from nvme_device import BAD_READ, find_disk
from storage_behaviour import (  # noqa: F401
    path,
    test_a_checkpoint_that_fails_says_so_and_loses_nothing,
    test_a_corrupt_page_does_not_harm_the_others_and_can_be_mended,
    test_a_corrupt_page_of_the_map_is_found_at_open,
    test_a_file_cut_before_opening_is_refused,
    test_a_page_written_to_the_wrong_place_is_found,
    test_after_a_failed_write_the_database_is_read_only_and_loses_nothing,
    test_after_a_log_that_cannot_be_written_nothing_is_acknowledged,
    test_either_copy_of_page_0_is_enough,
    test_one_flipped_byte_is_found_with_its_page,
    test_page_0_that_is_corrupt_in_both_copies_is_named,
)
from transaction_behaviour import (  # noqa: F401
    db,
    test_hermitage,
    test_random_transactions_of_four_threads_are_serializable,
)


class KernelMachine(DatabaseMachine):
    """A pool that has room for a snapshot, the copies for it, and a backup."""

    options: Any = DatabaseMachine.options | {"backend": "kernel", "memory": "256KiB"}
    folders = os.environ.get("EXMAP_TEST_DIR")


class TestDatabase(KernelMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings_of(5, 25)


@pytest.mark.slow
class TestDatabaseAtLength(KernelMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings_of(100, 60)


BAD_DISK = "exmap3"  # of ci/suite.py
SIZE = 9 << 20
VALUE = 500
MOST = 20_000
STEP = 5  # not every row, which takes an emulated machine too long


@contextlib.contextmanager
def rotten(place: int) -> Iterator[str]:
    """A partition whose block at `place` cannot be read, and that 4 MiB after it not be written.

    The lock keeps udev from looking at it whenever who wrote to it has closed it
    (https://systemd.io/BLOCK_DEVICE_LOCKING): it could not be deleted then.
    """
    disk = f"/dev/{find_disk(BAD_DISK).disks[0]}"
    sectors = [str(size // 512) for size in (BAD_READ - place, SIZE)]
    with open(disk, "rb") as whole:
        fcntl.flock(whole, fcntl.LOCK_EX)
        subprocess.run(["addpart", disk, "1", *sectors], check=True)
        try:
            yield f"{disk}p1"
        finally:
            subprocess.run(["delpart", disk, "1"], check=True)


def value(key: int) -> str:
    return f"{key:0{VALUE}}"


def fill(table: exmapdb.Table) -> int:
    """Insert rows until that fails, and return how many are there for certain."""
    for done in range(0, MOST, 100):
        keys = range(done, done + 100)
        try:
            table.insert_many({"k": keys, "v": list(map(value, keys))})
        except (exmapdb.PageIOError, exmapdb.ReadOnlyError, exmapdb.CommitUnknownError):
            return done
    return MOST


def read_all(database: exmapdb.Database, count: int) -> int:
    """Look at each row, and return how many could not be read; the others are right."""
    failed = 0
    for key in range(0, count, STEP):
        try:
            row = database.table("t").get(key)
        except exmapdb.PageIOError:
            failed += 1
        else:
            assert row == {"k": key, "v": value(key)}
    return failed


def live_through(partition: str, options: Any) -> tuple[bool, bool]:
    """Fill a database until that fails, and reopen it; return whether reads and writes have failed."""
    database = exmapdb.open(partition, flag="n", force=True, log="256KiB", **options)
    try:
        table = database.create_table("t", {"k": "int64", "v": "text"}, key="k")
        done = fill(table)
        assert 1000 < done < MOST
        unread = read_all(database, done) > 0
        unwritten = database.failure is not None
        if unwritten:
            with pytest.raises(exmapdb.ReadOnlyError):
                table.delete(0)
    finally:
        expected = pytest.raises if database.failure else contextlib.suppress
        with expected(exmapdb.StorageError):
            database.close()
    # the bad block may be in the way again
    try:
        with exmapdb.open(partition, flag="w", **options) as again:
            read_all(again, done)
    except exmapdb.StorageError as error:
        print(f"recovery: {error}")
    return unread, unwritten


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_that_cannot_be_read_or_written_give_named_errors_and_no_wrong_rows(backend: Any) -> None:
    options: Any = {"memory": "256KiB", "backend": backend, "workers": 1}
    unread = unwritten = False
    # what is on a block is a matter of time: nothing, a leaf, or the root, without which nobody can write
    for mebibyte in (1, 2, 3):
        with rotten(mebibyte << 20) as partition:
            found = live_through(partition, options)
        unread |= found[0]
        unwritten |= found[1]
        if unread and unwritten:
            return
    pytest.fail(f"{unread=} {unwritten=}: a bad block was in use in none of the databases")
