"""Keys that begin alike: what pages have of them, and that tables are as all others are. Posix backend."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import exmapdb
import pytest
from db_pages import PAGE, Node, check_file

ROWS = 6000
SCHEMA = {"path": "text", "n": "int32", "v": "text?"}
KEY = ("path", "n")
ORDERS = ["ascending", "descending", "shuffled"]

Key = tuple[str, int]


def customer(i: int) -> str:
    return f"europe/germany/customer-{i // 500:08}/orders"


def key_of(i: int) -> Key:
    return customer(i), i


def in_order(order: str, n: int = ROWS) -> list[int]:
    numbers = list(range(n))
    if order == "descending":
        numbers.reverse()
    if order == "shuffled":
        random.Random(1).shuffle(numbers)
    return numbers


def put(table: exmapdb.Table, keys: list[Key], value: str = "v") -> None:
    paths, numbers = zip(*keys, strict=True)
    table.insert_many({"path": paths, "n": numbers, "v": [value] * len(keys)}, replace=True)


def put_singly(table: exmapdb.Table, keys: list[Key]) -> None:
    for at in range(0, len(keys), 20):
        put(table, keys[at : at + 20])


def keys_in(table: exmapdb.Table, reverse: bool = False) -> list[Key]:
    batches = table.scan(reverse=reverse, batch_rows=100)
    return [(row[0], row[1]) for batch in batches for row in batch.to_rows()]


def leaves_of(path: Path) -> list[Node]:
    """Return the leaves of the largest tree."""
    nodes = max(check_file(path).trees.values(), key=len)
    return [node for node in nodes if not node.level]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.exdb"


@pytest.fixture
def db(path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(path, memory="256KiB", backend="posix", durability="async", log="16MiB") as database:
        yield database


@pytest.fixture
def table(db: exmapdb.Database) -> exmapdb.Table:
    return db.create_table("t", SCHEMA, key=KEY)


@pytest.mark.parametrize("order", ORDERS)
def test_what_keys_have_in_common_is_stored_once_for_a_page(
    db: exmapdb.Database, table: exmapdb.Table, path: Path, order: str
) -> None:
    keys = [key_of(i) for i in in_order(order)]
    put_singly(table, keys)
    db.close()
    leaves = leaves_of(path)
    entries = [entry for leaf in leaves for entry in zip(leaf.keys, leaf.values, strict=True)]
    whole = sum(12 + len(key) + len(value) for key, value in entries)
    # leaves as full as without prefixes would be 1.0, 2.0 and about 1.4 times what the entries are
    assert len(leaves) * (PAGE - 64) < whole * {"ascending": 0.45, "descending": 0.8, "shuffled": 0.65}[order]
    assert sum(len(leaf.prefix) >= 30 for leaf in leaves) > len(leaves) * 0.9


@pytest.mark.parametrize("order", ORDERS)
def test_rows_under_keys_that_begin_alike_are_those_that_were_put_in(
    table: exmapdb.Table, order: str
) -> None:
    numbers = in_order(order)
    put_singly(table, [key_of(i) for i in numbers])
    expected = [key_of(i) for i in range(ROWS)]
    assert keys_in(table) == expected
    assert keys_in(table, reverse=True) == expected[::-1]
    assert all(table.get(key_of(i)) is not None for i in numbers[::50])
    assert table.get((customer(0), ROWS)) is None
    assert table.get((customer(0)[:-1], 1)) is None
    assert table.get((customer(0) + "s", 1)) is None


def test_keys_that_break_a_prefix_at_either_end_find_room(
    db: exmapdb.Database, table: exmapdb.Table, path: Path
) -> None:
    keys = [key_of(i) for i in range(ROWS)]
    put(table, keys)
    # before the first leaf, behind the last one, and between two customers, whose leaves are full
    strangers = [
        ("a", 1),
        ("europe/germany/customer-", 2),
        ("z" * 300, 3),
        ("z", 4),
        (customer(501) + "t", 5),
    ]
    strangers += [(customer(i)[:-1], i) for i in range(0, ROWS, 500)]
    for key in strangers:
        put(table, [key], "w" * 200)
    assert keys_in(table) == sorted(keys + strangers)
    assert keys_in(table, reverse=True) == sorted(keys + strangers, reverse=True)
    db.close()
    check_file(path)


def test_pages_whose_rows_go_are_merged_with_ones_that_begin_otherwise(
    db: exmapdb.Database, table: exmapdb.Table, path: Path
) -> None:
    keys = [key_of(i) for i in range(ROWS)]
    put(table, keys)
    before = db.stats().free_pages
    gone = random.Random(1).sample(keys, ROWS - 200)
    for at in range(0, len(gone), 50):
        chosen = gone[at : at + 50]
        assert table.delete_many({"path": [k[0] for k in chosen], "n": [k[1] for k in chosen]}) == 50
    assert keys_in(table) == sorted(set(keys) - set(gone))
    assert db.stats().free_pages > before + 20
    db.close()
    leaves = leaves_of(path)
    assert any(30 <= len(leaf.prefix) < len(customer(0)) for leaf in leaves)


def test_columns_of_numbers_are_joined_from_a_prefix_and_what_follows_it(db: exmapdb.Database) -> None:
    columns = {"a": "int64", "b": "int32", "c": "bool", "d": "int64", "v": "int32"}
    table = db.create_table("t", columns, key=("a", "b", "c", "d"))
    rows = [(i >> 9, i >> 7 & 3, bool(i >> 6 & 1), (i & 63) * 99 - 3000, i) for i in range(3000)]
    random.Random(1).shuffle(rows)
    for at in range(0, len(rows), 30):
        chosen = zip(*rows[at : at + 30], strict=True)
        table.insert_many(dict(zip(columns, map(list, chosen), strict=True)))
    assert [row for batch in table.scan(batch_rows=70) for row in batch.to_rows()] == sorted(rows)
    assert [row for batch in table.scan(reverse=True) for row in batch.to_rows()] == sorted(rows)[::-1]


def test_an_index_of_texts_that_begin_alike_leads_to_its_rows(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "path": "text?"}, key="k")
    db.create_index("t", "by_path", "path")
    numbers = in_order("shuffled", 3000)
    for at in range(0, 3000, 50):
        chosen = numbers[at : at + 50]
        table.insert_many({"k": chosen, "path": [f"{customer(0)}/{i % 1000:04}" for i in chosen]})
    found = [row["k"] for row in table.find("by_path", f"{customer(0)}/0017")]
    assert found == [17, 1017, 2017]
    with db.snapshot() as snapshot:
        table.delete_many({"k": numbers[:2500]})
        batches = snapshot.table("t").scan(index="by_path", reverse=True)
        assert len([row for batch in batches for row in batch.to_rows()]) == 3000
    batches = table.scan(index="by_path")
    assert sorted(row[0] for batch in batches for row in batch.to_rows()) == sorted(numbers[2500:])


def test_readers_find_every_row_while_prefixes_come_and_go(
    db: exmapdb.Database, table: exmapdb.Table
) -> None:
    kept = [key_of(i) for i in range(0, ROWS, 3)]
    put(table, kept)
    done = threading.Event()
    lost: list[Key] = []

    def read() -> None:
        while not done.is_set():
            lost.extend(key for key in kept[::40] if table.get(key) is None)
            if keys_in(table, reverse=True)[-1] != kept[0]:
                lost.append(kept[0])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(3):
            others = [key_of(i) for i in range(1, ROWS, 3)]
            others += [(customer(i) + "t" * (i % 90), i) for i in range(1, ROWS, 30)]
            put_singly(table, others)
            table.delete_many({"path": [k[0] for k in others], "n": [k[1] for k in others]})
    finally:
        done.set()
        reader.join()
    assert not lost
    assert keys_in(table) == kept
