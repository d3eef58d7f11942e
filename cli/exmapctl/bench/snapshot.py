"""bench snapshot: freeze memory while others write to it, against fork and userfaultfd.

The memory is fully resident: a region with EXMAP_SNAPSHOTS and a pool of POOL_FACTOR frames a page, and for
each of the others an anonymous private mapping of the same length without huge pages. All are open at once,
hold the same, and are written to once before each run, so that nothing is left of an earlier copy.

With userfaultfd the freeze protects the mapping from writes; a thread, on whichever CPU is idle, copies each
page of which it is told that somebody waits to write to it. Its freeze is not of one moment: what is written
to one page meanwhile may be older than what is written to the next.

A transaction reads the 512 bytes around a record, makes a checksum of them and writes the 64 bytes of the
record. Its page comes from an order of a million pages that is drawn before, the same for all ways, and gone
through again and again: zipfian (theta 0.99), the ranks scattered over the memory at random; with --uniform
every page alike. Writers are pinned, one to a CPU, from the last CPU downwards; the thread that freezes and
scans has the first. With as many writers as CPUs it shares that with one of them, and the scheduler is
measured too, on both sides.

A run has four phases. One reading of the time-stamp counter ends a transaction and begins the next, so that
no delay is left out of the latencies (the histogram's quantiles are at most 6 % too high, the maximum is
exact):

before  writers alone
scan    the freeze, then a scan of the whole copy: all words are added up, through a mapping of the snapshot,
        after a posix_fadvise that all of it will be needed if readers copy, or, with --reader pread, by pread
        of 16 pages a call. After fork the child scans its memory, on the CPU of the thread that forked
drop    munmap of the view, then close; the child's end until it has been waited for
after   writers alone

freeze_us               the whole call, of a memory that nobody writes; median of 5
freeze_busy_us          the same while the writers run
flush_busy_us           what of that is the flush of all TLBs, which no way can do without: mprotect of 64
                        pages that have nothing to do with it
scan_ms                 the first scan of the copy, with making and filling the mapping
unmap_ms, drop_ms       munmap of the view; close. Both after the scan, with the writers' copies
drop_idle_ms            close of a snapshot that nobody has used
writer_kept             throughput of scan over that of before
writer_kept_100ms       the same of the first 100 ms after the freeze began: as long for all ways
writer_stall_max_ms     the longest transaction of scan and drop; of the rounds the least, for all ways: a
                        pause that the host makes only ever adds to it
writer_shootdowns       TLB interrupts on the writers' CPUs from the return of the freeze to the drop, in a
                        run of its own, of `seconds`, in which nobody looks at the copy
writer_shootdowns_scan  the same in the run with the scan
writer_faults           page faults of the writers in the run with the scan
copies                  pages copied for the snapshot; the ratio is to fork's writer_faults
instructions_per_op     only where time counts instructions (EXMAP_ICOUNT), on the one CPU that there is then:
                        op=freeze and op=drop of a memory that nobody writes, op=write, a transaction of the
                        writer with its copies, from the freeze on, while nobody looks at the copy, and
                        op=pause, the longest of these: all that the CPU executes from its begin to its end

Nothing is reported before it is known to be right. The words of a page sum to zero after every transaction:
of a copy at most one page for each writer may not, that of the transaction under way. And before anything is
measured a snapshot is scanned twice while the writers go on, through the view and by pread: both have to find
the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from exmapctl._bench import ffi, lib
from exmapctl.bench.measure import Timing, check, counts_instructions
from exmapctl.errors import BenchFailedError

__all__ = [
    "BUCKET_MS",
    "READERS",
    "Case",
    "Figures",
    "Memory",
    "Orders",
    "Settings",
    "Way",
    "measure_all",
    "needed_bytes",
]

PAGE_SIZE = 4096
BUCKET_MS = lib.SNAPSHOT_BUCKET_NS / 1e6
# readers copy while more than an eighth of the pool is free: 1 + 1 + 2.4 / 8 frames a page
POOL_FACTOR = 2.4
MARGIN = 384 << 20
SEED = 20260103
ORDER = 1 << 20
IDLE_ROUNDS = 5
EARLY_NS = 100_000_000
VERIFY = Timing(0.05, 1)
LEAST = frozenset({"writer_stall_max_ms"})
READERS: dict[str, int] = {"view": lib.SNAPSHOT_READ_VIEW, "pread": lib.SNAPSHOT_READ_PREAD}
HOWS: dict[str, int] = {
    "exmap": lib.SNAPSHOT_EXMAP,
    "fork": lib.SNAPSHOT_FORK,
    "userfaultfd": lib.SNAPSHOT_UFFD,
}
PHASES: dict[str, int] = {
    "before": lib.SNAPSHOT_BEFORE,
    "scan": lib.SNAPSHOT_SCAN,
    "drop": lib.SNAPSHOT_DROP,
    "after": lib.SNAPSHOT_AFTER,
}


def needed_bytes(size: int) -> int:
    """Estimate the memory of a size: the pool, two mappings and copies of them, and some for the rest."""
    return int(POOL_FACTOR * size) + 4 * size + MARGIN


@dataclass(frozen=True, slots=True)
class Way:
    """How a copy is made: exmap, fork or userfaultfd.

    One UNSHARE prepares `unshare` transactions, none if 0. `share` leaves out EXMAP_READERS_COPY: then the
    writers copy every page that they change.
    """

    how: str
    unshare: int = 0
    share: bool = False

    @property
    def options(self) -> str:
        """Say how it differs from the plain way."""
        parts = ["readers=share"] if self.share else []
        return ",".join(parts + ([f"unshare={self.unshare}"] if self.unshare else []))

    @property
    def flags(self) -> int:
        """Give the flags of its snapshots."""
        return lib.EXMAP_READERS_COPY if self.how == "exmap" and not self.share else 0

    @property
    def supported(self) -> bool:
        """Tell whether this machine has it, and lets this process use it."""
        return bool(lib.snapshot_supported(HOWS[self.how]))

    def __str__(self) -> str:
        return f"{self.how},{self.options}" if self.options else self.how


@dataclass(frozen=True, slots=True)
class Case:
    """A size in bytes and a number of writers."""

    size: int
    writers: int

    def __str__(self) -> str:
        for unit, shift in (("GiB", 30), ("MiB", 20)):
            if not self.size % (1 << shift):
                return f"size={self.size >> shift}{unit},writers={self.writers}"
        return f"size={self.size},writers={self.writers}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run, or the median of several, says: figures by metric, and the timeline of a run.

    `instructions` are those of an operation, by its name, where they are counted.
    """

    values: dict[str, float]
    timeline: list[int] = field(default_factory=list)
    marks_ms: tuple[float, ...] = ()
    instructions: dict[str, float] = field(default_factory=dict)

    @classmethod
    def summary(cls, runs: "Sequence[Figures]") -> "Figures":
        """Take the median of each metric, but the least of LEAST; the timeline is the last run's."""
        values = {}
        for metric in runs[0].values:
            found = [run.values[metric] for run in runs]
            values[metric] = min(found) if metric in LEAST else median(found)
        instructions = {op: median(run.instructions[op] for run in runs) for op in runs[0].instructions}
        return cls(values, runs[-1].timeline, runs[-1].marks_ms, instructions)


class Orders:
    """Pages for each writer, drawn once for a size; use as a context manager."""

    def __init__(self, pages: int, writers: int, theta: float) -> None:
        """Draw them; `theta` 0 is uniform."""
        out = ffi.new("struct snapshot_orders **")
        check(lib.snapshot_orders_make(pages, writers, ORDER, theta, SEED, out), "cannot draw pages")
        self.native = out[0]

    def __enter__(self) -> "Orders":
        return self

    def __exit__(self, *exc: object) -> None:
        lib.snapshot_orders_free(self.native)


class Memory:
    """The memory of one way; use as a context manager."""

    def __init__(self, how: str, size: int, writers: int) -> None:
        """Make `size` bytes resident, for at most so many writers."""
        pages = size // PAGE_SIZE
        out = ffi.new("struct snapshot_bench **")
        config = ffi.new("struct snapshot_config *", (HOWS[how], writers, pages, int(POOL_FACTOR * pages)))
        check(
            lib.snapshot_open(config, out),
            "cannot open the region" if how == "exmap" else "cannot map memory",
        )
        self.native = out[0]
        self.how = how

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *exc: object) -> None:
        lib.snapshot_close(self.native)

    def copies(self) -> int:
        """Count the pages that were copied for snapshots."""
        counters = ffi.new("struct exmap_counters *")
        check(lib.snapshot_counters(self.native, counters), "cannot read the counters")
        return int(counters.copies)

    def idle(self) -> tuple[float, float]:
        """Freeze and drop a memory that nobody writes to: median microseconds and milliseconds."""
        costs = []
        for _ in range(IDLE_ROUNDS):
            cost = ffi.new("struct snapshot_idle *")
            check(lib.snapshot_run_idle(self.native, cost), f"{self.how}: cannot freeze")
            costs.append((cost.freeze_ns / 1e3, cost.drop_ns / 1e6))
        return median(freeze for freeze, _ in costs), median(drop for _, drop in costs)

    def run(
        self, orders: Orders, way: Way, cpus: list[int], reader: int, timing: Timing, verify: bool = False
    ) -> Any:
        """Run one plan, a writer on each of `cpus`, and return its struct snapshot_result."""
        result = ffi.new("struct snapshot_result *")
        time = timing.native()
        plan = {
            "reader": reader,
            "writers": len(cpus),
            "unshare": way.unshare,
            "flags": way.flags,
            "verify": verify,
            "warmup_ns": time.warmup_ns,
            "before_ns": time.measure_ns,
            "after_ns": time.measure_ns,
        }
        native_plan = ffi.new("struct snapshot_plan *", plan)
        done = lib.snapshot_run(self.native, orders.native, native_plan, ffi.new("int[]", cpus), result)
        check(done, f"{way}: cannot freeze, scan or drop")
        if result.torn > len(cpus):
            raise BenchFailedError(f"{way}: {result.torn} pages of the copy are not of one moment")
        if result.unequal:
            raise BenchFailedError(f"{way}: the copy changed between two scans")
        return result


def measure_run(
    memory: Memory, orders: Orders, way: Way, cpus: list[int], reader: str, timing: Timing
) -> Figures:
    """Measure one round of a way: idle, quiet, and under a scan."""
    freeze_us, drop_idle_ms = memory.idle()
    quiet = memory.run(orders, way, cpus, lib.SNAPSHOT_READ_NOTHING, timing)
    copies = memory.copies()
    result = memory.run(orders, way, cpus, READERS[reader], timing)
    values = {
        "freeze_us": freeze_us,
        "freeze_busy_us": result.freeze_ns / 1e3,
        "flush_busy_us": result.flush_ns / 1e3,
        "scan_ms": result.scan_ns / 1e6,
        "unmap_ms": result.unmap_ns / 1e6,
        "drop_ms": result.drop_ns / 1e6,
        "drop_idle_ms": drop_idle_ms,
        "writer_faults": float(result.faults),
        "copies": float(memory.copies() - copies),
        **phase_values(result),
        **writer_values(result),
    }
    if quiet.shootdowns != lib.BENCH_NO_COUNT:
        values["writer_shootdowns"] = float(quiet.shootdowns)
        values["writer_shootdowns_scan"] = float(result.shootdowns)
    marks = (result.frozen_ns, result.frozen_ns + result.freeze_ns, result.scanned_ns, result.dropped_ns)
    timeline = list(result.timeline[0 : result.buckets])
    instructions = {}
    if counts_instructions():
        written = quiet.phases[PHASES["scan"]]
        instructions = {
            "freeze": freeze_us * 1e3,
            "drop": drop_idle_ms * 1e6,
            "write": written.wall_ns / written.ops,
            "pause": float(written.max_ns),
        }
    return Figures(values, timeline, tuple(mark / 1e6 for mark in marks), instructions)


def phase_values(result: Any) -> dict[str, float]:
    """Give throughput and latencies of each phase."""
    values = {}
    for phase, number in PHASES.items():
        latency = result.phases[number]
        values[f"{phase}_tx_per_s"] = latency.ops / (latency.wall_ns / 1e9)
        values[f"{phase}_p50_us"] = latency.p50_ns / 1e3
        values[f"{phase}_p99_us"] = latency.p99_ns / 1e3
        values[f"{phase}_p999_us"] = latency.p999_ns / 1e3
        values[f"{phase}_max_ms"] = latency.max_ns / 1e6
    return values


def writer_values(result: Any) -> dict[str, float]:
    """Say what the writers kept, and how long they stood still."""
    before, scan = (result.phases[PHASES[phase]] for phase in ("before", "scan"))
    per_ns = before.ops / before.wall_ns
    return {
        "writer_kept": scan.ops / scan.wall_ns / per_ns,
        "writer_kept_100ms": early_ops(result) / EARLY_NS / per_ns,
        "writer_stall_max_ms": max(result.phases[PHASES[phase]].max_ns for phase in ("scan", "drop")) / 1e6,
    }


def early_ops(result: Any) -> float:
    """Count the transactions of EARLY_NS, from the bucket on in which the freeze began."""
    first = result.frozen_ns // lib.SNAPSHOT_BUCKET_NS
    return float(sum(result.timeline[first : first + EARLY_NS // lib.SNAPSHOT_BUCKET_NS]))


def measure_case(
    case: Case,
    memories: dict[str, Memory],
    orders: Orders,
    ways: Sequence[Way],
    cpus: list[int],
    reader: str,
    timing: Timing,
    advance: Callable[[str], None],
) -> dict[Way, Figures]:
    """Measure all ways in turn, round after round; a writer runs on each of `cpus`."""
    for way in ways:
        memories[way.how].run(orders, way, cpus, READERS[reader], VERIFY, verify=True)
    runs: dict[Way, list[Figures]] = {way: [] for way in ways}
    for _ in range(timing.rounds):
        for way in ways:
            runs[way].append(measure_run(memories[way.how], orders, way, cpus, reader, timing))
            advance(f"{case} {way}")
    return {way: Figures.summary(rounds) for way, rounds in runs.items()}


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure: sizes in bytes, numbers of writers, ways, and how."""

    sizes: Sequence[int]
    writers: Sequence[int]
    ways: Sequence[Way]
    theta: float
    reader: str
    timing: Timing


def measure_all(
    settings: Settings, cpus: list[int], advance: Callable[[str], None]
) -> Iterator[tuple[Case, dict[Way, Figures]]]:
    """Measure every case; writers have the last CPUs."""
    most = max(settings.writers)
    for size in settings.sizes:
        with ExitStack() as stack:
            orders = stack.enter_context(Orders(size // PAGE_SIZE, most, settings.theta))
            hows = dict.fromkeys(way.how for way in settings.ways)
            memories = {how: stack.enter_context(Memory(how, size, most)) for how in hows}
            for writers in settings.writers:
                case = Case(size, writers)
                chosen = list(reversed(cpus))[:writers]
                figures = measure_case(
                    case, memories, orders, settings.ways, chosen, settings.reader, settings.timing, advance
                )
                yield case, figures
