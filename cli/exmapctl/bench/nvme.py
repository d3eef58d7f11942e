"""bench nvme: random 4 KiB I/O by exmap's queues, against pread and io_uring on the same device.

The device changes hands in every round: first exmap's ways are measured, then all ways of the stock
driver, so that a noisy moment hits all of them.
"""

import errno
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from exmapctl._bench import ffi, lib
from exmapctl.bench.measure import Figures, Timing, check, counts_instructions, summarise
from exmapctl.bench.record import Record, find
from exmapctl.bench.targets import Target
from exmapctl.controllers import OURS, STOCK, Controller, bind, wait_for_disk
from exmapctl.errors import BenchFailedError
from exmapctl.machine import Machine

__all__ = ["DEPTHS", "METRIC", "Bench", "Variant", "plan", "run_nvme", "targets"]

METRIC = "iops"
SEED = 20260301
DEPTHS = (1, 8, 32, 128)
THREADS = (1, 2)
OPS = ("read", "write")
PROOF_TRANSFERS = 10_000
COUNT_ROUNDS = 40
TIMED_TRANSFERS = 2_000
PERCENTILES = ("p50", "p99", "p999", "max")
HOWS: dict[str, int] = {
    "user": lib.NVME_USER,
    "user_shadow": lib.NVME_USER_SHADOW,
    "kernel": lib.NVME_KERNEL,
    "pread": lib.NVME_PREAD,
    "uring": lib.NVME_URING,
    "uring_poll": lib.NVME_URING_FIXED,
    "uring_passthrough": lib.NVME_PASSTHROUGH,
}
OWN = ("user", "user_shadow", "kernel")
URING = ("uring", "uring_poll", "uring_passthrough")
BEST = "uring_best"
POLLED = ("uring_poll", "uring_passthrough")
POLL_QUEUES = Path("/sys/module/nvme/parameters/poll_queues")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to transfer pages, with so many transfers in flight in each of so many threads."""

    path: str
    op: str
    depth: int
    threads: int

    def __str__(self) -> str:
        return f"path={self.path},op={self.op},qd={self.depth},threads={self.threads}"

    def at(self, path: str) -> "Variant":
        """Return the same by another way."""
        return Variant(path, self.op, self.depth, self.threads)


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of a variant, its system calls for each transfer, and latencies in ns (one thread)."""

    figures: Figures
    calls: float
    latency: dict[str, float] = field(default_factory=dict)


def plan(cpus: int, depths: Sequence[int], paths: Sequence[str] = tuple(HOWS)) -> list[Variant]:
    """List the variants of these paths that this machine may be able to run."""
    counted = counts_instructions()
    threads = [1] if counted else [n for n in THREADS if n <= cpus]
    return [
        Variant(path, op, depth, n)
        for path in paths
        for n in threads
        for op in OPS
        for depth in depths
        # polling inside of a call cannot be told from the rest of it
        if (path != "pread" or depth == 1) and not (counted and path == "kernel")
    ]


def paths_of(controller: Controller) -> dict[str, str]:
    """Say what each way of the stock driver opens."""
    disk = controller.disks[0]
    generic = "ng" + disk.removeprefix("nvme")
    return {
        path: f"/dev/{generic if path == 'uring_passthrough' else disk}" for path in HOWS if path not in OWN
    }


def is_polled(path: str, release: str | None = None) -> bool:
    """Tell whether a way uses IOPOLL; before 6.6 polled passthrough crashes the kernel (bio_poll)."""
    major, minor = (int(n) for n in (release or platform.release()).split("-")[0].split(".")[:2])
    return path == "uring_poll" or (path == "uring_passthrough" and (major, minor) >= (6, 6))


def is_absent(path: str, result: int) -> bool:
    """Tell whether an error means that this kernel, or this controller, does not have a way."""
    if path in POLLED:
        return result < 0
    return path == "user_shadow" and result == -errno.EOPNOTSUPP


@contextmanager
def opened(path: str, device: str, threads: int, pages: int) -> Iterator[Any]:
    """Open one way, and see that it reads what is on the device; yields None where there is no such way."""
    out = ffi.new("struct nvme_bench **")
    name = ffi.new("char[]", os.fsencode(device))
    config = ffi.new("struct nvme_config *", (HOWS[path], threads, is_polled(path), name, pages, SEED))
    result = lib.nvme_open(config, out)
    if is_absent(path, result):
        yield None
        return
    check(result, f"cannot open {device} for {path}")
    try:
        wrong = lib.nvme_verify(out[0])
        if is_absent(path, wrong):
            yield None
            return
        if check(wrong, f"{path}: reading"):
            raise BenchFailedError(f"{path} reads {wrong} pages wrongly: its figure would be worth nothing")
        yield out[0]
    finally:
        lib.nvme_close(out[0])


class Bench:
    """Runs variants on a controller that changes hands."""

    def __init__(self, machine: Machine, controller: Controller, cpus: list[int], timing: Timing) -> None:
        self.machine = machine
        self.controller = controller
        self.cpus = cpus
        self.timing = timing
        self.results: dict[Variant, list[tuple[Any, float]]] = {}
        self.latencies: dict[Variant, list[dict[str, float]]] = {}

    def run_one(self, native: Any, variant: Variant) -> None:
        """Run one variant for the time of a round."""
        result = ffi.new("struct bench_result *")
        calls = ffi.new("double *")
        write = variant.op == "write"
        if counts_instructions():
            ret = lib.nvme_count(native, write, variant.depth, COUNT_ROUNDS, result)
        else:
            cpus = ffi.new("int[]", self.cpus[: variant.threads])
            timing = self.timing.native()
            ret = lib.nvme_run(native, write, variant.depth, cpus, variant.threads, timing, result, calls)
        check(ret, str(variant))
        self.results.setdefault(variant, []).append((result, calls[0]))
        if variant.threads == 1 and not counts_instructions():
            latency = ffi.new("struct nvme_latency *")
            check(lib.nvme_time(native, write, variant.depth, TIMED_TRANSFERS, latency), str(variant))
            self.latencies.setdefault(variant, []).append(
                {name: getattr(latency, name) for name in PERCENTILES}
            )

    def run_path(
        self, path: str, device: str, pages: int, variants: list[Variant], advance: Callable[[str], None]
    ) -> None:
        """Run all variants of one way."""
        threads = max(variant.threads for variant in variants)
        with opened(path, device, threads, pages) as native:
            for variant in variants:
                if native is not None:
                    self.run_one(native, variant)
                advance(str(variant))

    def run_round(self, variants: list[Variant], pages: int, advance: Callable[[str], None]) -> None:
        """Run every variant once."""
        bind(self.machine, self.controller, OURS)
        for path in OWN:
            chosen = [variant for variant in variants if variant.path == path]
            if chosen:
                self.run_path(path, self.controller.address, pages, chosen, advance)
        bind(self.machine, self.controller, STOCK)
        devices = paths_of(wait_for_disk(self.machine, self.controller))
        for path, device in devices.items():
            chosen = [variant for variant in variants if variant.path == path]
            if chosen:
                self.run_path(path, device, pages, chosen, advance)

    def measured(self) -> dict[Variant, Measured]:
        """Take medians, and of the longest latencies the longest."""
        return {
            variant: Measured(
                summarise([r for r, _ in runs]),
                median(calls for _, calls in runs),
                middle(self.latencies.get(variant, [])),
            )
            for variant, runs in self.results.items()
        }


def middle(latencies: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each percentile over all rounds, and the maximum of all."""
    if not latencies:
        return {}
    return {
        name: (max if name == "max" else median)(latency[name] for latency in latencies)
        for name in PERCENTILES
    }


def with_best(measured: dict[Variant, Measured]) -> dict[Variant, Measured]:
    """Add the best way of io_uring for each case, under the name BEST."""
    counted = counts_instructions()
    best: dict[Variant, Measured] = {}
    for variant, own in measured.items():
        if variant.path not in URING:
            continue
        other = best.get(variant.at(BEST))
        cheaper = other and own.figures.cpu_ns_per_op < other.figures.cpu_ns_per_op
        faster = other and own.figures.ops_per_s > other.figures.ops_per_s
        if other is None or (cheaper if counted else faster):
            best[variant.at(BEST)] = own
    return measured | best


def compare(variant: Variant, measured: dict[Variant, Measured]) -> Iterator[Record]:
    """Yield one variant's records, compared with the best that io_uring does."""
    own, base = measured[variant], measured[variant.at(BEST)]
    case = str(variant)
    if counts_instructions():
        cost, other = own.figures.cpu_ns_per_op, base.figures.cpu_ns_per_op
        yield Record("nvme", case, "instructions_per_io", "instructions/io", cost, BEST, other / cost)
        return
    rate, other = own.figures.ops_per_s, base.figures.ops_per_s
    yield Record("nvme", case, METRIC, "io/s", rate, BEST, rate / other)
    if not variant.path.startswith("user"):
        ratio = base.calls / own.calls if own.calls else 1.0
        yield Record("nvme", case, "syscalls_per_io", "1/io", own.calls, BEST, ratio)
    for name, latency in own.latency.items():
        better = base.latency[name] / latency if latency else 1.0
        yield Record("nvme", case, f"latency_{name}", "us", latency / 1e3, BEST, better)


def prove(native: Any, depth: int) -> float:
    """Count the system calls of the owned queue in a thread that traps them all."""
    proof = ffi.new("struct bench_proof *")
    check(lib.nvme_prove(native, depth, PROOF_TRANSFERS, proof), "cannot trap system calls")
    if proof.control != 1:
        raise BenchFailedError(f"the trap saw {proof.control} of 1 system calls: it proves nothing")
    return int(proof.syscalls) / PROOF_TRANSFERS


def prove_user(bench: Bench, pages: int, base: Measured, depth: int) -> Record:
    """Record the owned queue's system calls; in the ratio, none at all counts as one."""
    bind(bench.machine, bench.controller, OURS)
    with opened("user", bench.controller.address, 1, pages) as native:
        calls = prove(native, depth)
    case = str(Variant("user", "read", depth, 1))
    return Record(
        "nvme", case, "syscalls_per_io", "1/io", calls, BEST, base.calls / max(calls, 1 / PROOF_TRANSFERS)
    )


@contextmanager
def polled_queues(wanted: int) -> Iterator[None]:
    """Have the stock driver make polled queues when it binds a device."""
    before = POLL_QUEUES.read_text()
    POLL_QUEUES.write_text(str(wanted))
    try:
        yield
    finally:
        POLL_QUEUES.write_text(before)


def run_nvme(
    bench: Bench, pages: int, variants: list[Variant], advance: Callable[[str], None]
) -> list[Record]:
    """Measure variants, and leave the controller with the driver that had it."""
    depth = max(variant.depth for variant in variants)
    try:
        with polled_queues(max(variant.threads for variant in variants)):
            for _ in range(1 if counts_instructions() else bench.timing.rounds):
                bench.run_round(variants, pages, advance)
            measured = with_best(bench.measured())
            records = [record for variant in measured for record in compare(variant, measured)]
            if not counts_instructions():
                base = measured[Variant(BEST, "read", depth, 1)]
                records.append(prove_user(bench, pages, base, depth))
    finally:
        bind(bench.machine, bench.controller, bench.controller.driver or STOCK)
    return records


def targets(records: Sequence[Record]) -> list[Target]:
    """Hold records against what the project promises."""
    case = "path=user,op=read,qd=32,threads=1"
    if counts_instructions():
        cost = find(records, case, "instructions_per_io")
        return [
            Target.at_most(f"{case}: instructions for each I/O", cost.value if cost else None, 300),
            Target.at_least(f"{case}: times cheaper than io_uring", cost.ratio if cost else None, 10),
        ]
    rate = find(records, case, METRIC)
    calls = [
        record
        for record in records
        if record.case.startswith("path=user,") and record.metric == "syscalls_per_io"
    ]
    return [
        Target.at_least(f"{case}: times the IOPS of io_uring", rate.ratio if rate else None, 1.3),
        Target.at_most("path=user: system calls for each I/O", calls[0].value if calls else None, 0),
    ]
