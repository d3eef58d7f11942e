"""Tables: what goes in comes out, in the order of the keys. Posix backend."""

import datetime as dt
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from exmapdb import Column, ColumnType, Field


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", memory="1MiB", backend="posix") as database:
        yield database


ALL_TYPES = {
    "k": "int64",
    "i": "int32?",
    "l": "int64?",
    "f": "float64?",
    "t": "text?",
    "d": "date?",
    "s": "timestamp?",
    "b": "bool?",
    "y": "bytes?",
    "n": "decimal(18,4)?",
}
ROW = {
    "k": 1,
    "i": -(2**31),
    "l": 2**63 - 1,
    "f": -0.5,
    "t": "Zürich\0☃",
    "d": dt.date(1969, 12, 31),
    "s": dt.datetime(2013, 1, 1, 10, 0, 0, 1),
    "b": False,
    "y": b"\0\xff\xfe",
    "n": decimal.Decimal("-99999999999999.9999"),
}


def test_every_type_comes_back_as_it_went_in(db: exmapdb.Database) -> None:
    table = db.create_table("t", ALL_TYPES, key="k")
    table.insert(ROW)
    assert table.get(1) == ROW


def test_nulls_come_back_as_none_from_get_and_scan(db: exmapdb.Database) -> None:
    table = db.create_table("t", ALL_TYPES, key="k")
    nothing = dict.fromkeys(ALL_TYPES) | {"k": 2}
    table.insert(nothing)
    table.insert(ROW)
    assert table.get(2) == nothing
    (batch,) = table.scan()
    assert list(batch.to_rows()) == [tuple(ROW.values()), tuple(nothing.values())]


def test_nullable_columns_may_be_left_out(db: exmapdb.Database) -> None:
    table = db.create_table("t", ALL_TYPES, key="k")
    table.insert_many({"k": [1, 2]})
    assert table.get(2) == dict.fromkeys(ALL_TYPES) | {"k": 2}


def test_get_of_an_absent_key_is_none(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64"}, key="k")
    table.insert({"k": 1})
    assert table.get(2) is None


def test_numpy_arrays_go_in(db: exmapdb.Database) -> None:
    table = db.create_table("t", ALL_TYPES, key="k")
    table.insert_many(
        {
            "k": np.arange(3),
            "i": np.ma.MaskedArray([5, 6, 7], mask=[False, True, False]),
            "f": np.array([0.5, 1.5, 2.5], np.float32),
            "t": np.array([b"x", b"", b"yz"]),
            "d": np.array(["2020-02-29", "NaT", "1900-01-01"], "datetime64[D]"),
            "s": np.array(["2020-02-29T01:02:03", "NaT", "1900-01-01"], "datetime64[s]"),
        }
    )
    (batch,) = table.scan(columns=["i", "f", "t", "d", "s"])
    assert list(batch.to_rows()) == [
        (5, 0.5, "x", dt.date(2020, 2, 29), dt.datetime(2020, 2, 29, 1, 2, 3)),
        (None, 1.5, "", None, None),
        (7, 2.5, "yz", dt.date(1900, 1, 1), dt.datetime(1900, 1, 1)),
    ]


def test_numpy_arrays_come_out(db: exmapdb.Database) -> None:
    table = db.create_table("t", ALL_TYPES, key="k")
    table.insert_many({"k": [1, 2], "i": [7, None], "t": ["a", "bc"], "d": [dt.date(2000, 1, 1), None]})
    (batch,) = table.scan()
    arrays = batch.to_numpy()
    assert arrays["k"].dtype == np.int64
    assert arrays["i"].tolist() == [7, None]
    assert arrays["d"].dtype == np.dtype("datetime64[D]")
    assert batch["t"].to_bytes().tolist() == [b"a", b"bc"]


def test_a_batch_of_one_table_goes_into_another(db: exmapdb.Database) -> None:
    first = db.create_table("first", ALL_TYPES, key="k")
    first.insert(ROW)
    second = db.create_table("second", ALL_TYPES, key="k")
    for batch in first.scan():
        second.insert_many(batch)
    assert second.get(1) == ROW


def test_rows_come_in_the_order_of_a_composite_key(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"a": "text", "b": "float64", "c": "int32"}, key=("b", "a"))
    numbers = [-math.inf, -2.5, -0.0, 1e-300, 3.0, math.inf]
    texts = ["", "\0", "\0\0", "a", "a\0", "a\0b", "ab", "b", "ÿ"]
    keys = [(number, text) for number in numbers for text in texts]
    shuffled = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
    table.insert_many({"a": [k[1] for k in shuffled], "b": [k[0] for k in shuffled], "c": [0] * len(keys)})
    (batch,) = table.scan(columns=["b", "a"])
    assert list(batch.to_rows()) == keys
    assert all(table.get(key) is not None for key in keys)


def test_negative_zero_is_the_same_key_as_zero(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "float64"}, key="k")
    table.insert({"k": -0.0})
    assert table.get(0.0) is not None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (None, None, [(1, 1), (1, 2), (2, 1), (3, 0)]),
        ((1, 2), (3, 0), [(1, 2), (2, 1)]),
        ((1,), (2,), [(1, 1), (1, 2)]),
        (2, None, [(2, 1), (3, 0)]),
        (None, (1, 2), [(1, 1)]),
        ((3, 1), None, []),
        ((2,), (1,), []),
    ],
)
def test_scan_is_half_open_and_takes_prefixes(
    db: exmapdb.Database, low: object, high: object, expected: list[tuple[int, int]]
) -> None:
    table = db.create_table("t", {"a": "int32", "b": "int32"}, key=("a", "b"))
    table.insert_many({"a": [3, 1, 2, 1], "b": [0, 2, 1, 1]})
    assert [row for batch in table.scan(low, high) for row in batch.to_rows()] == expected


@pytest.mark.parametrize("prefetch", [0, 1, 64])
@pytest.mark.parametrize("batch_rows", [1, 7, 100_000])
def test_scan_gives_all_rows_whatever_the_batches(
    db: exmapdb.Database, batch_rows: int, prefetch: int
) -> None:
    table = db.create_table("t", {"k": "int32", "t": "text"}, key="k")
    table.insert_many({"k": np.arange(3000), "t": [f"{i:0100}" for i in range(3000)]})
    batches = list(table.scan(batch_rows=batch_rows, prefetch=prefetch))
    assert max(map(len, batches)) <= batch_rows
    rows = [row for batch in batches for row in batch.to_rows()]
    assert rows == [(i, f"{i:0100}") for i in range(3000)]


@pytest.mark.parametrize("columns", [["k"], ["t"], ["k", "t"]])
def test_batches_stay_as_they_are_while_others_are_read(db: exmapdb.Database, columns: list[str]) -> None:
    table = db.create_table("t", {"k": "int32", "t": "text?"}, key="k")
    table.insert_many({"k": np.arange(3000), "t": [f"{i:020}" if i % 3 else None for i in range(3000)]})
    kept = [table.scan(columns=columns, batch_rows=100) for _ in range(2)]
    parts = [[column.values for column in batch.columns.values()] for scan in kept for batch in scan]
    seen = [[bytes(values) for values in part] for part in parts]
    for _ in range(3):
        for batch in table.scan(columns=columns, batch_rows=100, reverse=True):
            assert len(batch) == 100
    assert [[bytes(values) for values in part] for part in parts] == seen
    assert seen[:30] == seen[30:]


def test_a_scan_reads_into_memory_that_the_last_one_has_left(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64"}, key="k")
    table.insert_many({"k": np.arange(3000)})

    def places() -> set[int]:
        return {batch["k"].values.ctypes.data for batch in table.scan(batch_rows=1000)}

    assert places() & places()


def test_a_scan_has_room_for_texts_like_those_of_the_last_one(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "t": "text"}, key="k")
    table.insert_many({"k": np.arange(3000), "t": [f"{i:0100}" for i in range(3000)]})
    first, second = (len(next(table.scan(low, batch_rows=80, prefetch=0))) for low in (100, 200))
    assert first < 80
    assert second == 80


def test_scan_of_an_empty_table_gives_nothing(db: exmapdb.Database) -> None:
    assert list(db.create_table("t", {"k": "int64"}, key="k").scan()) == []


def test_duplicate_key_is_refused_with_its_row(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "v": "int32"}, key="k")
    table.insert({"k": 5, "v": 1})
    with pytest.raises(exmapdb.DuplicateKeyError) as error:
        table.insert_many({"k": [9, 5], "v": [2, 2]})
    assert error.value.row == 1
    assert table.get(5) == {"k": 5, "v": 1}


def test_a_key_twice_in_a_batch_is_refused(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64"}, key="k")
    with pytest.raises(exmapdb.DuplicateKeyError) as error:
        table.insert_many({"k": [1, 2, 1]})
    assert error.value.row == 2


def test_replace_overwrites_and_the_last_of_a_batch_wins(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "t": "text"}, key="k")
    table.insert({"k": 1, "t": "old"})
    table.insert_many({"k": [1, 2, 1], "t": ["x" * 900, "two", "new"]}, replace=True)
    (batch,) = table.scan()
    assert list(batch.to_rows()) == [(1, "new"), (2, "two")]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"k": [1], "nope": [1]}, exmapdb.SchemaError),
        ({"k": [1, 2], "v": [1]}, exmapdb.SchemaError),
        ({}, exmapdb.SchemaError),
        ({"k": [1], "v": [None]}, exmapdb.NullViolationError),
        ({"k": [1]}, exmapdb.NullViolationError),
        ({"k": [1], "v": [2**31]}, exmapdb.InvalidValueError),
        ({"k": [1], "v": np.array([2**31])}, exmapdb.InvalidValueError),
        ({"k": [1], "v": [1.5]}, exmapdb.InvalidValueError),
        ({"k": [1], "v": np.array([1.0])}, exmapdb.InvalidValueError),
        ({"k": [1], "v": ["1"]}, exmapdb.InvalidValueError),
        ({"k": [1], "v": [1], "t": [b"bytes"]}, exmapdb.InvalidValueError),
        ({"k": [1], "v": [1], "f": ["x"]}, exmapdb.InvalidValueError),
    ],
)
def test_rows_that_cannot_be_are_refused_by_name(
    db: exmapdb.Database, columns: dict[str, list[object]], error: type[Exception]
) -> None:
    table = db.create_table("t", {"k": "int64", "v": "int32", "t": "text?", "f": "float64?"}, key="k")
    with pytest.raises(error):
        table.insert_many(columns)
    assert table.count() == 0


def test_nan_is_a_value_but_no_key(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "float64", "v": "float64"}, key="k")
    table.insert({"k": 1.0, "v": math.nan})
    row = table.get(1.0)
    assert row is not None
    assert math.isnan(row["v"])
    with pytest.raises(exmapdb.InvalidValueError):
        table.insert({"k": math.nan, "v": 1.0})
    with pytest.raises(exmapdb.InvalidValueError):
        table.get(math.nan)


@pytest.mark.parametrize("key", [(), (1, 2), "text", 1.5, None])
def test_get_refuses_what_is_no_key(db: exmapdb.Database, key: object) -> None:
    table = db.create_table("t", {"k": "int64"}, key="k")
    with pytest.raises(exmapdb.InvalidValueError):
        table.get(key)


def test_rows_and_keys_of_the_largest_size_fit(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "text", "v": "text"}, key="k")
    # a key has two bytes more than its text; a value has a version, a bit for null, and two bytes for its end
    keys = [f"{i:0510}" for i in range(40)]
    table.insert_many({"k": keys, "v": ["v" * (992 - 512 - 4)] * 40})
    assert [row[0] for batch in table.scan() for row in batch.to_rows()] == keys
    assert db.check().extent_pages == 0
    table.insert({"k": "k", "v": "v" * (992 - 3 - 4)})
    assert db.check().extent_pages == 0
    table.insert({"k": "l", "v": "v" * (992 - 3 - 4 + 1)})
    assert db.check().extent_pages == 1
    with pytest.raises(exmapdb.RowTooLargeError):
        table.insert({"k": "k" * 511, "v": ""})


@pytest.mark.parametrize(
    ("schema", "key"),
    [
        ({}, "k"),
        ({"k": "int63"}, "k"),
        ({"k": "decimal(19,0)"}, "k"),
        ({"k": "decimal(4,5)"}, "k"),
        ({"k": "decimal"}, "k"),
        ({"k": "int64"}, "other"),
        ({"k": "int64"}, ()),
        ({"k": "int64"}, ("k", "k")),
        ({"k": "int64?"}, "k"),
        ({f"c{i}": "int64" for i in range(257)}, "c0"),
        ({f"c{i}": "int64" for i in range(200)}, "c0"),
        ([Field("k", ColumnType.INT32), Field("k", ColumnType.TEXT)], "k"),
        ({"k" * 129: "int64"}, "k" * 129),
    ],
)
def test_schemas_that_cannot_be_are_refused(
    db: exmapdb.Database, schema: dict[str, str], key: str | tuple[str, ...]
) -> None:
    with pytest.raises(exmapdb.SchemaError):
        db.create_table("t", schema, key)
    assert db.tables() == []


def test_tables_are_known_by_name(db: exmapdb.Database) -> None:
    db.create_table("b", {"k": "int64"}, key="k")
    db.create_table("a", {"k": "int64"}, key="k")
    assert db.tables() == ["a", "b"]
    assert "a" in db
    with pytest.raises(exmapdb.TableExistsError):
        db.create_table("a", {"k": "int64"}, key="k")
    with pytest.raises(exmapdb.NoSuchTableError, match=r"'c'.*a, b"):
        db.table("c")


def test_columns_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(exmapdb.InvalidValueError):
        Column.of(ColumnType.INT32, Column.of(ColumnType.INT64, [1]))
    with pytest.raises(exmapdb.InvalidValueError):
        Column.of(ColumnType.INT64, np.zeros((2, 2), np.int64))
    with pytest.raises(TypeError):
        Column.of(ColumnType.INT64, [1]).to_bytes()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bool", [False, True]),
        ("bytes", [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"\xff"]),
        ("decimal(6,3)", [decimal.Decimal(n).scaleb(-3) for n in (-999999, -1001, -1000, 0, 1, 999999)]),
        ("date", [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(9999, 12, 31)]),
    ],
)
def test_keys_of_every_type_are_in_the_order_of_their_values(
    db: exmapdb.Database, kind: str, values: list[object]
) -> None:
    table = db.create_table("t", {"k": kind, "n": "int64"}, key=("k", "n"))
    table.insert_many({"k": values[::-1] * 2, "n": [1] * len(values) + [0] * len(values)})
    assert [row for b in table.scan() for row in b.to_rows()] == [(v, n) for v in values for n in (0, 1)]
    assert all(table.get((value, 1)) == {"k": value, "n": 1} for value in values)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bool", 1),
        ("bool", "true"),
        ("bytes", "text"),
        ("text", b"bytes"),
        ("decimal(4,2)", 100),
        ("decimal(4,2)", decimal.Decimal("0.001")),
        ("decimal(4,2)", 0.5),
        ("decimal(4,2)", decimal.Decimal("NaN")),
        ("decimal(4,2)", decimal.Decimal("1e999999")),
        ("decimal(4,2)", decimal.Decimal("1e-999999")),
        ("decimal(4,2)", decimal.Decimal("-Infinity")),
        ("decimal(4,2)", True),
    ],
)
def test_values_that_do_not_fit_their_type_are_refused(
    db: exmapdb.Database, kind: str, value: object
) -> None:
    table = db.create_table("t", {"k": "int64", "v": kind}, key="k")
    with pytest.raises(exmapdb.InvalidValueError):
        table.insert({"k": 1, "v": value})
    assert table.count() == 0


def test_decimals_take_whatever_is_exact(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"k": "int64", "v": "decimal(6,2)"}, key="k")
    table.insert_many({"k": [1, 2, 3], "v": [7, "1.5", decimal.Decimal("-1e1")]})
    table.insert_many({"k": [4], "v": np.array([8], np.int16)})
    table.insert({"k": 5, "v": decimal.Decimal("0e99")})
    batch, _ = table.lookup({"k": range(1, 6)}, columns=["v"])
    assert batch["v"].to_pylist() == [decimal.Decimal(v) for v in ("7", "1.5", "-10", "8", "0")]


def test_lookup_gives_the_rows_that_there_are_in_the_order_of_the_keys(db: exmapdb.Database) -> None:
    table = db.create_table("t", {"a": "int64", "b": "text", "v": "text?"}, key=("a", "b"))
    table.insert_many(
        {"a": range(500), "b": [str(i) for i in range(500)], "v": ["x" * i for i in range(500)]}
    )
    wanted = [7, 499, 1000, 7, 0]
    with db.begin() as txn:
        txn.table("t").update((7, "7"), {"v": "own"})
        for mine, seven in ((txn.table("t"), "own"), (table, "x" * 7)):
            batch, found = mine.lookup({"a": wanted, "b": [str(i) for i in wanted]}, columns=["v", "a"])
            assert found.tolist() == [True, True, False, True, True]
            assert list(batch.to_rows()) == [(seven, 7), ("x" * 499, 499), (seven, 7), ("", 0)]
    with pytest.raises(exmapdb.SchemaError, match="b"):
        table.lookup({"a": [1]})


@pytest.mark.parametrize(
    ("kind", "given", "wrong"),
    [
        ("int32", [1, 2, 3], [1, 1 << 31, 3]),
        ("int32", [True, np.int8(2)], [1, "2"]),
        ("int64", [1, -(1 << 63)], [1, 1 << 63]),
        ("float64", [1.5, 2.5], [1.5, "x"]),
        ("float64", [1.5, 2, None], [1.5, b"x"]),
        ("bool", [True, False], [True, 1]),
        ("text", ["a", "ü", ""], ["a", "\ud800"]),
        ("text", ["a", None], ["a", b"b"]),
        ("bytes", [b"a", b"", b"\0"], [b"a", "b"]),
        ("bytes", [b"a", bytearray(b"b")], [b"a", 1]),
    ],
)
def test_lists_of_one_type_and_of_several_mean_the_same(
    tmp_path: Path, kind: str, given: list[Any], wrong: list[Any]
) -> None:
    with exmapdb.open(tmp_path / "t.exdb", backend="posix", durability="async") as db:
        table = db.create_table("t", {"k": "int64", "v": f"{kind}?"}, key="k")
        table.insert_many({"k": range(len(given)), "v": given})
        assert [table.get(k) for k in range(len(given))] == [{"k": k, "v": v} for k, v in enumerate(given)]
        with pytest.raises(exmapdb.InvalidValueError):
            table.insert_many({"k": range(len(wrong)), "v": wrong}, replace=True)
        assert table.count() == len(given)
