"""Arrow in and out, files, and the check. Posix backend."""

import datetime as dt
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import exmapdb
import pytest
from db_pages import page_blocks, read_meta
from exmapdb.cli import app
from typer.testing import CliRunner

pa = pytest.importorskip("pyarrow")

OPTIONS: Any = {"memory": "1MiB", "backend": "posix", "durability": "async", "log": "4MiB"}
SCHEMA = {
    "id": "int64",
    "n": "int32?",
    "x": "float64?",
    "name": "text?",
    "day": "date?",
    "at": "timestamp?",
    "ok": "bool?",
    "raw": "bytes?",
    "price": "decimal(12,3)?",
}
ROWS = 5000


def make_table() -> Any:
    every_third = [None if i % 3 == 0 else i for i in range(ROWS)]
    day = dt.date(2020, 1, 1)
    return pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "n": pa.array(every_third, pa.int32()),
            "x": pa.array([None if n is None else n / 2 for n in every_third], pa.float64()),
            "name": pa.array([None if n is None else "é" * (n % 50) for n in every_third], pa.utf8()),
            "day": pa.array([day + dt.timedelta(days=i) for i in range(ROWS)], pa.date32()),
            "at": pa.array([dt.datetime(2020, 1, 1, 0, i % 60) for i in range(ROWS)], pa.timestamp("us")),
            "ok": pa.array([n and n % 2 == 0 for n in every_third], pa.bool_()),
            "raw": pa.array([n and b"ab" * (n % 9) for n in every_third], pa.binary()),
            "price": pa.array([n and Decimal(-n).scaleb(-3) for n in every_third], pa.decimal128(12, 3)),
        }
    )


@pytest.fixture
def db(tmp_path: Path) -> Iterator[exmapdb.Database]:
    with exmapdb.open(tmp_path / "t.exdb", **OPTIONS) as database:
        database.create_table("t", SCHEMA, key="id")
        yield database


def test_what_arrow_brings_it_takes_away(db: exmapdb.Database) -> None:
    given = make_table()
    assert db.table("t").insert_many(given) == ROWS
    back = db.table("t").to_arrow()
    back.validate(full=True)
    assert back.to_pydict() == given.to_pydict()
    assert back.schema.types == given.schema.types


def test_slices_and_chunks_and_other_types_are_cast_without_loss(db: exmapdb.Database) -> None:
    given = make_table()
    parts = [given.slice(start, 700) for start in range(0, ROWS, 700)]
    for column, other in (("id", pa.int32()), ("name", pa.large_utf8())):
        parts = [p.set_column(p.column_names.index(column), column, p[column].cast(other)) for p in parts]
    for part in parts:
        db.table("t").insert_many(part)
    assert db.table("t").to_arrow().to_pydict() == given.to_pydict()
    wrong = pa.table({"id": [2**40], "n": pa.array([2**40], pa.int64())})
    with pytest.raises(exmapdb.InvalidValueError):
        db.table("t").insert_many(wrong)


def test_ranges_and_columns(db: exmapdb.Database) -> None:
    db.table("t").insert_many(make_table())
    found = db.table("t").to_arrow(10, 20, columns=["name", "id"])
    assert found.column_names == ["name", "id"]
    assert found["id"].to_pylist() == list(range(10, 20))
    assert pa.table(db.table("t").record_batches(columns=["n"])).num_rows == ROWS


def test_a_snapshot_gives_arrow_as_it_was(db: exmapdb.Database) -> None:
    given = make_table()
    db.table("t").insert_many(given)
    with db.snapshot() as snapshot:
        db.table("t").delete_many({"id": range(0, ROWS, 2)})
        assert snapshot.table("t").to_arrow().to_pydict() == given.to_pydict()


def run(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments), "--backend", "posix", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_files_go_in_and_out(db: exmapdb.Database, tmp_path: Path, kind: str) -> None:
    given = make_table()
    db.table("t").insert_many(given)
    db.close()
    out, copy = tmp_path / f"t.{kind}", tmp_path / "copy.exdb"
    assert run("export", tmp_path / "t.exdb", "t", out)["rows"] == ROWS
    assert run("import", copy, "u", out, "--key", "id")["rows"] == ROWS
    with exmapdb.open(copy, **OPTIONS) as database:
        back = database.table("u").to_arrow().to_pydict()
    expected = given.to_pydict()
    if kind == "csv":
        # bytes are text there, and decimals are floats
        for name, change in (("raw", bytes.decode), ("price", float)):
            expected[name] = [None if v is None else change(v) for v in expected[name]]
        # an empty text and none at all look alike there
        for name in ("name", "raw"):
            back[name], expected[name] = ([value or "" for value in t[name]] for t in (back, expected))
    assert back == expected


def test_an_unknown_kind_of_file_is_refused(db: exmapdb.Database, tmp_path: Path) -> None:
    db.close()
    done = CliRunner().invoke(app, ["export", str(tmp_path / "t.exdb"), "t", str(tmp_path / "t.xlsx")])
    assert done.exit_code == 1
    assert ".parquet" in done.output


def test_check_counts_what_it_has_seen(db: exmapdb.Database, tmp_path: Path) -> None:
    db.table("t").insert_many(make_table())
    db.table("t").delete_many({"id": range(1000, 4000)})
    found = db.check()
    stats = db.stats()
    assert found.tree_pages + found.free_pages == stats.allocated_pages - 1
    assert found.free_pages == stats.free_pages > 0
    # three of the catalog, the table, the runs, and the directory with five rows
    assert (found.trees, found.rows) == (6, ROWS - 3000 + 1 + len(SCHEMA) + 5)
    db.close()
    assert run("check", tmp_path / "t.exdb")["stored_pages"] == stats.allocated_pages - 1


def test_check_finds_damage_that_nobody_reads(db: exmapdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"
    db.table("t").insert_many(make_table())
    db.table("t").delete_many({"id": range(1000, 4000)})
    db.close()
    data = path.read_bytes()
    page = read_meta(data).free_page
    damaged = bytearray(data)
    damaged[page_blocks(data)[page] * 4096 + 2000] ^= 1
    path.write_bytes(damaged)
    with exmapdb.open(path, **OPTIONS) as database:
        assert database.table("t").count() == ROWS - 3000
        with pytest.raises(exmapdb.CorruptPageError) as error:
            database.check()
        assert error.value.page == page
    done = CliRunner().invoke(app, ["check", str(path), "--backend", "posix"])
    assert done.exit_code == 1
    assert f"page {page} " in done.output


def read_with_duckdb(stream: Any) -> list[tuple[Any, ...]]:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.register("stream", stream)
        query = 'SELECT id, name, day, "at", ok, raw, price FROM stream WHERE n > 100 ORDER BY id DESC'
        found: list[tuple[Any, ...]] = connection.execute(query).fetchall()
        return found


def read_with_polars(stream: Any) -> list[tuple[Any, ...]]:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(stream).filter(pl.col("n") > 100).sort("id", descending=True)
    found: list[tuple[Any, ...]] = frame.select("id", "name", "day", "at", "ok", "raw", "price").rows()
    return found


def read_with_pandas(stream: Any) -> list[tuple[Any, ...]]:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame.from_arrow(stream)
    frame = frame[frame["n"] > 100].sort_values("id", ascending=False)
    days = [day.date() if isinstance(day, dt.datetime) else day for day in frame["day"]]
    times = [time.to_pydatetime() for time in frame["at"]]
    rest = [frame[name].tolist() for name in ("ok", "raw", "price")]
    return list(zip(frame["id"].tolist(), frame["name"].tolist(), days, times, *rest, strict=True))


@pytest.mark.parametrize("read", [read_with_duckdb, read_with_polars, read_with_pandas])
def test_others_read_the_stream_themselves(db: exmapdb.Database, read: Any) -> None:
    given = make_table()
    db.table("t").insert_many(given)
    rows = given.select(["id", "name", "day", "at", "ok", "raw", "price", "n"]).to_pylist()
    expected = [tuple(row.values())[:7] for row in reversed(rows) if row["n"] is not None and row["n"] > 100]
    assert read(db.table("t").record_batches()) == expected
    with db.snapshot() as snapshot:
        db.table("t").delete(200)
        assert read(snapshot.table("t").record_batches()) == expected
