"""What exmapdb has to reach beside its peers."""

from __future__ import annotations

from collections.abc import Sequence

from exmapctl.bench.record import Record
from exmapctl.bench.targets import Target

__all__ = ["targets_of"]

# workload, data, API, threads; metric, peer, and the least ratio
WANTED = (
    ("ycsb-c", "memory", "batch", 1, "ops_per_s", "lmdb", 2.0),
    ("ycsb-c", "memory", "single", 1, "ops_per_s", "lmdb", 1.0),
    ("update", "memory", "single", 1, "ops_per_s", "sqlite", 3.0),
    ("update", "memory", "single", 1, "ops_per_s", "lmdb", 1.0),
    ("ycsb-c", "4x", "single", 1, "ops_per_s", "lmdb", 2.0),
    ("ycsb-c", "4x", "batch", 1, "ops_per_s", "lmdb", 2.0),
    ("update", "memory", "single", 2, "ops_per_s", "one_thread", 1.5),
    ("update", "memory", "batch", 2, "ops_per_s", "one_thread", 1.5),
    ("scan", "memory", "batch", 1, "scan_vs_memcpy", "memcpy", 0.5),
)
OLAP_KEPT = 0.8


def targets_of(records: Sequence[Record]) -> list[Target]:
    """Return the targets of the cases that were measured; how keys are chosen does not matter."""
    return [target for record in records for target in targets_of_record(record)]


def targets_of_record(record: Record) -> list[Target]:
    """Return what is wanted of one figure."""
    case = dict(part.split("=", 1) for part in record.case.split(","))
    if record.metric == "olap_kept":
        # of the same figure there is a record for each peer
        name = f"{record.case} {record.metric}"
        return [Target.at_least(name, record.value, OLAP_KEPT)] if record.baseline == "sqlite" else []
    return [
        Target.at_least(f"{record.case} {metric} / {peer}", record.ratio, bound)
        for work, data, api, threads, metric, peer, bound in WANTED
        if (record.metric, record.baseline) == (metric, peer)
        and (case["workload"], case["data"], case["api"]) == (work, data, api)
        and case["threads"] == str(threads)
    ]
