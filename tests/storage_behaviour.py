"""Files: reopening, damage, refusals, and errors of I/O.

Collected by tests/host on the posix backend, and in part by tests/vm on kernel.
"""

import contextlib
import errno
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from backends import BACKENDS
from db_pages import page_blocks, read_meta

PAGE = 4096
BACKEND: Any = BACKENDS[-1]
TINY = "128KiB"
ROWS = 8000


def load(path: Path) -> None:
    with exmapdb.open(path, memory=TINY, backend=BACKEND) as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": np.arange(ROWS), "v": [f"{i:050}" for i in range(ROWS)]})


def open_tiny(path: Path) -> exmapdb.Database:
    return exmapdb.open(path, memory=TINY, backend=BACKEND, flag="w", workers=1)


def flip_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    load(tmp_path / "t.exdb")
    return tmp_path / "t.exdb"


@contextlib.contextmanager
def small_files(pages: int = 160) -> Iterator[None]:
    """Let this process write to no file beyond so many pages."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (pages * PAGE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def last_page(path: Path) -> tuple[int, int]:
    """Return the number of a leaf of the table, and its block."""
    places = page_blocks(path.read_bytes())
    return max(places.items())


def fill(table: exmapdb.Table) -> int:
    """Insert rows until that fails, and return how many went in; the error is that of the last."""
    for i in range(10_000):
        try:
            table.insert({"k": i, "v": "x" * 600})
        except exmapdb.StorageError:
            return i
    raise AssertionError("nothing failed")


def test_reopened_tables_have_their_schema_and_rows(path: Path) -> None:
    with open_tiny(path) as db:
        assert db.tables() == ["t"]
        table = db.table("t")
        assert str(table.schema.fields[1]) == "text"
        assert table.schema.key == ("k",)
        assert table.count() == ROWS
        assert table.get(ROWS - 1) == {"k": ROWS - 1, "v": f"{ROWS - 1:050}"}


def test_every_page_says_its_number_wherever_it_lies(path: Path) -> None:
    data = path.read_bytes()
    assert len(data) % PAGE == 0
    for number, block in page_blocks(data).items():
        head = data[block * PAGE : block * PAGE + 16]
        assert head[:4] == b"EXDB"
        assert int.from_bytes(head[8:], "little") == number


def test_a_page_is_never_written_where_the_last_checkpoint_has_it(path: Path) -> None:
    before = path.read_bytes()
    with open_tiny(path) as db:
        table = db.table("t")
        table.insert_many({"k": np.arange(ROWS), "v": ["new"] * ROWS}, replace=True)
        assert db.stats().evicted > 100
        after = path.read_bytes()
        for block in page_blocks(before).values():
            assert after[block * PAGE : (block + 1) * PAGE] == before[block * PAGE : (block + 1) * PAGE]


def test_blocks_of_old_checkpoints_are_used_again(path: Path) -> None:
    with open_tiny(path) as db:
        table = db.table("t")
        for round in range(12):
            table.insert_many({"k": np.arange(ROWS), "v": [f"{round}"] * ROWS}, replace=True)
            db.checkpoint()
        pages = db.stats().allocated_pages
    blocks = path.stat().st_size // PAGE - read_meta(path.read_bytes()).log_blocks
    assert blocks < 4 * pages


def test_a_copy_of_the_file_of_an_open_database_is_recovered(path: Path) -> None:
    copy = path.with_suffix(".copy")
    with open_tiny(path) as db:
        db.table("t").insert({"k": -1, "v": "new"})
        db.checkpoint()
        db.table("t").insert_many({"k": np.arange(-4000, -1), "v": ["x" * 50] * 3999})
        db.table("t").delete(0)
        shutil.copy(path, copy)
    with open_tiny(copy) as db:
        assert db.stats().recovered == 2
        assert db.table("t").get(-1) == {"k": -1, "v": "new"}
        assert db.table("t").get(0) is None
        assert db.table("t").count() == ROWS + 4000 - 1
    with open_tiny(copy) as db:
        assert db.stats().recovered == 0
        assert db.table("t").count() == ROWS + 4000 - 1


def test_reading_alone_leaves_the_file_closed(path: Path) -> None:
    before = path.read_bytes()
    with open_tiny(path) as db:
        db.table("t").count()
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", [0, 4, 8, 40, 64, 2000, 4095])
def test_one_flipped_byte_is_found_with_its_page(path: Path, place: int) -> None:
    page, block = last_page(path)
    flip_byte(path, block * PAGE + place)
    with open_tiny(path) as db:
        with pytest.raises(exmapdb.CorruptPageError, match=f"page {page} ") as error:
            db.table("t").count()
        assert error.value.page == page
        assert error.value.errno == errno.EBADMSG


def test_a_page_written_to_the_wrong_place_is_found(path: Path) -> None:
    page, block = last_page(path)
    other = page_blocks(path.read_bytes())[page - 1]
    data = bytearray(path.read_bytes())
    data[block * PAGE : (block + 1) * PAGE] = data[other * PAGE : (other + 1) * PAGE]
    path.write_bytes(data)
    with open_tiny(path) as db, pytest.raises(exmapdb.CorruptPageError):
        db.table("t").count()


def test_an_older_version_of_a_page_in_place_of_the_last_one_is_found(path: Path) -> None:
    """What a disk leaves that has acknowledged a write and lost it, in a block that had the page before."""
    old = path.read_bytes()
    with open_tiny(path) as db:
        db.table("t").insert_many({"k": np.arange(ROWS), "v": ["new"] * ROWS}, replace=True)
    page, block = last_page(path)
    was = page_blocks(old)[page]
    data = bytearray(path.read_bytes())
    assert data[block * PAGE : (block + 1) * PAGE] != old[was * PAGE : (was + 1) * PAGE]
    data[block * PAGE : (block + 1) * PAGE] = old[was * PAGE : (was + 1) * PAGE]
    path.write_bytes(data)
    with open_tiny(path) as db, pytest.raises(exmapdb.CorruptPageError, match=f"page {page} "):
        db.table("t").count()


def test_a_corrupt_page_does_not_harm_the_others_and_can_be_mended(path: Path) -> None:
    _, block = last_page(path)
    flip_byte(path, block * PAGE + 4095)
    with open_tiny(path) as db:
        table = db.table("t")
        # more often than there are frames
        for _ in range(40):
            with pytest.raises(exmapdb.CorruptPageError):
                table.get(ROWS - 1)
            assert table.get(0) is not None
        flip_byte(path, block * PAGE + 4095)
        assert table.get(ROWS - 1) is not None
        assert db.stats().resident_pages <= 32
        assert table.count() == ROWS


@pytest.mark.parametrize("place", [2, 100, PAGE + 2, PAGE + 100])
def test_either_copy_of_page_0_is_enough(path: Path, place: int) -> None:
    flip_byte(path, place)
    with open_tiny(path) as db:
        assert db.table("t").count() == ROWS
    # and is copied, so that the next damage may come
    flip_byte(path, (place + PAGE) % (2 * PAGE))
    with open_tiny(path) as db:
        assert db.table("t").count() == ROWS


def test_page_0_that_is_corrupt_in_both_copies_is_named(path: Path) -> None:
    flip_byte(path, 100)
    flip_byte(path, PAGE + 200)
    with pytest.raises(exmapdb.CorruptPageError) as error:
        open_tiny(path)
    assert error.value.page == 0


def test_a_corrupt_page_of_the_map_is_found_at_open(path: Path) -> None:
    (root,) = read_meta(path.read_bytes()).roots
    flip_byte(path, root * PAGE + 2000)
    with pytest.raises(exmapdb.CorruptPageError):
        open_tiny(path)


def test_a_file_cut_before_opening_is_refused(path: Path) -> None:
    os.truncate(path, max(page_blocks(path.read_bytes()).values()) * PAGE)
    with pytest.raises(exmapdb.TruncatedDatabaseError):
        open_tiny(path)


def test_a_file_cut_while_open_gives_a_named_error_with_the_page(path: Path) -> None:
    places = page_blocks(path.read_bytes())
    page = max(places, key=places.__getitem__)
    with open_tiny(path) as db:
        os.truncate(path, places[page] * PAGE)
        with pytest.raises(exmapdb.TruncatedDatabaseError) as error:
            db.table("t").count()
        assert error.value.page == page
        assert db.table("t").get(0) is not None or db.table("t").get(ROWS - 1) is not None


def test_after_a_failed_write_the_database_is_read_only_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    db = exmapdb.open(path, memory=TINY, backend=BACKEND, workers=1, log="256KiB")
    table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
    with small_files():
        rows = fill(table)
        assert db.failure is not None
        with pytest.raises(exmapdb.ReadOnlyError):
            table.insert({"k": rows + 1, "v": "y"})
        with pytest.raises(exmapdb.ReadOnlyError):
            db.checkpoint()
    # it stays so, however well the disk does now
    with pytest.raises(exmapdb.ReadOnlyError):
        table.delete(0)
    assert table.get(0) == {"k": 0, "v": "x" * 600}
    with pytest.raises(exmapdb.ReadOnlyError):
        db.close()
    assert db.closed
    with open_tiny(path) as db:
        # the one that failed may count, as CommitUnknownError says
        assert db.table("t").count() in (rows, rows + 1)
        db.table("t").insert({"k": rows + 1, "v": "y"})


def test_a_checkpoint_that_fails_says_so_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    db = exmapdb.open(path, memory="4MiB", backend=BACKEND, log="1MiB")
    table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
    for part in np.array_split(np.arange(3000), 10):
        table.insert_many({"k": part, "v": ["x" * 80] * len(part)})
    with small_files(), pytest.raises(exmapdb.PageIOError):
        db.close()
    assert db.closed
    with open_tiny(path) as db:
        assert db.stats().recovered > 10
        assert db.table("t").count() == 3000


@pytest.mark.parametrize("full", [False, True])
def test_after_a_log_that_cannot_be_written_nothing_is_acknowledged(tmp_path: Path, full: bool) -> None:
    path = tmp_path / "t.exdb"
    db = exmapdb.open(path, memory="4MiB", backend=BACKEND, log="1MiB")
    table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
    table.insert({"k": 1, "v": "a"})
    with small_files(2 if full else 0), pytest.raises(exmapdb.CommitUnknownError):
        table.insert({"k": 2, "v": "b"})
    for _ in range(2):
        with pytest.raises(exmapdb.ReadOnlyError):
            table.insert({"k": 3, "v": "c"})
    with pytest.raises(exmapdb.ReadOnlyError):
        db.close()
    with open_tiny(path) as db:
        keys = [k for batch in db.table("t").scan(columns=["k"]) for (k,) in batch.to_rows()]
        assert keys == [1]


def test_a_full_region_is_named_and_leaves_a_good_database(tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    with exmapdb.open(path, memory=TINY, backend=BACKEND, capacity="256KiB") as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        rows = fill(table)
        with pytest.raises(exmapdb.DatabaseFullError, match="capacity"):
            table.insert({"k": rows, "v": "x" * 600})
        assert table.count() == rows
    with open_tiny(path) as db:
        assert db.table("t").count() == rows
        db.table("t").insert({"k": rows, "v": "x"})


def test_a_closed_database_refuses_everything(path: Path) -> None:
    db = open_tiny(path)
    table = db.table("t")
    scan = table.scan(batch_rows=10)
    next(scan)
    db.close()
    db.close()
    for call in (lambda: table.get(1), lambda: next(scan), db.stats, db.checkpoint, table.count):
        with pytest.raises(exmapdb.DatabaseClosedError):
            call()


def test_a_database_is_open_once(path: Path) -> None:
    with open_tiny(path), pytest.raises(exmapdb.DatabaseLockedError):
        open_tiny(path)


@pytest.mark.parametrize("flag", ["w", "c", "n"])
@pytest.mark.parametrize("content", [b"hello", b"hello" * 2000])
def test_something_else_is_never_overwritten_without_force(tmp_path: Path, flag: str, content: bytes) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    with pytest.raises(exmapdb.NotADatabaseError):
        exmapdb.open(path, memory=TINY, backend=BACKEND, flag=flag)  # type: ignore[arg-type]
    assert path.read_bytes() == content
    if flag != "w":
        with exmapdb.open(path, memory=TINY, backend=BACKEND, flag=flag, force=True) as db:  # type: ignore[arg-type]
            assert db.tables() == []


def test_flag_w_wants_a_database_and_flag_n_makes_a_new_one(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_tiny(tmp_path / "absent")
    with exmapdb.open(path, memory=TINY, backend=BACKEND, flag="n") as db:
        assert db.tables() == []
    with open_tiny(path) as db:
        assert db.tables() == []


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(exmapdb.NotADatabaseError):
        exmapdb.open(tmp_path, backend=BACKEND)


@pytest.mark.parametrize("wrong", [{"memory": "64KiB"}, {"memory": "a lot"}, {"workers": 0}, {"workers": 65}])
def test_sizes_that_cannot_be_are_refused_before_a_file_is_made(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"memory|size"):
        exmapdb.open(tmp_path / "t.exdb", backend=BACKEND, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "t.exdb").exists()


@pytest.mark.skipif(Path("/dev/exmap").exists(), reason="the module is loaded")
def test_the_kernel_backend_without_module_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(exmapdb.BackendUnavailableError, match="exmapctl doctor"):
        exmapdb.open(tmp_path / "t.exdb", backend="kernel")


def test_descriptors_are_given_back(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        open_tiny(path).close()
        with contextlib.suppress(exmapdb.ExmapdbError):
            exmapdb.open(path, memory=TINY, backend=BACKEND, capacity="1KiB").close()
    flip_byte(path, 100)
    flip_byte(path, PAGE + 100)
    with contextlib.suppress(exmapdb.CorruptPageError):
        open_tiny(path)
    assert len(os.listdir("/proc/self/fd")) == before
