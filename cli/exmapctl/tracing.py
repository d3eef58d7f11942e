"""Record the module's tracepoints for a while, through tracefs, and sum them up."""

import contextlib
import errno
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exmapctl.errors import CommandFailedError, ModuleNotLoadedError, NotRootError

__all__ = ["EVENTS", "Event", "FlushSummary", "OpSummary", "Summary", "parse", "record", "summarise"]

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
# kmod/trace.h; a test compares
EVENTS = (
    "op_begin",
    "op_end",
    "flush",
    "drain",
    "fault",
    "freeze",
    "attach",
    "unview",
    "copy_out",
    "keep",
    "snapshot_broken",
    "snapshot_gone",
    "nvme_submit",
    "nvme_complete",
    "nvme_reset",
)
LINE = re.compile(r"^.{1,16}-(\d+)\s+\[\d+\] .*?\s(\d+)\.(\d{6}): exmap_(\w+): (.*)$")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace: `time` in microseconds, and the fields as text."""

    thread: int
    time: int
    name: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class OpSummary:
    """Calls of one kind that began and ended while they were recorded.

    `histogram` counts calls by latency: bucket i those of 2**(i-1) to 2**i - 1 us, bucket 0 those below 1 us.
    """

    op: str
    calls: int
    iovs: int
    failed_iovs: int
    errors: int
    p50_us: int
    p99_us: int
    max_us: int
    histogram: list[int]


@dataclass(frozen=True, slots=True)
class FlushSummary:
    """TLB flushes for one reason; `pages` are those of the flushes of single pages."""

    reason: str
    full: int
    ranged: int
    pages: int
    ipis: int
    mean_us: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened in `seconds`; `lost` events were overwritten before they could be read."""

    seconds: float
    events: int
    lost: int
    ops: list[OpSummary]
    flushes: list[FlushSummary]
    faults: dict[str, int]
    counts: dict[str, int]
    retired: int
    longest_freeze_us: float


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the module's events among the lines of a trace."""
    for line in lines:
        match = LINE.match(line)
        if match:
            thread, seconds, micros, name, text = match.groups()
            fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
            yield Event(int(thread), int(seconds) * 1_000_000 + int(micros), name, fields)


@dataclass(slots=True)
class Calls:
    """Calls of one kind, while they are counted."""

    latencies: list[int] = field(default_factory=list)
    iovs: int = 0
    failed: int = 0
    errors: int = 0

    def add(self, latency: int, iovs: int, result: int) -> None:
        """Count one call, by what it returned: failed iovs, or an error."""
        self.latencies.append(latency)
        self.iovs += iovs
        self.failed += max(result, 0)
        self.errors += result < 0

    def sum_up(self, op: str) -> OpSummary:
        """Order them."""
        ordered = sorted(self.latencies)
        histogram = [0] * (ordered[-1].bit_length() + 1)
        for latency in ordered:
            histogram[latency.bit_length()] += 1
        return OpSummary(
            op=op,
            calls=len(ordered),
            iovs=self.iovs,
            failed_iovs=self.failed,
            errors=self.errors,
            p50_us=ordered[len(ordered) // 2],
            p99_us=ordered[len(ordered) * 99 // 100],
            max_us=ordered[-1],
            histogram=histogram,
        )


def sum_up_ops(events: Iterable[Event]) -> list[OpSummary]:
    """Match the beginnings and ends of calls: a thread makes one at a time."""
    begun: dict[int, Event] = {}
    calls: dict[str, Calls] = defaultdict(Calls)
    for event in events:
        if event.name == "op_begin":
            begun[event.thread] = event
        elif event.name == "op_end" and (begin := begun.pop(event.thread, None)):
            latency = max(event.time - begin.time, 0)
            op = event.fields["op"]
            calls[op].add(latency, int(event.fields["iovs"]), int(event.fields["failed"]))
    return [counted.sum_up(op) for op, counted in sorted(calls.items())]


def sum_up_flushes(events: Iterable[Event]) -> list[FlushSummary]:
    """Count flushes by their reasons."""
    by_reason: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.name == "flush":
            by_reason[event.fields["reason"]].append(event)
    return [
        FlushSummary(
            reason=reason,
            full=sum(event.fields["pages"] == "0" for event in found),
            ranged=sum(event.fields["pages"] != "0" for event in found),
            pages=sum(int(event.fields["pages"]) for event in found),
            ipis=sum(int(event.fields["ipis"]) for event in found),
            mean_us=sum(int(event.fields["ns"]) for event in found) / len(found) / 1000,
        )
        for reason, found in sorted(by_reason.items())
    ]


def summarise(events: list[Event], seconds: float, lost: int) -> Summary:
    """Sum events up."""
    freezes = [int(event.fields["ns"]) for event in events if event.name == "freeze"]
    counts = Counter(event.name for event in events)
    return Summary(
        seconds=seconds,
        events=len(events),
        lost=lost,
        ops=sum_up_ops(events),
        flushes=sum_up_flushes(events),
        faults=dict(Counter(event.fields["kind"] for event in events if event.name == "fault")),
        counts={name: counts[name] for name in EVENTS},
        retired=sum(int(event.fields["retired"]) for event in events if event.name == "drain"),
        longest_freeze_us=max(freezes, default=0) / 1000,
    )


def find_tracefs() -> Path:
    """Find where tracefs is mounted."""
    for path in TRACEFS:
        if (path / "instances").is_dir():
            return path
    raise CommandFailedError("no tracefs: mount -t tracefs tracefs /sys/kernel/tracing")


@contextlib.contextmanager
def instance(buffer_kib: int, region: int | None) -> Iterator[Path]:
    """Make a trace buffer of our own, with the module's events switched on, and remove it."""
    tracefs = find_tracefs()
    if not (tracefs / "events/exmap").is_dir():
        raise ModuleNotLoadedError
    path = tracefs / "instances" / f"exmapctl-{os.getpid()}"
    path.mkdir()
    try:
        (path / "buffer_size_kb").write_text(str(buffer_kib))
        if region is not None:
            (path / "events/exmap/filter").write_text(f"region == {region}")
        (path / "events/exmap/enable").write_text("1")
        yield path
    finally:
        (path / "events/exmap/enable").write_text("0")
        path.rmdir()


def count_lost(path: Path) -> int:
    """Count events that were overwritten or dropped, on all CPUs."""
    lost = 0
    for stats in path.glob("per_cpu/cpu*/stats"):
        found = re.findall(r"^(?:overrun|dropped events): (\d+)$", stats.read_text(), re.MULTILINE)
        lost += sum(map(int, found))
    return lost


def record(seconds: float, region: int | None, buffer_kib: int) -> Summary:
    """Record for so many seconds, or until Ctrl-C, and sum up.

    Raises NotRootError, ModuleNotLoadedError, CommandFailedError.
    """
    try:
        with instance(buffer_kib, region) as path:
            begin = time.monotonic()
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(seconds)
            (path / "tracing_on").write_text("0")
            elapsed = time.monotonic() - begin
            with (path / "trace").open() as lines:
                return summarise(list(parse(lines)), elapsed, count_lost(path))
    except PermissionError as error:
        raise NotRootError("trace") from error
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise CommandFailedError("no memory for the buffer: try a smaller --buffer") from error
        raise CommandFailedError(f"tracefs: {error}") from error
