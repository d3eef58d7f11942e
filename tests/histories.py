"""Serializability of what concurrent transactions have read and written.

Every key holds the list of the transactions that have appended to it, so that a read shows all versions
before it (Kingsbury and Alvaro, "Elle", VLDB 2020). From the lists come the dependencies; a history is
serializable if they have no cycle.
"""

import graphlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["History", "check_history"]

Versions = tuple[int, ...]


@dataclass(slots=True)
class History:
    """One committed transaction: what it saw of keys (nothing of an absent one), and appended to."""

    number: int
    reads: list[tuple[int, Versions]] = field(default_factory=list)
    appends: set[int] = field(default_factory=set)


def check_history(committed: Iterable[History], final: dict[int, Versions]) -> None:
    """AssertionError, or graphlib.CycleError, if no serial order explains what was read."""
    transactions = {history.number: history for history in committed}
    graph: dict[int, set[int]] = {number: set() for number in transactions}
    for key, versions in final.items():
        assert len(set(versions)) == len(versions), "an append counts twice"
        assert {n for n, h in transactions.items() if key in h.appends} == set(versions), "lost, or of no one"
        for before, after in itertools.pairwise(versions):
            graph[after].add(before)
    for number, history in transactions.items():
        for key, seen in history.reads:
            versions = final.get(key, ())
            assert versions[: len(seen)] == seen, "a version that never was"
            if seen:
                graph[number].add(seen[-1])
            if len(seen) < len(versions):
                graph[versions[len(seen)]].add(number)
        graph[number].discard(number)
    list(graphlib.TopologicalSorter(graph).static_order())
