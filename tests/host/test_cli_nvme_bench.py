"""bench nvme, without a device: what is measured, compared and promised."""

import errno
from types import SimpleNamespace

import pytest
from exmapctl.bench import nvme
from exmapctl.bench.measure import Figures
from exmapctl.bench.nvme import Measured, Variant
from exmapctl.bench.nvme_cli import parse_depths, parse_paths
from exmapctl.bench.record import Record
from exmapctl.errors import BenchFailedError
from typer import BadParameter

USER = "path=user,op=read,qd=32,threads=1"


def measured(rate: float, cost: float = 1000.0) -> Measured:
    """Figures of a rate, in transfers a second, and a cost, in instructions."""
    return Measured(Figures(rate, 1e9 / rate, cost, None), 0.5)


def test_case_names_are_those_of_the_records() -> None:
    assert str(Variant("user", "read", 32, 1)) == USER


def test_plan_has_every_path_and_one_thread_where_instructions_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EXMAP_ICOUNT", raising=False)
    variants = nvme.plan(2, [1, 32])
    assert {v.path for v in variants} == set(nvme.HOWS)
    assert {v.threads for v in variants} == {1, 2}
    assert {v.depth for v in variants if v.path == "pread"} == {1}
    monkeypatch.setenv("EXMAP_ICOUNT", "1")
    assert {v.threads for v in nvme.plan(2, [1, 32])} == {1}
    assert "kernel" not in {v.path for v in nvme.plan(2, [1, 32])}


def test_latencies_are_compared_with_the_best_way_of_io_uring() -> None:
    own = [
        {"p50": 10.0, "p99": 20.0, "p999": 30.0, "max": 40.0},
        {"p50": 30.0, "p99": 40.0, "p999": 50.0, "max": 90.0},
    ]
    assert nvme.middle(own) == {"p50": 20.0, "p99": 30.0, "p999": 40.0, "max": 90.0}
    figures = measured(100).figures
    variant = Variant("kernel", "read", 8, 1)
    base = dict.fromkeys(nvme.PERCENTILES, 40.0)
    found = {
        record.metric: record
        for record in nvme.compare(
            variant,
            {
                variant: Measured(figures, 3.0, nvme.middle(own)),
                variant.at("uring_best"): Measured(figures, 1.0, base),
            },
        )
    }
    assert found["latency_p50"].value == 0.02
    assert found["latency_p50"].ratio == 2.0
    assert found["latency_max"].ratio == pytest.approx(40 / 90)


@pytest.mark.parametrize(("icount", "best"), [("0", 300.0), ("1", 100.0)])
def test_best_is_the_fastest_or_the_cheapest(
    monkeypatch: pytest.MonkeyPatch, icount: str, best: float
) -> None:
    monkeypatch.setenv("EXMAP_ICOUNT", icount)
    found = nvme.with_best(
        {
            Variant("user", "read", 1, 1): measured(900, 1),
            Variant("uring", "read", 1, 1): measured(100, 10),
            Variant("uring_poll", "read", 1, 1): measured(300, 50),
            Variant("uring_passthrough", "read", 1, 1): measured(200, 20),
        }
    )
    assert found[Variant("uring_best", "read", 1, 1)].figures.ops_per_s == best


def test_a_proof_whose_trap_is_broken_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvme, "lib", SimpleNamespace(nvme_prove=lambda native, depth, n, proof: 0))
    with pytest.raises(BenchFailedError, match="proves nothing"):
        nvme.prove(None, 32)


@pytest.mark.parametrize(
    ("rate", "calls", "passed"), [(1.3, 0, 2), (1.29, 0, 1), (1.3, 1e-4, 1), (None, None, 0)]
)
def test_targets_of_a_timed_run(
    monkeypatch: pytest.MonkeyPatch, rate: float | None, calls: float | None, passed: int
) -> None:
    monkeypatch.delenv("EXMAP_ICOUNT", raising=False)
    records = []
    if rate is not None and calls is not None:
        records = [
            Record("nvme", USER, "iops", "io/s", 1000, "uring_best", rate),
            Record("nvme", USER, "syscalls_per_io", "1/io", calls, "uring_best", 1),
        ]
    assert [target.passed for target in nvme.targets(records)].count(True) == passed


@pytest.mark.parametrize(("cost", "ratio", "passed"), [(300, 10, 2), (301, 10, 1), (300, 9.9, 1)])
def test_targets_of_a_counted_run(
    monkeypatch: pytest.MonkeyPatch, cost: float, ratio: float, passed: int
) -> None:
    monkeypatch.setenv("EXMAP_ICOUNT", "1")
    records = [Record("nvme", USER, "instructions_per_io", "instructions/io", cost, "uring_best", ratio)]
    assert [target.passed for target in nvme.targets(records)].count(True) == passed


def test_depths_are_read_and_refused() -> None:
    assert parse_depths("32,1,32") == [1, 32]
    for text in ("", "0", "1,", "257", "x"):
        with pytest.raises(BadParameter):
            parse_depths(text)


def test_paths_are_read_in_the_order_of_measuring_and_refused() -> None:
    assert parse_paths("uring,user_shadow,user") == ["user", "user_shadow", "uring"]
    assert {v.path for v in nvme.plan(2, [1], ["user", "uring"])} == {"user", "uring"}
    for text in ("", "user", "uring", "user,pread", "user,uring,x"):
        with pytest.raises(BadParameter):
            parse_paths(text)


@pytest.mark.parametrize(
    ("path", "result", "absent"),
    [
        ("user", -errno.EOPNOTSUPP, False),
        ("user_shadow", -errno.EOPNOTSUPP, True),
        ("user_shadow", -errno.EIO, False),
        ("user_shadow", 256, False),
        ("uring_poll", -errno.EINVAL, True),
        ("uring_poll", 0, False),
        ("uring_poll", 256, False),
    ],
)
def test_a_way_that_is_not_to_be_had_is_left_out_and_a_failure_is_not(
    path: str, result: int, absent: bool
) -> None:
    assert nvme.is_absent(path, result) == absent


@pytest.mark.parametrize(
    ("path", "release", "polled"),
    [
        ("uring", "6.12.95+deb12-amd64", False),
        ("uring_poll", "6.1.0-56-amd64", True),
        ("uring_passthrough", "6.12.95+deb12-amd64", True),
        ("uring_passthrough", "6.6-rc1", True),
        ("uring_passthrough", "6.1.0-56-amd64", False),
    ],
)
def test_passthrough_is_not_polled_where_that_crashes(path: str, release: str, polled: bool) -> None:
    assert nvme.is_polled(path, release) == polled
