"""YCSB's workloads A to F (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010).

Values have 100 bytes, and keys are integers; the most popular ones of a zipfian choice (0.99) are scattered
over all keys, as YCSB's hash does.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exmapdb.bench.engines import Engine

__all__ = [
    "BATCH",
    "VALUE_BYTES",
    "WORKLOADS",
    "Measured",
    "Operations",
    "Runner",
    "Workload",
    "load",
    "prepare",
    "values_of",
]

VALUE_BYTES = 100
BATCH = 256
GROUP = 64  # operations between two looks at the clock
THETA = 0.99
SCAN_ROWS = 100
LOAD_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Workload:
    """The share of each operation, and which keys are popular: "zipfian", "uniform" or "latest"."""

    read: float = 0
    update: float = 0
    insert: float = 0
    scan: float = 0
    modify: float = 0
    popular: str = "zipfian"


WORKLOADS: dict[str, Workload] = {
    "ycsb-a": Workload(read=0.5, update=0.5),
    "ycsb-b": Workload(read=0.95, update=0.05),
    "ycsb-c": Workload(read=1),
    "ycsb-d": Workload(read=0.95, insert=0.05, popular="latest"),
    "ycsb-e": Workload(scan=0.95, insert=0.05),
    "ycsb-f": Workload(read=0.5, modify=0.5),
    "update": Workload(update=1),
}

KINDS = ("read", "update", "insert", "scan", "modify")


@dataclass(frozen=True, slots=True)
class Operations:
    """What is done, in order: the kind of each (its place in KINDS), its key, and the rows of a scan."""

    kinds: NDArray[np.int8]
    keys: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def first(self, count: int) -> Operations:
        """Return so many of them."""
        return Operations(self.kinds[:count], self.keys[:count], self.lengths[:count])


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    rate: operations a second of the time that one thread has spent in calls.  together: operations a second
    from the first call to the end of the last, of all threads, with what the bench itself does in between.
    p50, p99, p999: percentiles of a call.  cpu: processor time of an operation, of all threads that the
    process has, the bench's own included.  These in microseconds.
    """

    rate: float
    together: float
    p50: float
    p99: float
    p999: float
    cpu: float


def load(engine: Engine, rows: int) -> None:
    """Fill an engine with rows from key 0 on."""
    for first in range(0, rows, LOAD_ROWS):
        keys = np.arange(first, min(first + LOAD_ROWS, rows))
        engine.load(keys, values_of(keys))


def ranks(rng: np.random.Generator, popular: str, rows: int, count: int) -> NDArray[np.int64]:
    """Choose among so many rows, the first the most popular one."""
    if popular == "uniform":
        return rng.integers(0, rows, count)
    weights = 1 / np.arange(1, rows + 1) ** THETA
    ends = np.cumsum(weights)
    found: NDArray[np.int64] = np.searchsorted(ends, rng.random(count) * ends[-1]).astype(np.int64)
    return found


def prepare(workload: Workload, rows: int, count: int, seed: int) -> Operations:
    """Choose operations on a table that has `rows` rows, of the keys from 0 on."""
    rng = np.random.default_rng(seed)
    shares = [getattr(workload, kind) for kind in KINDS]
    kinds = rng.choice(len(KINDS), count, p=shares).astype(np.int8)
    inserts = kinds == KINDS.index("insert")
    # how many rows there are before each operation
    there = rows + np.cumsum(inserts) - inserts
    chosen = ranks(rng, workload.popular, rows, count)
    if workload.popular == "latest":
        keys = there - 1 - chosen
    else:
        keys = np.random.default_rng(7).permutation(rows)[chosen]
    keys = np.where(inserts, there, keys).astype(np.int64)
    # to the last row that is there from the beginning, so that all of them are found
    lengths = np.minimum(rng.integers(1, SCAN_ROWS + 1, count), np.maximum(rows - keys, 1))
    return Operations(kinds, keys, lengths)


def values_of(keys: NDArray[np.int64]) -> list[bytes]:
    """Return values for keys."""
    return [b"%0*d" % (VALUE_BYTES, key) for key in keys.tolist()]


class Runner:
    """An engine, and threads that use it, always the same: SQLite has a connection and a cache for each."""

    def __init__(self, engine: Engine, threads: int = 1) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(threads)

    def load(self, rows: int) -> None:
        """Fill the engine."""
        load(self._engine, rows)

    def run(self, parts: Sequence[Operations], batched: bool) -> Measured:
        """Do all operations, one by one or as many at a time as a batch has, in a thread for each part."""
        together = threading.Barrier(len(parts))

        def work(operations: Operations) -> Timed:
            together.wait()
            return (time_batches if batched else time_singles)(self._engine, operations)

        begin = time.process_time_ns()
        timed = list(self._threads.map(work, parts))
        cpu = time.process_time_ns() - begin
        p50, p99, p999 = np.percentile(np.concatenate([each.calls for each in timed]), (50, 99, 99.9)) / 1000
        count = sum(each.count for each in timed)
        wall = max(each.end for each in timed) - min(each.begin for each in timed)
        rate = sum(len(part.keys) for part in parts) / sum(each.busy for each in timed)
        return Measured(rate * 1e9, count / wall * 1e9, p50, p99, p999, cpu / 1000 / count)

    def close(self) -> None:
        """Close the engine."""
        self._threads.shutdown()
        self._engine.close()


@dataclass(frozen=True, slots=True)
class Timed:
    """What a thread has done: all operations in `busy` ns, `count` in all between `begin` and `end`.

    calls: ns of single ones.
    """

    begin: int
    end: int
    count: int
    busy: int
    calls: list[int]


def time_singles(engine: Engine, operations: Operations) -> Timed:
    """Do a part of the operations by the clock, and then all of them, many between two looks at it.

    Looking at a clock takes longer than reading a row where it is no register of the processor.
    """
    begin = time.perf_counter_ns()
    few = operations.first(max(len(operations.keys) // 4, 1))
    calls = list(singles(engine, few, 1))
    busy = sum(singles(engine, operations, GROUP))
    return Timed(begin, time.perf_counter_ns(), len(few.keys) + len(operations.keys), busy, calls)


def time_batches(engine: Engine, operations: Operations) -> Timed:
    """Do the operations in batches."""
    begin = time.perf_counter_ns()
    calls = list(batches(engine, operations))
    return Timed(begin, time.perf_counter_ns(), len(operations.keys), sum(calls), calls)


def scan(engine: Engine, key: int, rows: int) -> int:
    """Read so many rows from a key on; the bytes of their values."""
    found = engine.scan(key, rows)
    if found != rows * VALUE_BYTES:
        raise AssertionError(f"{rows} rows from {key} on: {found} bytes")
    return found


def singles(engine: Engine, operations: Operations, group: int) -> Iterator[int]:
    """Do one operation after the other; the nanoseconds of each group."""
    clock = time.perf_counter_ns
    value = b"u" * VALUE_BYTES
    columns = (operations.kinds.tolist(), operations.keys.tolist(), operations.lengths.tolist())
    rows = zip(*columns, strict=True)
    while part := list(itertools.islice(rows, group)):
        start = clock()
        for kind, key, length in part:
            if kind == 0:
                found = engine.get(key)
            elif kind == 3:
                found = scan(engine, key, length)
            else:
                found = engine.get(key) if kind == 4 else VALUE_BYTES
                engine.put(key, value)
            if found < VALUE_BYTES:
                raise AssertionError(f"key {key}: {found} bytes")
        yield clock() - start


def batches(engine: Engine, operations: Operations) -> Iterator[int]:
    """Do a batch's reads in one call, then its writes in one transaction; the nanoseconds of each batch."""
    clock = time.perf_counter_ns
    for first in range(0, len(operations.keys), BATCH):
        part = slice(first, first + BATCH)
        kinds, keys = operations.kinds[part], operations.keys[part]
        reads = keys[(kinds == 0) | (kinds == 4)]
        writes = np.unique(keys[(kinds == 1) | (kinds == 2) | (kinds == 4)])
        scans: Sequence[tuple[int, int]] = list(
            zip(keys[kinds == 3].tolist(), operations.lengths[part][kinds == 3].tolist(), strict=True)
        )
        # what is read may be inserted in the same batch
        late = np.isin(reads, writes) & np.isin(reads, keys[kinds == 2])
        reads, values = reads[~late], [b"u" * VALUE_BYTES] * len(writes)
        start = clock()
        found = engine.get_many(reads) if len(reads) else 0
        for key, length in scans:
            scan(engine, key, length)
        if len(writes):
            engine.put_many(writes, values)
        end = clock()
        if found != len(reads) * VALUE_BYTES:
            raise AssertionError(f"{found} bytes of {len(reads)} values")
        yield end - start
