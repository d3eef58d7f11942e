"""The benches on the posix backend: what they print, whatever the figures are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from exmapctl.app import app
from exmapctl.bench import measure, pages, presence
from exmapctl.bench.measure import Figures, Timing
from exmapctl.bench.pages import Variant
from exmapctl.bench.record import Record, find
from exmapctl.errors import BenchFailedError, ModuleNotLoadedError
from typer.testing import CliRunner

SCHEMA = Path(__file__).resolve().parents[2] / "docs/reference/bench-records.schema.json"
TINY = ["--backend", "posix", "--seconds", "0.002", "--rounds", "1"]
COMMANDS = {
    "pages": ["bench", "pages", *TINY, "--pool-pages", "4096"],
    "presence": ["bench", "presence", *TINY, "--region-pages", "4096"],
}


def validate(records: Any) -> None:
    """Hold records against the published schema."""
    jsonschema.validate(records, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)


def run_json(bench: str, **environment: str) -> list[dict[str, Any]]:
    """Run a bench with --json; nothing but one list may be on stdout."""
    result = CliRunner().invoke(app, [*COMMANDS[bench], "--json"], env=environment)
    assert result.exit_code == 0, result.stderr
    records: list[dict[str, Any]] = json.loads(result.stdout)
    return records


@pytest.fixture(scope="module")
def pages_records() -> list[dict[str, Any]]:
    """Records of bench pages, without instruction counts."""
    return run_json("pages")


@pytest.fixture(scope="module")
def presence_records() -> list[dict[str, Any]]:
    """Records of bench presence, without instruction counts."""
    return run_json("presence")


def test_pages_keep_the_schema(pages_records: list[dict[str, Any]]) -> None:
    validate(pages_records)


def test_presence_keeps_the_schema(presence_records: list[dict[str, Any]]) -> None:
    validate(presence_records)


@pytest.mark.parametrize(
    "broken", [{"ratio": None}, {"case": "vector"}, {"value": -1}, {"extra": 1}, {"metric": "Pages/s"}]
)
def test_the_schema_refuses_broken_records(broken: dict[str, Any]) -> None:
    good = {
        "bench": "pages",
        "case": "vector=1",
        "metric": "pages_per_s",
        "unit": "pages/s",
        "value": 1,
        "baseline": "x",
        "ratio": 1,
    }
    validate([good])
    with pytest.raises(jsonschema.ValidationError):
        validate([good | broken])


def test_pages_have_all_cases(pages_records: list[dict[str, Any]]) -> None:
    threads = [n for n in pages.THREADS if n <= len(measure.usable_cpus())]
    wanted = {
        f"vector={vector},threads={n},free={free}"
        for vector in (1, 64, 512)
        for n in threads
        for free in ("immediate", "lazy")
    }
    assert wanted <= {record["case"] for record in pages_records if record["metric"] == "pages_per_s"}


def test_pages_are_compared_with_the_best_of_as_many_threads(pages_records: list[dict[str, Any]]) -> None:
    speeds = {record["case"]: record for record in pages_records if record["metric"] == "pages_per_s"}
    vanilla = [speeds[case]["value"] for case in speeds if "threads=1" in case and "how=" in case]
    ours = speeds["vector=512,threads=1,free=lazy"]
    assert ours["ratio"] == pytest.approx(ours["value"] / max(vanilla))


def test_presence_has_all_ways(presence_records: list[dict[str, Any]]) -> None:
    cases = {record["case"] for record in presence_records if record["metric"] == "ns_per_check"}
    assert {"how=residency", "how=scan", "how=scan_range", "how=pagemap", "how=mincore"} <= cases


def test_a_residency_check_makes_no_system_call(presence_records: list[dict[str, Any]]) -> None:
    proof = next(record for record in presence_records if record["metric"] == "syscalls_per_check")
    assert proof["value"] == 0


def test_cheaper_is_better(presence_records: list[dict[str, Any]]) -> None:
    costs = {r["case"]: r for r in presence_records if r["metric"] == "ns_per_check"}
    ours = costs["how=residency"]
    assert ours["ratio"] == pytest.approx(costs["how=pagemap"]["value"] / ours["value"])


@pytest.mark.parametrize("bench", sorted(COMMANDS))
def test_instructions_are_reported_where_they_are_counted(bench: str) -> None:
    records = run_json(bench, EXMAP_ICOUNT="1")
    validate(records)
    counted = {record["case"] for record in records if record["metric"] == "instructions_per_op"}
    timed = {record["case"] for record in records if record["metric"] in ("pages_per_s", "ns_per_check")}
    assert counted == timed


def test_no_instructions_elsewhere(pages_records: list[dict[str, Any]]) -> None:
    assert not [record for record in pages_records if record["metric"] == "instructions_per_op"]


def test_a_table_is_printed_for_people() -> None:
    result = CliRunner().invoke(app, COMMANDS["presence"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    assert "how=residency" in result.stdout


def test_check_prints_verdicts_and_fails_if_a_target_is_missed() -> None:
    result = CliRunner().invoke(app, [*COMMANDS["pages"], "--json", "--check"], env={"COLUMNS": "160"})
    assert result.exit_code == 1
    validate(json.loads(result.stdout))
    assert "fail" in result.stderr
    assert ">= 20" in result.stderr


def test_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "presence.svg"
    assert CliRunner().invoke(app, [*COMMANDS["presence"], "--plot", str(path)]).exit_code == 0
    assert "how=residency" in path.read_text()


def speed(case: str, value: float, ratio: float) -> Record:
    """A figure of bench pages."""
    return Record("pages", case, "pages_per_s", "pages/s", value, "x", ratio)


def good_records() -> list[Record]:
    """Figures that just reach all targets."""
    quiet = "vector=512,threads=2,free=lazy"
    return [
        speed("vector=512,threads=1,free=immediate", 100, 20),
        speed("vector=512,threads=1,free=lazy", 100, 30),
        speed("vector=512,threads=2,free=immediate", 151, 20),
        speed(quiet, 151, 20),
        speed("vector=1,threads=1,free=lazy", 10, 5),
        Record("pages", quiet, "shootdowns_per_mpage", "1/Mpage", 200, "x", 1),
    ]


def test_targets_can_be_reached() -> None:
    assert all(target.passed for target in pages.targets(good_records()))


@pytest.mark.parametrize("index", range(6))
def test_every_target_needs_its_record(index: int) -> None:
    records = good_records()
    del records[index]
    assert not all(target.passed for target in pages.targets(records))


@pytest.mark.parametrize(
    ("index", "worse"),
    [
        (0, speed("vector=512,threads=1,free=immediate", 100, 19.9)),
        (1, speed("vector=512,threads=1,free=lazy", 100, 29.9)),
        (2, speed("vector=512,threads=2,free=immediate", 150, 99)),
        (3, speed("vector=512,threads=2,free=lazy", 150, 99)),
        (4, speed("vector=1,threads=1,free=lazy", 10, 4.9)),
        (
            5,
            Record(
                "pages", "vector=512,threads=2,free=lazy", "shootdowns_per_mpage", "1/Mpage", 200.1, "x", 9
            ),
        ),
    ],
)
def test_every_target_can_be_missed(index: int, worse: Record) -> None:
    records = good_records()
    records[index] = worse
    assert [target.passed for target in pages.targets(records)].count(False) == 1


@pytest.mark.parametrize(
    ("ratio", "calls", "passed"), [(1000, 0, True), (999, 0, False), (1000, 1e-6, False)]
)
def test_presence_targets(ratio: float, calls: float, passed: bool) -> None:
    records = [
        Record("presence", "how=residency", "ns_per_check", "ns", 1, "pagemap", ratio),
        Record("presence", "how=residency", "syscalls_per_check", "1/check", calls, "pagemap", 1),
    ]
    assert all(target.passed for target in presence.targets(records)) is passed


def figures(ops_per_s: float, shootdowns: float | None) -> Figures:
    """Costs of a variant."""
    return Figures(ops_per_s, 1e9 / ops_per_s, 100.0, shootdowns)


def test_no_shootdowns_at_all_keep_the_ratio_finite() -> None:
    ours, base = Variant("exmap", 512, 1, True), Variant("madvise_range", 512, 1)
    records = list(pages.compare(ours, {ours: figures(100, 0.0), base: figures(10, 50.0)}))
    found = find(records, str(ours), "shootdowns_per_mpage")
    assert found is not None
    assert (found.value, found.ratio) == (0.0, 50.0)


def test_uncounted_shootdowns_are_left_out() -> None:
    ours, base = Variant("exmap", 512, 1, True), Variant("madvise_range", 512, 1)
    records = list(pages.compare(ours, {ours: figures(100, None), base: figures(10, None)}))
    assert [record.metric for record in records] == ["pages_per_s"]


def test_medians_are_taken_over_rounds_and_variants_take_turns() -> None:
    order: list[str] = []
    speeds = {"a": iter([1, 9, 2]), "b": iter([5, 5, 5])}

    def run(variant: str, result: Any) -> int:
        result.ops, result.wall_ns, result.cpu_ns = next(speeds[variant]), 10**9, 1
        return 0

    found = measure.measure(["a", "b"], run, 3, order.append)
    assert order == ["a", "b"] * 3
    assert found["a"].ops_per_s == 2


def test_each_interrupt_counts_once() -> None:
    runs = [SimpleNamespace(ops=10**6, tlb_ipis=100, call_ipis=130)]
    assert measure.shootdowns(runs) == 130


def test_rescued_pages_spoil_the_figures() -> None:
    counts = iter([5, 6])
    bench: Any = SimpleNamespace(rescues=lambda: next(counts))
    with pytest.raises(BenchFailedError, match="larger pool"), pages.no_rescues(bench):
        pass


def test_a_wrong_answer_spoils_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "lib", SimpleNamespace(presence_verify=lambda native, how: 3))
    bench = object.__new__(presence.Presence)
    bench.native = None
    with pytest.raises(BenchFailedError, match="wrong about 3 pages"):
        bench.verify("scan")


def test_a_trap_that_traps_nothing_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "lib", SimpleNamespace(presence_prove=lambda native, checks, proof: 0))
    bench = object.__new__(presence.Presence)
    bench.native = None
    with pytest.raises(BenchFailedError, match="proves nothing"):
        bench.syscalls()


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ModuleNotLoadedError, match="exmapctl load"):
        measure.check(-2, "open")
    with pytest.raises(BenchFailedError, match="RLIMIT_MEMLOCK"):
        measure.check(-12, "open")


def test_the_caller_gets_its_cpus_back() -> None:
    before = measure.usable_cpus()
    with measure.on_first_cpu():
        assert measure.usable_cpus() == before[:1]
    assert measure.usable_cpus() == before


def test_threads_follow_their_time() -> None:
    timing = Timing(0.5, 3).native()
    assert (timing.warmup_ns, timing.measure_ns) == (100_000_000, 500_000_000)
