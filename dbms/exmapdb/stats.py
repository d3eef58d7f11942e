"""What a database has done, and what a check of it has looked at."""

from dataclasses import dataclass

__all__ = ["CheckResult", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What a database has done since it was opened; pages have 4096 bytes.

    hits, misses: fixes that found the page resident, or read it.  prefetched: pages read ahead of a
    scan.  evicted, eviction_batches: pages that lost their frame, and vectors of them.  tlb_flushes,
    rescues: as counted by exmap (the posix backend counts its flushes, which are not TLB flushes).
    allocated_pages: pages that there are; free_pages: of them, those that nothing uses.  commits:
    transactions; recovered: those that were replayed at open.  log_bytes: what would be replayed now;
    log_flushes: how often the log was flushed.  free_blocks: where pages may still be written.
    """

    backend: str
    hits: int
    misses: int
    prefetched: int
    pages_read: int
    pages_written: int
    evicted: int
    eviction_batches: int
    checkpoints: int
    tlb_flushes: int
    rescues: int
    pool_pages: int
    resident_pages: int
    region_pages: int
    allocated_pages: int
    free_pages: int
    commits: int
    recovered: int
    log_bytes: int
    log_flushes: int
    free_blocks: int

    @property
    def hit_rate(self) -> float:
        """Return the share of fixes that found their page resident; 1.0 if there was none."""
        fixes = self.hits + self.misses
        return self.hits / fixes if fixes else 1.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check has looked at: trees, their pages and rows, other pages, and those on the disk."""

    trees: int
    tree_pages: int
    free_pages: int
    extent_pages: int
    stored_pages: int
    rows: int
