"""Random operations on every backend and on a model of a few lines must agree."""

import errno
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import numpy as np
from backends import BACKENDS
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import libexmap
from libexmap import Region

__all__ = ["PAGES", "RegionMachine", "TestRegionMachine", "joined", "machine_settings", "runs"]

PAGES = 1100
FILE_PAGES = 600
PAGE = 4096

runs = st.lists(
    st.tuples(st.integers(0, PAGES + 2), st.integers(1, 12)).map(lambda r: range(r[0], r[0] + r[1])),
    min_size=1,
    max_size=5,
).map(lambda ranges: [page for pages in ranges for page in pages])
interfaces = st.integers(0, 1)

Call = Callable[[Region], int]


class RegionMachine(RuleBasedStateMachine):
    """A region for each backend, and what should be in it."""

    POOL = 48
    OPTIONS: ClassVar[dict[str, bool]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.regions: list[Region] = []
        for backend in BACKENDS:
            file = Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "backing"
            file.write_bytes(bytes(FILE_PAGES * PAGE))
            region = Region.open(
                pages=PAGES, pool=self.POOL, interfaces=2, backend=backend, backing=file, **self.OPTIONS
            )
            self.regions.append(self.stack.enter_context(region))
        self.mapped: dict[int, int] = {}
        self.file = dict.fromkeys(range(FILE_PAGES), 0)
        self.touched: set[int] = set()
        self.pool = self.POOL
        self.stamp = 0

    def teardown(self) -> None:
        self.stack.close()

    def agree(self, call: Call) -> tuple[int, int]:
        """Make a call everywhere; return the pages that changed and the errno."""
        outcomes = set()
        for region in self.regions:
            try:
                outcomes.add((call(region), 0))
            except libexmap.ExmapError as error:
                outcomes.add((error.done, error.errno or 0))
        assert len(outcomes) == 1, outcomes
        return outcomes.pop()

    def map(self, page: int, stamp: int) -> None:
        self.mapped[page] = stamp

    def unmap(self, page: int) -> None:
        del self.mapped[page]

    def fill(self, pages: list[int]) -> None:
        """Give pages a content of their own, since that of new ones is undefined."""
        for page in pages:
            self.stamp += 1
            self.map(page, self.stamp)
            self.touched.add(page)
            for region in self.regions:
                region.page(page).view(np.uint64)[:] = self.stamp

    def map_in_order(self, runs_of: list[list[int]], limit: int) -> tuple[list[int], int]:
        """Return what mapping runs of pages should map, and the first error."""
        new: list[int] = []
        error = 0
        for run in runs_of:
            if run[-1] >= limit:
                error = error or errno.EFAULT
                continue
            for page in run:
                if page in self.mapped or page in new:
                    continue
                if len(self.mapped) + len(new) == self.pool:
                    error = error or errno.ENOMEM
                    break
                new.append(page)
        return new, error

    @rule(pages=runs, interface=interfaces)
    def alloc(self, pages: list[int], interface: int) -> None:
        new, error = self.map_in_order(joined(pages), PAGES)
        assert self.agree(lambda region: region[interface].alloc(pages)) == (len(new), error)
        self.fill(new)

    @rule(pages=runs, interface=interfaces, lazy=st.booleans())
    def free(self, pages: list[int], interface: int, lazy: bool) -> None:
        inside = [page for run in joined(pages) if run[-1] < PAGES for page in run]
        gone = {page for page in inside if page in self.mapped}
        error = 0 if len(inside) == len(pages) else errno.EFAULT
        outcome = self.agree(lambda region: region[interface].free(pages, lazy=lazy))
        assert outcome == (len(gone), error)
        for page in gone:
            self.unmap(page)
        self.touched -= gone

    @rule(first=st.integers(0, FILE_PAGES - 1), count=st.integers(1, 20), interface=interfaces)
    def read(self, first: int, count: int, interface: int) -> None:
        pages = list(range(first, min(first + count, FILE_PAGES)))
        new, error = self.map_in_order([pages], PAGES)
        if error:
            return
        assert self.agree(lambda region: region[interface].read(pages)) == (len(new), 0)
        for page in new:
            self.map(page, self.file[page])

    @rule(first=st.integers(0, FILE_PAGES - 1), count=st.integers(1, 20), interface=interfaces)
    def write(self, first: int, count: int, interface: int) -> None:
        pages = [page for page in range(first, first + count) if page in self.mapped and page < FILE_PAGES]
        assert self.agree(lambda region: region[interface].write(pages)) == (len(pages), 0)
        for page in pages:
            self.file[page] = self.mapped[page]

    @rule(pool=st.integers(16, 96))
    def resize(self, pool: int) -> None:
        def call(region: Region) -> int:
            region.resize(pool)
            return 0

        fits = pool >= len(self.mapped)
        assert self.agree(call) == (0, 0 if fits else errno.EBUSY)
        self.pool = pool if fits else self.pool

    @rule()
    def barrier(self) -> None:
        for region in self.regions:
            region.barrier()
            assert region.counters.quarantine == 0

    @rule()
    def scan(self) -> None:
        for region in self.regions:
            scan = region.scan(range(PAGES))
            assert np.flatnonzero(scan.present).tolist() == sorted(self.mapped)
            dirty = set(np.flatnonzero(scan.dirty).tolist())
            # posix cannot know, and says so of every page
            assert dirty == (self.touched if region.backend == "kernel" else set(self.mapped))

    @invariant()
    def pages_and_frames_are_as_the_model_says(self) -> None:
        for region in self.regions:
            counters = region.counters
            assert counters.conserved, counters
            assert (counters.total, counters.mapped) == (self.pool, len(self.mapped))
            for page, stamp in self.mapped.items():
                assert region.is_mapped(page)
                assert (region.page(page).view(np.uint64)[[0, 511]] == stamp).all()


def joined(pages: list[int]) -> list[list[int]]:
    """Return the runs that the library makes of a vector."""
    found: list[list[int]] = []
    for page in pages:
        if found and found[-1][-1] + 1 == page:
            found[-1].append(page)
        else:
            found.append([page])
    return found


machine_settings = settings(
    max_examples=60 if len(BACKENDS) == 1 else 8,
    stateful_step_count=30 if len(BACKENDS) == 1 else 20,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

TestRegionMachine = RegionMachine.TestCase
TestRegionMachine.settings = machine_settings
