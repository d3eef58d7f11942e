"""The bench of exmapdb: its records, and the operations that it chooses. Posix backend."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import exmapdb
import jsonschema
import numpy as np
import pytest
from exmapctl.bench.record import Record
from exmapdb.bench.engines import ENGINES, FREEZABLE, Setup
from exmapdb.bench.targets import targets_of
from exmapdb.bench.tpcc_bench import InconsistentError, check
from exmapdb.bench.tpcc_data import Scale
from exmapdb.bench.tpcc_data import load as load_tpcc
from exmapdb.bench.ycsb import WORKLOADS, Runner, load, prepare
from exmapdb.cli import app
from typer.testing import CliRunner

SCHEMA = Path(__file__).resolve().parents[2] / "docs/reference/bench-records.schema.json"
SMALL = ["--rows", "1000", "--operations", "300", "--rounds", "1", "--backend", "posix", "--no-durable"]


def bench(*options: str) -> Any:
    done = CliRunner().invoke(app, ["bench", *SMALL, "--json", *options])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_records_follow_the_schema_and_compare_with_each_peer() -> None:
    pytest.importorskip("lmdb")
    pytest.importorskip("duckdb")
    records = bench("--workloads", "ycsb-c,ycsb-f")
    jsonschema.validate(records, json.loads(SCHEMA.read_text()))
    seen = {(r["case"], r["metric"], r["baseline"]) for r in records}
    cases = [
        f"workload={work},data=memory,api={api},threads=1,engine=exmapdb"
        for work in ("ycsb-c", "ycsb-f")
        for api in ("single", "batch")
    ]
    metrics = ("ops_per_s", "p50_us", "p99_us", "p999_us", "cpu_us")
    expected = {(c, m, p) for c in cases for m in metrics for p in ("sqlite", "lmdb")}
    scan = "workload=scan,data=memory,api=batch,threads=1,engine=exmapdb"
    scans = {(scan, "scan_rate", peer) for peer in ("sqlite", "lmdb", "duckdb")}
    scans |= {(scan, "scan_vs_memcpy", "memcpy"), (scan, "query_rate", "duckdb")}
    assert seen == expected | scans


def test_less_cache_than_data_leaves_out_who_has_none_that_can_be_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exmapdb.bench.cli.can_bound", lambda: False)
    records = bench("--workloads", "ycsb-b", "--data", "4x", "--keys", "uniform")
    assert {r["baseline"] for r in records} == {"sqlite", "memcpy"}
    assert all("data=4x" in r["case"] and r["case"].endswith("keys=uniform") for r in records)


def test_mixed_compares_what_writers_keep_with_sqlite_and_fork() -> None:
    records = bench("--workloads", "mixed", "--seconds", "0.05", "--threads", "2")
    jsonschema.validate(records, json.loads(SCHEMA.read_text()))
    seen = {(r["case"], r["baseline"]) for r in records if r["metric"] == "olap_kept"}
    case = "workload=mixed,data=memory,api={},threads=2,engine=exmapdb"
    assert seen == {(case.format(api), peer) for api in ("single", "batch") for peer in ("sqlite", "fork")}
    assert {r["case"] for r in records if r["metric"] == "scan_vs_memcpy"} == {case for case, _ in seen}


def test_mixed_has_a_reader_in_the_background() -> None:
    records = bench(
        "--workloads", "mixed", "--seconds", "0.05", "--peers", "sqlite", "--beside", "background"
    )
    jsonschema.validate(records, json.loads(SCHEMA.read_text()))
    assert {r["case"].rpartition(",")[2] for r in records} == {"beside=background"}
    assert {r["metric"] for r in records} >= {"olap_kept", "freeze_us", "scan_ms"}


@pytest.mark.parametrize("beside", ["freeze", "burn"])
def test_mixed_tells_what_a_part_of_its_reader_leaves_to_writers(beside: str) -> None:
    records = bench("--workloads", "mixed", "--seconds", "0.05", "--peers", "sqlite", "--beside", beside)
    jsonschema.validate(records, json.loads(SCHEMA.read_text()))
    case = "workload=mixed,data=memory,api={},threads=1,engine=exmapdb,beside=" + beside
    assert {r["case"] for r in records} == {case.format(api) for api in ("single", "batch")}
    assert {r["metric"] for r in records} == {"olap_kept", "oltp_rows_per_s", "scan_vs_memcpy"}


def test_several_threads_are_compared_with_one() -> None:
    records = bench("--workloads", "update", "--peers", "sqlite", "--threads", "2")
    jsonschema.validate(records, json.loads(SCHEMA.read_text()))
    rates = {(r["case"], r["baseline"]) for r in records if r["metric"] == "ops_per_s"}
    case = "workload=update,data=memory,api={},threads=2,engine=exmapdb"
    assert rates == {
        (case.format(api), peer) for api in ("single", "batch") for peer in ("sqlite", "one_thread")
    }


def test_report_draws_what_was_measured_and_says_what_was_missed(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    options = ["--workloads", "ycsb-c", "--peers", "sqlite", "--check", "--html", str(report)]
    done = CliRunner().invoke(app, ["bench", *SMALL, *options])
    assert done.exit_code in (0, 1), done.output
    text = report.read_text()
    assert text.count("<svg") == 7
    for word in ("<h2>ops_per_s<", "<h2>p999_us<", "<h2>cpu_us<", "scan_vs_memcpy / memcpy<"):
        assert word in text
    verdict = "pass" if done.exit_code == 0 else "fail"
    assert f'<td class="{verdict}">{verdict}</td>' in text


def test_report_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", *SMALL, "--html", str(tmp_path / "no" / "report.html")])
    assert done.exit_code == 1
    assert "No such file" in done.output


@pytest.mark.parametrize(("ratio", "passed"), [(2.0, True), (1.99, False)])
def test_targets_are_held_against_the_figure_that_they_are_about(ratio: float, passed: bool) -> None:
    case = "workload={},data=memory,api=batch,threads=1,engine=exmapdb,keys=uniform"
    records = [
        Record("exmapdb", case.format(work), metric, "1/s", 1.0, peer, ratio)
        for work in ("ycsb-b", "ycsb-c")
        for metric in ("ops_per_s", "p99_us")
        for peer in ("sqlite", "lmdb")
    ]
    (target,) = targets_of(records)
    assert target.name == case.format("ycsb-c") + " ops_per_s / lmdb"
    assert target.passed is passed


def test_what_writers_keep_is_wanted_once() -> None:
    case = "workload=mixed,data=memory,api=single,threads=1,engine=exmapdb,beside=background"
    records = [Record("exmapdb", case, "olap_kept", "1", 0.81, peer, 3.0) for peer in ("sqlite", "fork")]
    assert [target.passed for target in targets_of(records)] == [True]


@pytest.mark.parametrize("name", list(FREEZABLE))
def test_a_frozen_table_is_that_of_one_moment(tmp_path: Path, name: str) -> None:
    with contextlib.closing(FREEZABLE[name](Setup(tmp_path, 1 << 20, False, "posix"))) as engine:
        load(engine, 1000)
        with engine.freeze() as frozen:
            engine.put_many(np.arange(1000, 1500), [b"v"] * 500)
            assert frozen.scan() == (1000, 100_000)
        with engine.freeze() as frozen:
            assert frozen.scan() == (1500, 100_500)


TPCC = ["--workloads", "tpcc", "--threads", "2", "--customers", "30", "--items", "100"]


def test_tpcc_compares_terminals_with_one_and_sqlite_and_checks_what_they_leave() -> None:
    records = bench(*TPCC, "--seconds", "0.5", "--warehouses", "2")
    jsonschema.validate(records, json.loads(SCHEMA.read_text()))
    case = "workload=tpcc,data=memory,api=single,threads=2,engine=exmapdb"
    assert {(r["case"], r["metric"], r["baseline"]) for r in records} == {
        (case, metric, baseline)
        for metric in ("transactions_per_s", "new_orders_per_min")
        for baseline in ("one_terminal", "sqlite")
    }
    assert all(r["value"] > 0 for r in records)


def test_tpcc_fails_if_a_condition_does_not_hold(tmp_path: Path) -> None:
    with exmapdb.open(tmp_path / "t", backend="posix", durability="async") as db:
        load_tpcc(db, Scale(warehouses=1, customers=30, items=100), seed=1)
        check(db, 1)
        db.table("district").update((1, 3), {"next_o_id": 7})
        with pytest.raises(InconsistentError, match="condition 2"):
            check(db, 1)


def test_unknown_names_are_refused() -> None:
    done = CliRunner().invoke(app, ["bench", *SMALL, "--workloads", "ycsb-g"])
    assert done.exit_code == 2
    assert "ycsb-g" in done.output


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", ["exmapdb", "sqlite", "lmdb"])
def test_all_engines_do_the_same(tmp_path: Path, name: str, batched: bool) -> None:
    if name == "lmdb":
        pytest.importorskip("lmdb")
    engine = ENGINES[name](Setup(tmp_path, 1 << 20, False, "posix", threads=2))
    runner = Runner(engine, 2)
    runner.load(1000)
    for work in WORKLOADS.values():
        found = runner.run([prepare(work, 1000, 600, seed) for seed in (1, 2)], batched)
        assert min(found.rate, found.cpu) > 0
        assert 0 < found.p50 <= found.p99 <= found.p999
    assert (engine.scan(0, 5), engine.scan(700, 100)) == (500, 10_000)
    rows, size = engine.read_all()
    assert rows > 1000
    assert size == 100 * rows
    assert engine.get(5) == 100
    assert engine.get(5000) == 0
    assert engine.get_many(np.array([1, 2, 5000])) == 200
    runner.close()


def test_keys_and_operations_are_chosen_as_the_workload_says() -> None:
    # of 10,000 keys the hundred most popular get about a half if the choice is zipfian, few if uniform
    keys = prepare(WORKLOADS["ycsb-c"], 10_000, 20_000, 1).keys
    counts = np.sort(np.bincount(keys))[::-1]
    assert 0.4 < counts[:100].sum() / 20_000 < 0.65
    uniform = prepare(dataclasses.replace(WORKLOADS["ycsb-c"], popular="uniform"), 10_000, 20_000, 1).keys
    assert np.sort(np.bincount(uniform))[-100:].sum() / 20_000 < 0.06
    latest = prepare(WORKLOADS["ycsb-d"], 10_000, 20_000, 1).keys
    age = np.maximum.accumulate(np.maximum(latest, 9_999)) - latest
    assert 0.4 < (age < 100).mean() < 0.65
    kinds = prepare(WORKLOADS["ycsb-b"], 1000, 20_000, 1).kinds
    assert 0.93 < (kinds == 0).mean() < 0.97
