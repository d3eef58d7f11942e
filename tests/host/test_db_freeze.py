"""Frozen pages of a database. Posix backend."""

from collections.abc import Iterator
from pathlib import Path

import exmapdb
import numpy as np
import pytest
from db_pages import read_pages

PAGE = 4096
ROWS = 6000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", memory="256KiB", backend="posix") as database:
        table = database.create_table("t", {"k": "int64", "v": "text"}, key="k")
        table.insert_many({"k": np.arange(ROWS), "v": [f"{i:080}" for i in range(ROWS)]})
        database.checkpoint()
        yield database


def contents(frozen: exmapdb.Frozen) -> dict[int, bytes]:
    return {page: frozen.page(page) for page in frozen.pages.tolist()}


def test_frozen_pages_stay_what_the_file_had(db: exmapdb.Database) -> None:
    with db.freeze() as frozen:
        file = read_pages(Path(db.path))
        expected = {page: file[page * PAGE :][:PAGE] for page in frozen.pages.tolist()}
        assert db.table("t").delete_many({"k": np.arange(ROWS)}) == ROWS
        db.checkpoint()
        assert contents(frozen) == expected
        file = read_pages(Path(db.path))
        assert any(file[page * PAGE :][:PAGE] != content for page, content in expected.items())


def test_stored_pages_are_those_of_the_last_checkpoint(db: exmapdb.Database) -> None:
    file = read_pages(Path(db.path))
    for page in range(1, db.stats().allocated_pages):
        assert db.stored_page(page) == file[page * PAGE :][:PAGE]
    with pytest.raises(KeyError):
        db.stored_page(0)


def test_freeze_leaves_half_the_pool_to_writers_and_close_gives_it_back(db: exmapdb.Database) -> None:
    pool = db.stats().pool_pages
    with db.freeze() as frozen:
        assert 0 < frozen.stats().pages <= pool // 2
        assert db.table("t").count() == ROWS
        assert db.stats().resident_pages <= pool // 2
    assert db.table("t").count() == ROWS
    assert db.stats().resident_pages > pool // 2


def test_an_absent_page_is_a_key_error(db: exmapdb.Database) -> None:
    with db.freeze() as frozen:
        absent = set(range(db.stats().allocated_pages)) - set(frozen.pages.tolist())
        for page in (min(absent), 1 << 40):
            with pytest.raises(KeyError):
                frozen.page(page)


def test_freezes_of_different_moments_stand_side_by_side(db: exmapdb.Database) -> None:
    expected: list[tuple[exmapdb.Frozen, dict[int, bytes]]] = []
    for turn in range(3):
        frozen = db.freeze()
        expected.append((frozen, contents(frozen)))
        db.table("t").insert_many({"k": np.arange(ROWS), "v": [f"{turn}"] * ROWS}, replace=True)
        db.checkpoint()
    assert expected[0][1] != expected[1][1] != expected[2][1]
    # in no order: the middle one, the newest, the oldest
    for place in (1, 1, 0):
        assert all(contents(frozen) == pages for frozen, pages in expected)
        expected.pop(place)[0].close()
    assert db.table("t").count() == ROWS
    assert db.stats().resident_pages > db.stats().pool_pages // 2


def test_closing_the_database_closes_frozen_pages(db: exmapdb.Database) -> None:
    frozen = db.freeze()
    db.close()
    assert frozen.closed
    with pytest.raises(ValueError, match="closed"):
        frozen.page(0)
    with pytest.raises(exmapdb.DatabaseClosedError):
        db.freeze()
