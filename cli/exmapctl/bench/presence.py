"""bench presence: is a page there? The residency map and SCAN, against the kernel's own ways."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from exmapctl._bench import ffi, lib
from exmapctl.bench.measure import (
    BACKENDS,
    Figures,
    Timing,
    check,
    counts_instructions,
    measure,
)
from exmapctl.bench.record import Record, find
from exmapctl.bench.targets import Target
from exmapctl.errors import BenchFailedError

__all__ = ["METRIC", "Presence", "run_presence", "targets"]

METRIC = "ns_per_check"
SEED = 20260102
PROOF_CHECKS = 1_000_000
HOWS: dict[str, int] = {
    "residency": lib.PRESENCE_RESIDENCY,
    "scan": lib.PRESENCE_SCAN,
    "scan_range": lib.PRESENCE_SCAN_RANGE,
    "pagemap": lib.PRESENCE_PAGEMAP,
    "pagemap_range": lib.PRESENCE_PAGEMAP_RANGE,
    "mincore": lib.PRESENCE_MINCORE,
    "pagemap_scan": lib.PRESENCE_PAGEMAP_SCAN,
}
# a range is compared with a range
BASELINES = {"scan_range": "pagemap_range", "pagemap_range": "pagemap_range"}


class Presence:
    """A region of which every other page is mapped; use as a context manager."""

    def __init__(self, backend: str, region_pages: int, cpu: int) -> None:
        """Open the region and map half of its pages."""
        out = ffi.new("struct presence_bench **")
        result = lib.presence_open(BACKENDS[backend], region_pages, SEED, out)
        check(result, "cannot open the region")
        self.native = out[0]
        self.cpu = cpu

    def __enter__(self) -> "Presence":
        return self

    def __exit__(self, *exc: object) -> None:
        lib.presence_close(self.native)

    def supported(self) -> list[str]:
        """List the ways that this kernel has."""
        return [how for how, number in HOWS.items() if lib.presence_supported(self.native, number)]

    def run(self, how: str, timing: Timing, result: Any) -> int:
        """Run one way into a struct bench_result; 0 or -errno."""
        return int(lib.presence_run(self.native, HOWS[how], self.cpu, timing.native(), result))

    def verify(self, how: str) -> None:
        """Ask about every page once; raises BenchFailedError if an answer is wrong."""
        wrong = check(lib.presence_verify(self.native, HOWS[how]), how)
        if wrong:
            raise BenchFailedError(f"{how} is wrong about {wrong} pages: its figure would be worth nothing")

    def syscalls(self) -> int:
        """Count the system calls of PROOF_CHECKS residency checks, in a thread that traps them all.

        Raises BenchFailedError if the trap does not catch the one call that is made to try it.
        """
        proof = ffi.new("struct bench_proof *")
        check(lib.presence_prove(self.native, PROOF_CHECKS, proof), "cannot trap system calls")
        if proof.control != 1:
            raise BenchFailedError(f"the trap saw {proof.control} of 1 system calls: it proves nothing")
        return int(proof.syscalls)


def run_presence(presence: Presence, timing: Timing, advance: Callable[[str], None]) -> list[Record]:
    """Measure all ways, after each has answered rightly, and compare them with pagemap."""
    hows = presence.supported()
    for how in hows:
        presence.verify(how)
    figures = measure(hows, lambda how, result: presence.run(how, timing, result), timing.rounds, advance)
    records = [record for how in hows for record in compare(how, figures)]
    return [*records, prove(presence)]


def compare(how: str, figures: dict[str, Figures]) -> Iterator[Record]:
    """Yield one way's records."""
    baseline = BASELINES.get(how, "pagemap")
    own, base = figures[how], figures[baseline]
    ratio = base.wall_ns_per_op / own.wall_ns_per_op
    yield Record("presence", f"how={how}", METRIC, "ns", own.wall_ns_per_op, baseline, ratio)
    if counts_instructions():
        ratio = base.cpu_ns_per_op / own.cpu_ns_per_op
        value = own.cpu_ns_per_op
        yield Record(
            "presence", f"how={how}", "instructions_per_op", "instructions/check", value, baseline, ratio
        )


def prove(presence: Presence) -> Record:
    """Record the system calls of a residency check; in the ratio, none at all counts as one."""
    calls = presence.syscalls()
    return Record(
        "presence",
        "how=residency",
        "syscalls_per_check",
        "1/check",
        calls / PROOF_CHECKS,
        "pagemap",
        PROOF_CHECKS / max(calls, 1),
    )


def targets(records: Sequence[Record]) -> list[Target]:
    """Hold records against what the project promises."""
    cheap = find(records, "how=residency", METRIC)
    silent = find(records, "how=residency", "syscalls_per_check")
    return [
        Target.at_least("how=residency: times cheaper than pagemap", cheap.ratio if cheap else None, 1000),
        Target.at_most("how=residency: system calls in a check", silent.value if silent else None, 0),
    ]
