"""What a bench of exmapdb is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
from pathlib import Path

from exmapdb.bench.engines import Setup

__all__ = ["Config"]

ROW_BYTES = 160  # a row of 100 bytes, with what trees and half-full pages add


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """What is measured: names of workloads and of peers, rows, operations a round, rounds.

    data: "memory", where all rows fit the cache, or "4x", where a quarter does.  popular: how keys are
    chosen, if not as the workload says.  threads: that work at the same time.  seconds: of a measurement of
    `mixed` and of `tpcc`.  warehouses, customers, items: of tpcc; customers of a district.
    beside: what the reader of `mixed` does.  device: where exmapdb has its database, if not in a file.
    """

    workloads: Sequence[str]
    peers: Sequence[str]
    rows: int = 100_000
    operations: int = 5_000
    rounds: int = 3
    data: str = "memory"
    durable: bool = True
    popular: str | None = None
    backend: str = "auto"
    folder: Path | None = None
    threads: int = 1
    seconds: float = 2.0
    warehouses: int = 1
    customers: int = 3_000
    items: int = 100_000
    beside: str = "scan"
    device: str | None = None

    @property
    def memory(self) -> int:
        """Return bytes of cache."""
        needed = self.rows * ROW_BYTES * 2
        return max(needed if self.data == "memory" else needed // 8, 1 << 20)

    def setup(self, folder: Path) -> Setup:
        """Return what engines are opened with, whose files go to a folder."""
        background = self.beside == "background"
        return Setup(folder, self.memory, self.durable, self.backend, self.threads, background, self.device)

    def among(self, names: Container[str]) -> list[str]:
        """Return the workloads that have one of these names."""
        return [name for name in self.workloads if name in names]

    def peers_among(self, names: Container[str]) -> list[str]:
        """Return the peers that have one of these names."""
        return [name for name in self.peers if name in names]

    def case(self, name: str, api: str, threads: int | None = None) -> str:
        """Return how records name it."""
        keys = f",keys={self.popular}" if self.popular else ""
        count = self.threads if threads is None else threads
        return f"workload={name},data={self.data},api={api},threads={count},engine=exmapdb{keys}"
