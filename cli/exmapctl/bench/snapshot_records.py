"""Records and targets of bench snapshot."""

from collections.abc import Iterator, Sequence

from exmapctl.bench.record import Record, find
from exmapctl.bench.snapshot import Case, Figures, Way
from exmapctl.bench.targets import Target

__all__ = ["COLUMNS", "compare", "tables", "targets"]

CHECKED = "size=1GiB"
FORK = Way("fork")
COLUMNS = ("metric", "unit", "value", "fork", "ratio")
UNITS = {"us": "us", "ms": "ms", "s": "1/s", "kept": "fraction"}
# compared with 0 there is no ratio: less than this is as good as this
FLOORS = {"count": 1.0, "us": 0.001, "ms": 0.001, "1/s": 1.0, "fraction": 1e-6}
HIGHER_IS_BETTER = {"1/s", "fraction"}
# what fork has no like of, and what it is held against
STAND_INS = {"unmap_ms": "drop_ms", "copies": "writer_faults"}


def unit_of(metric: str) -> str:
    """Tell the unit that is in the name of a metric."""
    if metric.startswith("writer_kept"):
        return "fraction"
    return UNITS.get(metric.rsplit("_", 1)[-1], "count")


def ratio_of(metric: str, own: float, base: float) -> float:
    """Say how many times better `own` is."""
    unit = unit_of(metric)
    own, base = max(own, FLOORS[unit]), max(base, FLOORS[unit])
    return own / base if unit in HIGHER_IS_BETTER else base / own


def case_name(case: Case, way: Way) -> str:
    """Name a case; snapshots without further ado have no how."""
    if way.how != "exmap":
        return f"{case},how={way.how}"
    return f"{case},{way.options}" if way.options else str(case)


def compare(case: Case, figures: dict[Way, Figures]) -> Iterator[Record]:
    """Yield the records of all ways of a case, each compared with fork."""
    base = figures[FORK].values
    for way, own in figures.items():
        for op, count in own.instructions.items():
            name = f"{case_name(case, way)},op={op}"
            ratio = figures[FORK].instructions[op] / count
            yield Record("snapshot", name, "instructions_per_op", "instructions/op", count, "fork", ratio)
        for metric, value in own.values.items():
            other = metric
            if metric in STAND_INS and (way == FORK or (way.how != "exmap" and metric == "unmap_ms")):
                continue
            other = STAND_INS.get(metric, metric)
            yield Record(
                "snapshot",
                case_name(case, way),
                metric,
                unit_of(metric),
                value,
                "fork" if other == metric else f"fork:{other}",
                ratio_of(metric, value, base[other]),
            )


def tables(records: Sequence[Record]) -> dict[str, list[tuple[object, ...]]]:
    """Put the figures of each case beside fork's, below COLUMNS."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for record in records:
        case, _, op = record.case.partition(",op=")
        if case.endswith(",how=fork"):
            continue
        size_and_writers = ",".join(case.split(",")[:2])
        metric = record.baseline.partition(":")[2] or record.metric
        base = find(records, f"{size_and_writers},how=fork" + (f",op={op}" if op else ""), metric)
        name = f"{record.metric} ({op})" if op else record.metric
        row = (name, record.unit, record.value, base.value if base else "-", record.ratio)
        found.setdefault(case, []).append(row)
    return found


def targets(records: Sequence[Record], writers: Sequence[int]) -> list[Target]:
    """Hold records against what the project promises, at 1 GiB; with one writer, who has a CPU of his own."""
    case = f"{CHECKED},writers=1"
    freeze, stall, drop, kept = (
        find(records, case, metric)
        for metric in ("freeze_us", "writer_stall_max_ms", "drop_ms", "writer_kept")
    )
    # the longest transaction in time is mostly the host's; where instructions are counted, it is not
    stall = find(records, f"{case},op=pause", "instructions_per_op") or stall
    found = [
        Target.at_least(f"{case}: freeze, times faster than fork", freeze.ratio if freeze else None, 100),
        Target.at_least(f"{case}: longest stall, times shorter", stall.ratio if stall else None, 50),
        Target.at_most(f"{case}: ms to drop", drop.value if drop else None, 5),
        Target.at_least(f"{case}: throughput kept", kept.value if kept else None, 0.5),
        Target.at_least(f"{case}: throughput kept, times fork's", kept.ratio if kept else None, 3),
    ]
    for n in writers:
        quiet = find(records, f"{CHECKED},writers={n}", "writer_shootdowns")
        name = f"{CHECKED},writers={n}: shootdowns on the writers' CPUs"
        found.append(Target.at_most(name, quiet.value if quiet else None, 0))
    return found
