"""bench pages: map, touch and unmap scattered pages, against madvise and process_madvise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

__all__ = ["METRIC", "Pages", "Variant", "plan", "run_pages", "targets"]

METRIC = "pages_per_s"
SEED = 20260101
VECTORS = (1, 64, 512)
THREADS = (1, 2)
REGION_FACTOR = 4
HOWS: dict[str, int] = {
    "exmap": lib.PAGES_EXMAP,
    "madvise_page": lib.PAGES_MADVISE_PAGE,
    "madvise_range": lib.PAGES_MADVISE_RANGE,
    "process_madvise": lib.PAGES_PROCESS_MADVISE,
}
VANILLA = (
    ("madvise_page", 1),
    ("madvise_page", 512),
    ("madvise_range", 64),
    ("madvise_range", 512),
    ("process_madvise", 64),
    ("process_madvise", 512),
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to map and unmap pages: `how` is a key of HOWS, `vector` the pages of a call."""

    how: str
    vector: int
    threads: int
    lazy: bool = False

    def __str__(self) -> str:
        where = f"vector={self.vector},threads={self.threads}"
        if self.how == "exmap":
            return f"{where},free={'lazy' if self.lazy else 'immediate'}"
        return f"{where},how={self.how}"

    @property
    def baseline(self) -> str:
        """Name it as something to compare with."""
        return f"{self.how}:{self.vector}"


class Pages:
    """The memory of the bench; use as a context manager."""

    def __init__(self, backend: str, pool_pages: int, cpus: list[int]) -> None:
        """Open a region REGION_FACTOR times the pool, and an anonymous mapping of the same size.

        Thread i will run on `cpus[i]`.
        """
        threads = max(THREADS)
        config = (BACKENDS[backend], threads, pool_pages, REGION_FACTOR * pool_pages, SEED)
        out = ffi.new("struct pages_bench **")
        check(lib.pages_open(ffi.new("struct pages_config *", config), out), "cannot open the region")
        self.native = out[0]
        self.cpus = cpus

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *exc: object) -> None:
        lib.pages_close(self.native)

    def supports(self, how: str) -> bool:
        """Tell whether this kernel has that way."""
        return bool(lib.pages_supported(self.native, HOWS[how]))

    def run(self, variant: Variant, timing: Timing, result: Any) -> int:
        """Run one variant into a struct bench_result; 0 or -errno."""
        way = (HOWS[variant.how], variant.vector, lib.EXMAP_FREE_LAZY if variant.lazy else 0)
        cpus = ffi.new("int[]", self.cpus[: variant.threads])
        way_native = ffi.new("struct pages_way *", way)
        return int(lib.pages_run(self.native, way_native, cpus, variant.threads, timing.native(), result))

    def rescues(self) -> int:
        """Count pages that were mapped again out of quarantine."""
        counters = ffi.new("struct exmap_counters *")
        check(lib.pages_counters(self.native, counters), "cannot read the counters")
        return int(counters.rescues)


def plan(pages: Pages) -> list[Variant]:
    """List the variants that this machine can run."""
    variants = []
    for threads in (n for n in THREADS if n <= len(pages.cpus)):
        variants += [Variant("exmap", vector, threads, lazy) for lazy in (False, True) for vector in VECTORS]
        variants += [Variant(how, vector, threads) for how, vector in VANILLA if pages.supports(how)]
    return variants


@contextmanager
def no_rescues(pages: Pages) -> Iterator[None]:
    """Refuse figures that the shortcut out of quarantine would have flattered."""
    before = pages.rescues()
    yield
    rescued = pages.rescues() - before
    if rescued:
        raise BenchFailedError(f"{rescued} pages came back out of quarantine: choose a larger pool")


def run_pages(pages: Pages, timing: Timing, advance: Callable[[str], None]) -> list[Record]:
    """Measure all variants; compare each with the best vanilla one of as many threads and pages a call."""
    with no_rescues(pages):
        figures = measure(
            plan(pages), lambda variant, result: pages.run(variant, timing, result), timing.rounds, advance
        )
    return [record for variant in figures for record in compare(variant, figures)]


def compare(variant: Variant, figures: dict[Variant, Figures]) -> Iterator[Record]:
    """Yield one variant's records."""
    own = figures[variant]
    # nobody may gather more pages for a call than the variant does
    vanilla = [
        other
        for other in figures
        if other.how != "exmap" and other.threads == variant.threads and other.vector <= variant.vector
    ]
    best = max(vanilla, key=lambda other: figures[other].ops_per_s)
    base = figures[best]
    yield Record(
        "pages", str(variant), METRIC, "pages/s", own.ops_per_s, best.baseline, own.ops_per_s / base.ops_per_s
    )
    if own.shootdowns_per_mop is not None and base.shootdowns_per_mop is not None:
        # one in a million pages is as good as none: keeps the ratio finite
        ratio = max(base.shootdowns_per_mop, 1.0) / max(own.shootdowns_per_mop, 1.0)
        yield Record(
            "pages",
            str(variant),
            "shootdowns_per_mpage",
            "1/Mpage",
            own.shootdowns_per_mop,
            best.baseline,
            ratio,
        )
    if counts_instructions():
        cheapest = min(vanilla, key=lambda other: figures[other].cpu_ns_per_op)
        ratio = figures[cheapest].cpu_ns_per_op / own.cpu_ns_per_op
        yield Record(
            "pages",
            str(variant),
            "instructions_per_op",
            "instructions/page",
            own.cpu_ns_per_op,
            cheapest.baseline,
            ratio,
        )


def targets(records: Sequence[Record]) -> list[Target]:
    """Hold records against what the project promises."""
    found = [
        at_least(records, "vector=512,threads=1,free=immediate", 20),
        at_least(records, "vector=512,threads=1,free=lazy", 30),
        at_least(records, "vector=1,threads=1,free=lazy", 5),
    ]
    found += [scaling(records, free, 1.5) for free in ("immediate", "lazy")]
    quiet = find(records, "vector=512,threads=2,free=lazy", "shootdowns_per_mpage")
    name = "vector=512,threads=2,free=lazy: shootdowns in a million pages"
    return [*found, Target.at_most(name, quiet.value if quiet else None, 200)]


def at_least(records: Sequence[Record], case: str, ratio: float) -> Target:
    """Hold the ratio of one case against its target."""
    record = find(records, case, METRIC)
    return Target.at_least(f"{case}: times the best vanilla way", record.ratio if record else None, ratio)


def scaling(records: Sequence[Record], free: str, factor: float) -> Target:
    """Hold the throughput of two threads against that of one."""
    one, two = (find(records, f"vector=512,threads={n},free={free}", METRIC) for n in THREADS)
    measured = two.value / one.value if one and two else None
    return Target.more_than(f"vector=512,free={free}: two threads over one", measured, factor)
