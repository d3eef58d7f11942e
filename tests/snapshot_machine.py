"""Random operations with snapshots alive: every snapshot shows the moment at which it was taken."""

import errno
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from region_machine import PAGES, RegionMachine, joined, machine_settings, runs

import libexmap
from libexmap import Backend, Snapshot

__all__ = ["SnapshotMachine", "TestSnapshotMachine"]

CHUNK = 512
ALIVE = 3

index = st.integers(0, ALIVE - 1)


@dataclass
class Frozen:
    """A snapshot of each region, and what should be in it, by pages of the region."""

    snapshots: list[Snapshot]
    start: int
    count: int
    stamps: dict[int, int]
    versions: dict[int, int]
    reserved: int
    unspent: int

    def covers(self, page: int) -> bool:
        return self.start <= page < self.start + self.count


class SnapshotMachine(RegionMachine):
    """The pool is never dry here, since only the kernel keeps snapshots in it.

    A page gets a new version whenever it is mapped, and when it is copied for a
    snapshot: the kernel compares versions and posix compares content.  The kernel
    may copy more than was written, a few pages ahead, so that its books are known
    to lie between two bounds.
    """

    POOL = 4000
    OPTIONS: ClassVar[dict[str, bool]] = {"snapshots": True}

    def __init__(self) -> None:
        super().__init__()
        self.frozen: list[Frozen] = []
        self.versions: dict[int, int] = {}
        self.version = 0

    def teardown(self) -> None:
        super().teardown()
        assert all(region.closed for region in self.regions)
        while self.frozen:
            self.close(len(self.frozen) // 2)

    def map(self, page: int, stamp: int) -> None:
        super().map(page, stamp)
        self.version += 1
        self.versions[page] = self.version

    def unmap(self, page: int) -> None:
        super().unmap(page)
        del self.versions[page]

    def shared(self, page: int) -> bool:
        version = self.versions.get(page)
        return version is not None and any(f.versions.get(page) == version for f in self.frozen)

    def copy_out(self, page: int) -> int:
        """Do what the kernel does before a write; return 1 if that was a copy."""
        if not self.shared(page):
            return 0
        newest = next(f for f in reversed(self.frozen) if f.covers(page))
        newest.unspent -= newest.unspent > 0
        self.map(page, self.mapped[page])
        return 1

    @rule(pool=st.integers(4000, 5000))
    def resize(self, pool: int) -> None:
        for region in self.regions:
            region.resize(pool)
        self.pool = pool

    @precondition(lambda self: self.mapped)
    @rule(first=st.integers(0, PAGES), count=st.integers(1, 12))
    def change(self, first: int, count: int) -> None:
        live = sorted(self.mapped)[first % len(self.mapped) :][:count]
        for page in live:
            self.copy_out(page)
        versions = dict(self.versions)
        self.fill(live)
        self.versions = versions

    @rule(pages=runs, interface=st.integers(0, 1))
    def unshare(self, pages: list[int], interface: int) -> None:
        inside = [page for run in joined(pages) if run[-1] < PAGES for page in run]
        error = 0 if len(inside) == len(pages) else errno.EFAULT
        copied = sum(self.copy_out(page) for page in inside)
        for region in self.regions:
            try:
                outcome = (region[interface].unshare(pages), 0)
            except libexmap.ExmapError as caught:
                outcome = (caught.done, caught.errno or 0)
            assert outcome[1] == error
            assert outcome[0] <= (copied if region.backend == Backend.KERNEL else 0)

    @precondition(lambda self: len(self.frozen) < ALIVE)
    @rule(
        first=st.integers(0, 2),
        chunks=st.integers(1, 3),
        reserve=st.sampled_from(["none", "all"]) | st.integers(0, 20),
    )
    def freeze(self, first: int, chunks: int, reserve: str | int) -> None:
        start = first * CHUNK
        count = min(chunks * CHUNK, PAGES - start)
        snapshots = [region.snapshot(start, count, reserve) for region in self.regions]
        frames = {"none": 0, "all": min(len(self.mapped), count)}.get(reserve, reserve)  # type: ignore[arg-type]
        assert isinstance(frames, int)
        frozen = Frozen(snapshots, start, count, {}, {}, frames, frames)
        frozen.stamps = {page: stamp for page, stamp in self.mapped.items() if frozen.covers(page)}
        frozen.versions = {page: version for page, version in self.versions.items() if frozen.covers(page)}
        self.frozen.append(frozen)

    @precondition(lambda self: self.frozen)
    @rule(which=index, by_view=st.booleans())
    def look(self, which: int, by_view: bool) -> None:
        frozen = self.frozen[which % len(self.frozen)]
        for snapshot in frozen.snapshots:
            check(frozen, snapshot, by_view)

    @precondition(lambda self: self.frozen)
    @rule(which=index, page=st.integers(0, PAGES - 1))
    def look_at_one(self, which: int, page: int) -> None:
        frozen = self.frozen[which % len(self.frozen)]
        for snapshot in frozen.snapshots:
            here = page - snapshot.start
            if not 0 <= here < snapshot.count:
                with pytest.raises(libexmap.OutsideSnapshot):
                    snapshot.present(here)
            elif page in frozen.stamps:
                assert snapshot.present(here)
                assert snapshot.page(here).view(np.uint64)[9] == frozen.stamps[page]
            else:
                assert not snapshot.present(here)
                for call in (snapshot.page, snapshot.read):
                    with pytest.raises(libexmap.NotInSnapshot):
                        call(here)

    @precondition(lambda self: len(self.frozen) > 1)
    @rule(one=index, other=index)
    def diff(self, one: int, other: int) -> None:
        a, b = self.frozen[one % len(self.frozen)], self.frozen[other % len(self.frozen)]
        start = max(a.start, b.start)
        count = min(a.start + a.count, b.start + b.count) - start
        if count <= 0:
            return
        pages = range(start, start + count)
        for mine, theirs, region in zip(a.snapshots, b.snapshots, self.regions, strict=True):
            known = (a.versions, b.versions) if region.backend == Backend.KERNEL else (a.stamps, b.stamps)
            differ = {page for page in pages if known[0].get(page) != known[1].get(page)}
            found = set((np.flatnonzero(mine.diff(theirs, start - a.start, count)) + start).tolist())
            assert differ <= found
            if region.backend == Backend.KERNEL:
                assert found - differ <= a.stamps.keys() & b.stamps.keys()
            else:
                assert found == differ

    @precondition(lambda self: self.frozen)
    @rule(which=index)
    def close(self, which: int) -> None:
        frozen = self.frozen.pop(which % len(self.frozen))
        for number, snapshot in enumerate(frozen.snapshots):
            check(frozen, snapshot, by_view=bool(number))
            snapshot.close()

    @rule()
    def books(self) -> None:
        """No frame is kept for nothing, and none is missing."""
        kept = {item for frozen in self.frozen for item in frozen.versions.items()}
        kept -= set(self.versions.items())
        most = sum(len(frozen.versions) for frozen in self.frozen)
        for number, region in enumerate(self.regions):
            kernel = region.backend == Backend.KERNEL
            infos = [frozen.snapshots[number].info() for frozen in self.frozen]
            assert not any(info.broken for info in infos)
            frames = region.counters.snapshot - sum(info.reserve for info in infos)
            if kernel:
                assert all(i.reserve <= f.unspent for i, f in zip(infos, self.frozen, strict=True))
                assert len(kept) <= frames == sum(info.frames for info in infos) <= most
            else:
                assert [info.reserve for info in infos] == [frozen.reserved for frozen in self.frozen]
                assert frames == 0


def check(frozen: Frozen, snapshot: Snapshot, by_view: bool) -> None:
    """Compare a whole snapshot with what it should be."""
    assert np.flatnonzero(snapshot.words).tolist() == sorted(page - frozen.start for page in frozen.stamps)
    get = snapshot.view if by_view else snapshot.read
    for run in joined(sorted(frozen.stamps)):
        found = get(run[0] - frozen.start, len(run)).view(np.uint64)
        assert found[:, [0, 511]].tolist() == [[frozen.stamps[page]] * 2 for page in run]


TestSnapshotMachine = SnapshotMachine.TestCase
TestSnapshotMachine.settings = machine_settings
