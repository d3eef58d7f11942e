"""Runs of the C loops: interleaved rounds, and medians over them."""

import errno
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from exmapctl._bench import ffi, lib
from exmapctl.errors import BenchFailedError, ModuleNotLoadedError

__all__ = [
    "BACKENDS",
    "Figures",
    "Timing",
    "check",
    "counts_instructions",
    "measure",
    "on_first_cpu",
    "usable_cpus",
]

BACKENDS: dict[str, int] = {"kernel": lib.EXMAP_BACKEND_KERNEL, "posix": lib.EXMAP_BACKEND_POSIX}
WARMUP_SHARE = 0.2

HINTS = {
    errno.EACCES: "join the group exmap or run it as root ('exmapctl doctor' says more)",
    errno.EPERM: "join the group exmap or run it as root ('exmapctl doctor' says more)",
    errno.ENOMEM: "raise RLIMIT_MEMLOCK, or choose a smaller pool",
}

Variant = TypeVar("Variant", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to measure: `rounds` rounds of `seconds` for each variant, warm-ups not counted."""

    seconds: float
    rounds: int

    def native(self) -> Any:
        """Make the struct bench_time of one run."""
        measure_ns = int(self.seconds * 1e9)
        return ffi.new("struct bench_time *", (int(measure_ns * WARMUP_SHARE), measure_ns))


@dataclass(frozen=True, slots=True)
class Figures:
    """Costs of one variant: medians over its rounds.

    `cpu_ns_per_op` is the number of executed instructions where the guest counts them; `shootdowns_per_mop`
    is None where /proc/interrupts does not tell.
    """

    ops_per_s: float
    wall_ns_per_op: float
    cpu_ns_per_op: float
    shootdowns_per_mop: float | None


def counts_instructions() -> bool:
    """Tell whether thread CPU time is executed instructions (ci/vm run --icount says so)."""
    return os.environ.get("EXMAP_ICOUNT") == "1"


def usable_cpus() -> list[int]:
    """List the CPUs that this process may run on."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def on_first_cpu() -> Iterator[list[int]]:
    """Keep this thread on the first CPU meanwhile, and yield all that we may use.

    Where it has been, an idle CPU may go on being interrupted for flushes of this process's TLB entries.
    """
    cpus = usable_cpus()
    os.sched_setaffinity(0, cpus[:1])
    try:
        yield cpus
    finally:
        os.sched_setaffinity(0, cpus)


def check(result: int, what: str) -> int:
    """Pass a count through; turn -errno into an error that says what to do."""
    if result >= 0:
        return result
    number = -result
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        raise ModuleNotLoadedError
    hint = HINTS.get(number)
    raise BenchFailedError(f"{what}: {os.strerror(number)}" + (f": {hint}" if hint else ""))


def summarise(results: Sequence[Any]) -> Figures:
    """Take medians over the rounds of one variant."""
    return Figures(
        ops_per_s=median(result.ops / (result.wall_ns / 1e9) for result in results),
        wall_ns_per_op=median(result.wall_ns / result.ops for result in results),
        cpu_ns_per_op=median(result.cpu_ns / result.ops for result in results),
        shootdowns_per_mop=shootdowns(results),
    )


def shootdowns(results: Sequence[Any]) -> float | None:
    """Count interrupts for TLB shootdowns in a million operations.

    A flush shows in the TLB line and, being a function call, in the CAL line. The larger of the two counts
    each interrupt once, whoever made it, and blames other function calls of that time on the one who runs.
    """
    counts: list[float] = []
    for result in results:
        lines = [n for n in (result.tlb_ipis, result.call_ipis) if n != lib.BENCH_NO_COUNT]
        if not lines:
            return None
        counts.append(max(lines) * 1e6 / result.ops)
    return median(counts)


def measure(
    variants: Sequence[Variant],
    run: Callable[[Variant, Any], int],
    rounds: int,
    advance: Callable[[str], None],
) -> dict[Variant, Figures]:
    """Run all variants in turn, `rounds` times, so that noise falls on all of them alike.

    `run` fills a struct bench_result and returns 0 or -errno; `advance` is told what was run.
    """
    results: dict[Variant, list[Any]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            result = ffi.new("struct bench_result *")
            check(run(variant, result), str(variant))
            results[variant].append(result)
            advance(str(variant))
    return {variant: summarise(runs) for variant, runs in results.items()}
