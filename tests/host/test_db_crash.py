"""kill -9 at random moments, and what is there afterwards. Posix backend."""

import functools
import os
import random
from collections.abc import Callable
from pathlib import Path

import exmapdb
import pytest
from bank import audit, kill_while_it_works, make_bank
from db_pages import check_file
from worker import kill_at_work

KILLS = int(os.environ.get("EXMAP_KILLS", "300"))
OPTIONS = {"memory": "256KiB", "backend": "posix", "log": "256KiB"}


def crash_often(path: Path, durability: exmapdb.Durability, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    durable = durability != "async"
    # not so short that large values always have it written anew when the end comes
    bank = make_bank(path, durability=durability, **(OPTIONS | {"log": "8MiB"}))
    firsts = audit(bank, durable).firsts
    slowest, replays = 0.0, 0
    for _ in range(kills):
        # some while the last crash is being recovered
        for _ in range(rng.randrange(3)):
            kill_while_it_works(bank, rng.uniform(0, 0.02), firsts)
            firsts = audit(bank, durable).firsts
        kill_while_it_works(bank, rng.uniform(0, 0.6), firsts, transfers=5)
        found = audit(bank, durable)
        check_file(path)
        firsts, slowest = found.firsts, max(slowest, found.seconds)
        replays += found.recovered > 0
    assert len(bank.acknowledged) >= 5 * kills
    assert replays > kills / 2
    print(
        f"{len(bank.acknowledged)} transfers acknowledged,"
        f" {replays} of {kills} recoveries had a log to replay, the slowest took {slowest:.3f} s"
    )


@pytest.mark.parametrize(("durability", "kills"), [("sync", 5), ("group", 5), ("async", 3)])
def test_killed_banks_lose_nothing(tmp_path: Path, durability: exmapdb.Durability, kills: int) -> None:
    crash_often(tmp_path / "bank.exdb", durability, kills, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(("durability", "share"), [("sync", 0.4), ("group", 0.4), ("async", 0.2)])
def test_killed_banks_lose_nothing_at_length(
    tmp_path: Path, durability: exmapdb.Durability, share: float
) -> None:
    crash_often(tmp_path / "bank.exdb", durability, round(share * KILLS), seed=2)


def drop_for_ever(path: Path, acknowledge: Callable[[bytes], object]) -> None:
    """Make and drop tables with an index; each is acknowledged when it is gone."""
    db = exmapdb.open(path, flag="w", **OPTIONS)
    while True:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        db.create_index("t", "by_v", "v")
        for first in range(0, 1500, 300):
            table.insert_many({"k": range(first, first + 300), "v": [f"{k:0100}" for k in range(300)]})
        db.drop_table("t")
        acknowledge(b".")


def drop_often(path: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    with exmapdb.open(path, **OPTIONS) as db:
        db.create_table("kept", {"k": "int64"}, key="k").insert({"k": 1})
    pages, gave_back = 0, 0
    for _ in range(kills):
        kill_at_work(functools.partial(drop_for_ever, path), 1, 1, rng.uniform(0, 0.15))
        with exmapdb.open(path, flag="w", **OPTIONS) as db:
            db.check()
            gave_back += db.tables() == ["kept"]
            for name in set(db.tables()) - {"kept"}:
                db.drop_table(name)
            stats = db.stats()
            # three of the catalog, the directory, the runs, and the roots of three trees
            assert stats.allocated_pages - stats.free_pages <= 1 + 5 + 3
            assert db.table("kept").get(1) == {"k": 1}
        check_file(path)
        # what is used again does not grow
        pages = pages or stats.allocated_pages
        assert stats.allocated_pages < 2 * pages
    print(f"{gave_back} of {kills} kills came when the table had been dropped")


def test_killed_drops_leave_nothing(tmp_path: Path) -> None:
    drop_often(tmp_path / "t.exdb", 5, seed=3)


@pytest.mark.slow
def test_killed_drops_leave_nothing_at_length(tmp_path: Path) -> None:
    drop_often(tmp_path / "t.exdb", KILLS // 3, seed=4)


ROWS, LOGGED = 1000, 60


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with rows 0 to ROWS - 1 in its pages, and LOGGED more, one a transaction, in its log."""
    path = tmp_path_factory.mktemp("crashed") / "t.exdb"
    with exmapdb.open(path, **OPTIONS) as db:
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": range(ROWS), "v": [f"{i:080}" for i in range(ROWS)]})
        db.checkpoint()
        for i in range(ROWS, ROWS + LOGGED):
            table.insert({"k": i, "v": f"{i:080}"})
        return path.read_bytes()


def rows_in(path: Path) -> int:
    """Open a damaged database, and return how many of the rows are there; no other may be."""
    with exmapdb.open(path, flag="w", **OPTIONS) as db:
        rows = [row for batch in db.table("t").scan() for row in batch.to_rows()]
    assert rows == [(i, f"{i:080}") for i in range(len(rows))]
    return len(rows)


def test_a_flipped_bit_gives_a_named_error_or_the_right_rows(crashed: bytes, tmp_path: Path) -> None:
    rng = random.Random(5)
    used = [i for i in range(0, len(crashed), 512) if any(crashed[i : i + 512])]
    path = tmp_path / "t.exdb"
    named = 0
    for _ in range(150):
        at = rng.choice(used) + rng.randrange(512)
        data = bytearray(crashed)
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            # what the last flush wrote cannot be told from a torn write
            assert rows_in(path) >= ROWS + LOGGED - 1
        except exmapdb.StorageError:
            named += 1
    assert named > 50


def test_damage_in_the_log_before_its_end_is_named(crashed: bytes, tmp_path: Path) -> None:
    data = bytearray(crashed)
    record = crashed.index(f"{ROWS + 5:080}".encode(), 0, 2 * 4096 + (256 << 10))
    data[record + 3] ^= 1
    (tmp_path / "t.exdb").write_bytes(data)
    with pytest.raises(exmapdb.CorruptLogError):
        rows_in(tmp_path / "t.exdb")


def test_a_damaged_last_record_is_taken_for_a_torn_write(crashed: bytes, tmp_path: Path) -> None:
    data = bytearray(crashed)
    record = crashed.index(f"{ROWS + LOGGED - 1:080}".encode(), 0, 2 * 4096 + (256 << 10))
    data[record + 3] ^= 1
    (tmp_path / "t.exdb").write_bytes(data)
    assert rows_in(tmp_path / "t.exdb") == ROWS + LOGGED - 1


def test_a_cut_file_gives_a_named_error(crashed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    for size in range(0, len(crashed), len(crashed) // 40 // 512 * 512):
        path.write_bytes(crashed[:size])
        with pytest.raises(exmapdb.StorageError):
            rows_in(path)
