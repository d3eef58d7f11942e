"""bench snapshot, as far as it goes without the module: fork, and what becomes of figures."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from exmapctl._bench import ffi, lib
from exmapctl.app import app
from exmapctl.bench import measure, snapshot_cli
from exmapctl.bench.measure import Timing
from exmapctl.bench.plot import Line, draw_timelines
from exmapctl.bench.record import Record, find
from exmapctl.bench.snapshot import (
    PAGE_SIZE,
    READERS,
    Case,
    Figures,
    Memory,
    Orders,
    Settings,
    Way,
    measure_all,
    needed_bytes,
)
from exmapctl.bench.snapshot_records import compare, tables, targets
from exmapctl.errors import BenchFailedError
from typer.testing import CliRunner

SCHEMA = Path(__file__).resolve().parents[2] / "docs/reference/bench-records.schema.json"
SIZE = 4 << 20
PAGES = SIZE // PAGE_SIZE
TINY = Timing(0.03, 1)
FORK, OURS, UFFD = Way("fork"), Way("exmap"), Way("userfaultfd")
needs_userfaultfd = pytest.mark.skipif(not UFFD.supported, reason="userfaultfd cannot protect from writes")
GIB = Case(1 << 30, 1)


def order_of(orders: Orders, writer: int) -> list[int]:
    """All pages that a writer visits, in their order."""
    n = ffi.new("uint32_t *")
    return list(ffi.unpack(lib.snapshot_order(orders.native, writer, n), n[0]))


@pytest.fixture
def orders() -> Iterator[Orders]:
    """Zipfian orders for one writer."""
    with Orders(PAGES, 1, 0.99) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Anonymous memory that fork will freeze."""
    with Memory("fork", SIZE, 1) as made:
        yield made


def test_pages_are_zipfian_and_scattered(orders: Orders) -> None:
    order = order_of(orders, 0)
    ranks = Counter(order).most_common()
    shares = [(rank + 1) ** -0.99 for rank in range(PAGES)]
    for rank in (0, 1, 10):
        assert ranks[rank][1] / len(order) == pytest.approx(shares[rank] / sum(shares), rel=0.1)
    assert [page for page, _ in ranks[:4]] != sorted(page for page, _ in ranks[:4])
    assert set(order) == set(range(PAGES))


def test_uniform_pages_are_all_alike() -> None:
    with Orders(PAGES, 1, 0) as orders:
        order = order_of(orders, 0)
    counts = Counter(order).values()
    assert len(counts) == PAGES
    assert max(counts) < 1.3 * len(order) / PAGES


def test_orders_are_the_same_in_each_run_and_differ_between_writers(orders: Orders) -> None:
    with Orders(PAGES, 2, 0.99) as both:
        first, second = order_of(both, 0), order_of(both, 1)
    assert first == order_of(orders, 0)
    assert first != second


@pytest.mark.parametrize("value", [0, 1, 15, 16, 17, 31, 32, 1000, 123456789, 2**40 + 12345, 2**64 - 1])
def test_a_quantile_is_at_most_six_per_cent_too_high(value: int) -> None:
    end = lib.snapshot_slot_end(lib.snapshot_slot(value))
    assert value <= end <= value * 17 / 16
    assert lib.snapshot_slot(value) < lib.SNAPSHOT_SLOTS


def test_shootdowns_are_counted_for_the_cpus_that_were_named() -> None:
    def parse(cpu: int) -> int:
        lines = Path("/proc/interrupts").read_text().splitlines()
        column = lines[0].split().index(f"CPU{cpu}")
        return next(int(line.split()[column + 1]) for line in lines if line.split()[0] == "TLB:")

    for cpu in measure.usable_cpus():
        before = parse(cpu)
        counted = lib.bench_shootdowns_on(ffi.new("int[]", [cpu]), 1)
        assert before <= counted <= parse(cpu)


def run_fork(memory: Memory, orders: Orders) -> Any:
    """Freeze by fork under one writer, on the last CPU."""
    return memory.run(orders, FORK, measure.usable_cpus()[-1:], READERS["view"], TINY)


def test_all_transactions_are_in_a_phase_and_in_the_timeline(memory: Memory, orders: Orders) -> None:
    result = run_fork(memory, orders)
    phases = [result.phases[n] for n in range(lib.SNAPSHOT_BEFORE, lib.SNAPSHOT_AFTER + 1)]
    # drop and scan are short: the host may give the writer no time in them
    assert phases[0].ops > 0
    assert phases[-1].ops > 0
    assert all(phase.p50_ns <= phase.p99_ns <= phase.p999_ns <= phase.max_ns for phase in phases)
    # the last bucket, which is not a whole one, is left out
    in_timeline = sum(result.timeline[0 : result.buckets + 1])
    assert in_timeline == sum(phase.ops for phase in phases)
    assert result.frozen_ns < result.scanned_ns < result.dropped_ns


def test_fork_makes_the_writers_fault(memory: Memory, orders: Orders) -> None:
    assert run_fork(memory, orders).faults > 0


def test_pages_of_different_moments_are_found_out(memory: Memory, orders: Orders) -> None:
    words = ffi.cast("uint64_t *", lib.snapshot_memory(memory.native))
    run_fork(memory, orders)
    # one page could be a transaction under way, two cannot; and nobody mends them
    for page in (5, 6):
        words[page * PAGE_SIZE // 8 + 3] += 1
    with pytest.raises(BenchFailedError, match="not of one moment"), Orders(1, 1, 0) as first_page:
        run_fork(memory, first_page)


def test_fork_alone_can_be_measured() -> None:
    settings = Settings([SIZE], [1], [FORK], 0.99, "view", TINY)
    steps: list[str] = []
    [(case, figures)] = measure_all(settings, measure.usable_cpus(), steps.append)
    assert steps == ["size=4MiB,writers=1 fork"]
    records = list(compare(case, figures))
    jsonschema.validate(plain(records), json.loads(SCHEMA.read_text()))
    assert {record.ratio for record in records} == {1.0}
    kept = find(records, "size=4MiB,writers=1,how=fork", "writer_kept")
    assert kept is not None
    # a writer whose CPU is taken away meanwhile keeps nothing
    assert kept.value >= 0


@needs_userfaultfd
def test_userfaultfd_copies_what_writers_write(orders: Orders) -> None:
    cpus = measure.usable_cpus()[-1:]
    with Memory("userfaultfd", SIZE, 1) as memory:
        # the second of its scans has to find what the first has found
        memory.run(orders, UFFD, cpus, READERS["view"], TINY, verify=True)
        before = memory.copies()
        result = memory.run(orders, UFFD, cpus, lib.SNAPSHOT_READ_NOTHING, Timing(0.5, 1))
        assert 0 < memory.copies() - before <= min(SIZE // PAGE_SIZE, result.faults)


@needs_userfaultfd
def test_userfaultfd_shows_the_moment_of_the_freeze() -> None:
    with Memory("userfaultfd", SIZE, 1) as memory:
        words = ffi.cast("uint64_t *", lib.snapshot_memory(memory.native))
        scans = [ffi.new("struct snapshot_scan *") for _ in range(3)]

        def scan(into: Any) -> int:
            assert lib.snapshot_scan_copy(memory.native, READERS["view"], into) == 0
            return int(into.digest)

        assert lib.snapshot_freeze(memory.native, 0) == 0
        before = scan(scans[0])
        for page in range(0, SIZE // PAGE_SIZE, 3):
            words[page * PAGE_SIZE // 8 + 1] = page + 1
        assert scan(scans[1]) == before
        assert memory.copies() == len(range(0, SIZE // PAGE_SIZE, 3))
        assert lib.snapshot_drop(memory.native) == 0
        assert lib.snapshot_freeze(memory.native, 0) == 0
        assert scan(scans[2]) != before
        assert lib.snapshot_drop(memory.native) == 0


def plain(records: list[Record]) -> list[dict[str, Any]]:
    """Records as --json has them."""
    names = ("bench", "case", "metric", "unit", "value", "baseline", "ratio")
    return [{name: getattr(record, name) for name in names} for record in records]


def made_up(factor: float) -> Figures:
    """Figures of which ours are `factor` times fork's."""
    values = {
        "freeze_us": 1000 * factor,
        "drop_ms": 4 * factor,
        "writer_kept": 0.2 * factor,
        "writer_stall_max_ms": 100 * factor,
        "writer_shootdowns": 10 * factor,
        "writer_faults": 500 * factor,
        "copies": 400 * factor,
        "unmap_ms": 2 * factor,
        "scan_tx_per_s": 3000 * factor,
    }
    return Figures(values)


def test_ratios_are_above_one_where_exmap_is_better() -> None:
    records = list(compare(GIB, {OURS: made_up(0.5), FORK: made_up(1)}))
    ratios = {record.metric: record.ratio for record in records if record.case == str(GIB)}
    assert ratios["freeze_us"] == ratios["drop_ms"] == ratios["writer_stall_max_ms"] == 2
    assert ratios["writer_kept"] == ratios["scan_tx_per_s"] == 0.5
    assert (ratios["copies"], ratios["unmap_ms"]) == (2.5, 4)
    jsonschema.validate(plain(records), json.loads(SCHEMA.read_text()))


def test_what_did_not_happen_counts_as_once() -> None:
    records = list(compare(GIB, {OURS: made_up(0), FORK: made_up(1)}))
    found = find(records, str(GIB), "writer_shootdowns")
    assert found is not None
    assert (found.value, found.ratio) == (0, 10)


def test_the_longest_stall_is_the_least_of_the_rounds_and_all_else_a_median() -> None:
    rounds = [Figures({"writer_stall_max_ms": n, "scan_ms": n}) for n in (9.0, 1.0, 5.0)]
    assert Figures.summary(rounds).values == {"writer_stall_max_ms": 1.0, "scan_ms": 5.0}


def test_each_way_has_a_case_of_its_own() -> None:
    ways = {
        OURS: made_up(1),
        Way("exmap", share=True): made_up(3),
        Way("exmap", 64, share=True): made_up(2),
        Way("exmap", 64): made_up(4),
        UFFD: made_up(5),
        FORK: made_up(1),
    }
    records = list(compare(GIB, ways))
    cases = list(dict.fromkeys(record.case for record in records))
    name = "size=1GiB,writers=1"
    options = ("readers=share", "readers=share,unshare=64", "unshare=64", "how=userfaultfd", "how=fork")
    assert cases == [name, *(f"{name},{option}" for option in options)]
    laid = tables(records)
    assert list(laid) == cases[:5]
    assert ("freeze_us", "us", 2000, 1000, 0.5) in laid[cases[2]]
    assert ("unmap_ms", "ms", 2, 4, 2) in laid[name]


def test_counted_instructions_are_of_operations_and_stand_beside_forks() -> None:
    rounds = [Figures({}, instructions={"freeze": n}) for n in (9.0, 1.0, 5.0)]
    ours = Figures.summary(rounds)
    records = list(compare(GIB, {OURS: ours, FORK: Figures({}, instructions={"freeze": 50.0})}))
    jsonschema.validate(plain(records), json.loads(SCHEMA.read_text()))
    assert [(record.case, record.metric, record.value, record.ratio) for record in records] == [
        (f"{GIB},op=freeze", "instructions_per_op", 5, 10),
        (f"{GIB},how=fork,op=freeze", "instructions_per_op", 50, 1),
    ]
    assert tables(records) == {
        str(GIB): [("instructions_per_op (freeze)", "instructions/op", 5, 50, 10)],
    }


def good_records() -> list[Record]:
    """Figures that just reach all targets."""
    case = "size=1GiB,writers=1"
    return [
        Record("snapshot", case, "freeze_us", "us", 300, "fork", 100),
        Record("snapshot", case, "writer_stall_max_ms", "ms", 2, "fork", 50),
        Record("snapshot", case, "drop_ms", "ms", 5, "fork", 8),
        Record("snapshot", case, "writer_kept", "fraction", 0.5, "fork", 3),
        Record("snapshot", case, "writer_shootdowns", "count", 0, "fork", 1),
        Record("snapshot", "size=1GiB,writers=2", "writer_shootdowns", "count", 0, "fork", 1),
    ]


def test_targets_can_be_reached() -> None:
    assert all(target.passed for target in targets(good_records(), [1, 2]))


@pytest.mark.parametrize("index", range(6))
def test_every_target_needs_its_record(index: int) -> None:
    records = good_records()
    del records[index]
    assert not all(target.passed for target in targets(records, [1, 2]))


@pytest.mark.parametrize(
    ("index", "value", "ratio"),
    [(0, 300, 99), (1, 2, 49), (2, 5.1, 8), (3, 0.49, 3), (3, 0.5, 2.9), (4, 1, 1), (5, 1, 1)],
)
def test_every_target_can_be_missed(index: int, value: float, ratio: float) -> None:
    records = good_records()
    old = records[index]
    records[index] = Record(old.bench, old.case, old.metric, old.unit, value, old.baseline, ratio)
    assert [target.passed for target in targets(records, [1, 2])].count(False) == 1


@pytest.mark.parametrize(("ratio", "passed"), [(49, False), (50, True)])
def test_a_pause_in_instructions_counts_where_there_is_one(ratio: float, passed: bool) -> None:
    late = Record("snapshot", "size=1GiB,writers=1", "writer_stall_max_ms", "ms", 9, "fork", 10)
    case = "size=1GiB,writers=1,op=pause"
    pause = Record("snapshot", case, "instructions_per_op", "instructions/op", 500_000, "fork", ratio)
    records = [late if record.metric == late.metric else record for record in good_records()]
    assert all(target.passed for target in targets([*records, pause], [1, 2])) == passed


@pytest.mark.parametrize(("text", "size"), [("64MiB", 64 << 20), ("2GiB", 2 << 30)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert snapshot_cli.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "3MiB", "0GiB", "64", "64MB", "-2MiB"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        snapshot_cli.parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "1,", "1;2", "a"])
def test_bad_numbers_of_writers_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        snapshot_cli.parse_writers(text)


def test_sizes_that_do_not_fit_are_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    small, large = 64 << 20, 1 << 30
    assert snapshot_cli.choose_sizes([small, large], needed_bytes(large) - 1) == [small]
    assert "left out: 1024 MiB" in capsys.readouterr().err
    with pytest.raises(BenchFailedError, match="not enough memory"):
        snapshot_cli.choose_sizes([large], needed_bytes(large) - 1)


def test_more_writers_than_cpus_are_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshot_cli.choose_writers([1, 2], 1) == [1]
    assert "left out: 2 writers" in capsys.readouterr().err
    with pytest.raises(BenchFailedError, match="not enough CPUs"):
        snapshot_cli.choose_writers([2], 1)


@pytest.mark.skipif(Path("/dev/exmap").exists(), reason="the module is loaded here")
def test_without_the_module_there_is_one_line() -> None:
    result = CliRunner().invoke(app, ["bench", "snapshot", "--sizes", "2MiB", "--writers", "1", "--quick"])
    assert result.exit_code == 1
    assert "not loaded" in result.stderr


def test_timelines_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "timeline.svg"
    lines = {"exmap": Line([5.0, 1.0, 5.0], 10, {"freeze": 10, "drop": 20}), "fork": Line([5.0], 10, {})}
    draw_timelines("title", {"size=1GiB,writers=1": lines, "size=1GiB,writers=2": lines}, path)
    text = path.read_text()
    assert all(word in text for word in ("size=1GiB,writers=2", "exmap: freeze", "exmap: drop", "fork"))
