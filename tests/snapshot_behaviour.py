"""What a snapshot does, whatever its backend: collected by tests/host and by tests/vm."""

import errno
import mmap
import os
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from backends import BACKENDS

import libexmap
from libexmap import Backend, Region

PAGES = 1100
PAGE = 4096


@pytest.fixture(params=BACKENDS)
def region(request: pytest.FixtureRequest) -> Iterator[Region]:
    """Pages 0 to 9 and 600 to 609 are mapped and hold their number's last byte."""
    with Region.open(pages=PAGES, pool=256, backend=request.param, snapshots=True) as region:
        pages = [*range(10), *range(600, 610)]
        region[0].alloc(pages)
        for page in pages:
            region.page(page)[:] = page % 256
        yield region
        if not region.closed:
            assert region.counters.conserved, region.counters
            assert region.counters.snapshot == 0


def test_snapshot_shows_its_moment_whatever_becomes_of_the_region(region: Region) -> None:
    with region.snapshot() as snap:
        region.page(3)[:] = 77
        region[0].free([4, 5])
        region[0].alloc([5, 20])
        region.page(5)[:] = 78
        assert np.flatnonzero(snap.words).tolist() == [*range(10), *range(600, 610)]
        assert snap.view(0, 10)[:, 4095].tolist() == list(range(10))
        assert snap.read(600, 10)[:, 0].tolist() == [page % 256 for page in range(600, 610)]
        region.close()
        assert snap.page(3)[0] == 3


def test_page_numbers_count_from_the_snapshot_s_start(region: Region) -> None:
    with region.snapshot(512) as snap:
        assert (snap.start, snap.count) == (512, PAGES - 512)
        assert snap.page(88)[0] == 600 % 256
        assert snap.read(88)[0, 0] == 600 % 256
        assert snap.present(88)
        assert not snap.present(87)
        assert len(snap.words) == PAGES - 512
        with pytest.raises(libexmap.OutsideSnapshot):
            snap.page(600)


def test_absent_page_is_an_error_and_not_a_signal(region: Region) -> None:
    with region.snapshot() as snap:
        region[0].alloc([10])
        for call in (
            lambda: snap.page(10),
            lambda: snap.read(10),
            lambda: snap.read(8, 3),
            lambda: snap.view(8, 3),
        ):
            with pytest.raises(libexmap.PageAbsent, match="page 10") as caught:
                call()
            assert isinstance(caught.value, libexmap.NotInSnapshot)
            assert caught.value.errno == errno.ENOENT


def test_arrays_are_read_only_and_keep_the_memory(region: Region) -> None:
    snap = region.snapshot()
    page = snap.page(2)
    with pytest.raises(ValueError, match="read-only"):
        page[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        page.flags.writeable = True
    snap.close()
    region.close()
    assert (page == 2).all()


def test_closed_snapshot_refuses_calls(region: Region) -> None:
    with region.snapshot() as snap:
        assert not snap.closed
    assert snap.closed
    for call in (snap.info, snap.fileno, lambda: snap.words, lambda: snap.page(0), lambda: snap.read(0)):
        with pytest.raises(libexmap.SnapshotClosed):
            call()
    snap.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_region_without_snapshots_says_how_to_get_them(backend: str) -> None:
    with Region.open(pages=PAGES, pool=16, backend=backend) as region:
        with pytest.raises(libexmap.SnapshotsDisabled, match="snapshots=True") as caught:
            region.snapshot()
        assert caught.value.errno == errno.EOPNOTSUPP
        assert region[0].unshare([1]) == 0


@pytest.mark.parametrize(
    ("start", "count", "reserve", "kind"),
    [
        (1, None, "none", libexmap.InvalidArgument),
        (0, 100, "none", libexmap.InvalidArgument),
        (0, 0, "none", libexmap.OutsideRegion),
        (512, 1024, "none", libexmap.OutsideRegion),
        (-512, 512, "none", libexmap.OutsideRegion),
        (1 << 70, None, "none", libexmap.OutsideRegion),
        (0, None, "some", libexmap.InvalidArgument),
        (0, None, -1, libexmap.InvalidArgument),
        (0, None, 1 << 70, libexmap.InvalidArgument),
        (0, None, 237, libexmap.PoolExhausted),
    ],
)
def test_bad_arguments_are_refused(
    region: Region, start: int, count: int | None, reserve: str | int, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        region.snapshot(start, count, reserve)
    assert region.counters.snapshot == 0


def test_reservation_is_taken_from_the_pool_and_returned(region: Region) -> None:
    with region.snapshot(reserve="all") as snap:
        assert (snap.info().reserve, region.counters.snapshot, region.counters.free) == (20, 20, 216)
    with region.snapshot(reserve=236):
        with pytest.raises(libexmap.PoolExhausted):
            region[0].alloc([50])
        with pytest.raises(libexmap.PoolBusy):
            region.resize(255)


def test_info_tells_snapshots_and_regions_apart(region: Region) -> None:
    with region.snapshot() as a, region.snapshot(512, 512) as b:
        assert (a.info().start, a.info().count) == (0, PAGES)
        assert (b.info().start, b.info().count) == (512, 512)
        assert a.info().id != b.info().id
        assert a.info().region == b.info().region
        assert a.info().broken is False


def test_diff_finds_what_changed_between_the_two(region: Region) -> None:
    with region.snapshot(512, 512) as old:
        region.page(601)[5] = 1
        region[0].free([602])
        region[0].alloc([700])
        region.page(700)[:] = 3
        with region.snapshot() as new:
            region.page(603)[5] = 1
            assert np.flatnonzero(old.diff(new)).tolist() == [601 - 512, 602 - 512, 700 - 512]
            assert np.flatnonzero(new.diff(old, 512, 512)).tolist() == [601 - 512, 602 - 512, 700 - 512]
            assert np.flatnonzero(old.diff(new, 88, 3)).tolist() == [1, 2]
            assert not old.diff(old).any()
            for start, count, kind in (
                (4, 8, libexmap.InvalidArgument),
                (0, 513, libexmap.OutsideSnapshot),
                (-8, 8, libexmap.OutsideSnapshot),
            ):
                with pytest.raises(kind):
                    old.diff(new, start, count)
            with pytest.raises(libexmap.OutsideSnapshot):
                new.diff(old)


def test_pages_that_readers_will_need_are_copied_at_once(region: Region) -> None:
    # posix has copied all of them when the snapshot was made
    kernel = region.backend == Backend.KERNEL
    with region.snapshot(readers_copy=True) as snap:
        copies = region.counters.copies
        snap.will_need(600)
        assert region.counters.copies - copies == (10 if kernel else 0)
        snap.will_need()
        assert region.counters.copies - copies == (20 if kernel else 0)
        snap.will_need(PAGES, 0)
        region.page(3)[:] = 77
        assert region.counters.copies - copies == (20 if kernel else 0)
        assert snap.page(3)[0] == 3
        with pytest.raises(libexmap.OutsideSnapshot):
            snap.will_need(1, PAGES)
    with region.snapshot() as snap:
        copies = region.counters.copies
        snap.will_need()
        assert region.counters.copies == copies


def test_page_written_with_what_it_held_differs_for_the_kernel_alone(region: Region) -> None:
    with region.snapshot() as old:
        region.page(7)[:] = 7
        with region.snapshot() as new:
            assert np.flatnonzero(old.diff(new)).tolist() == ([7] if region.backend == Backend.KERNEL else [])


def test_snapshots_of_different_regions_are_not_compared(region: Region) -> None:
    with (
        Region.open(pages=PAGES, pool=16, backend=region.backend, snapshots=True) as other,
        region.snapshot() as a,
        other.snapshot() as b,
    ):
        with pytest.raises(libexmap.ForeignSnapshot) as caught:
            a.diff(b)
        assert caught.value.errno == errno.EXDEV


def test_unshare_copies_what_is_shared(region: Region) -> None:
    kernel = region.backend == Backend.KERNEL
    with region.snapshot() as snap:
        assert region[0].unshare(range(8, 12)) == (2 if kernel else 0)
        assert region.unshare(range(9)) == (8 if kernel else 0)
        region.view(0, 10)[:] = 99
        assert snap.view(0, 10)[:, 0].tolist() == list(range(10))
        assert snap.info().frames == (10 if kernel else 0)
        with pytest.raises(libexmap.OutsideRegion):
            region[0].unshare([PAGES])
        assert region[0].unshare(range(10)) == 0


def test_descriptor_can_be_read_by_others_and_written_by_nobody(region: Region) -> None:
    with region.snapshot(512, 512) as snap:
        region.page(600)[:] = 1
        os.lseek(snap.fileno(), 88 * PAGE, os.SEEK_SET)
        read = subprocess.run(["head", "-c", "5"], stdin=snap.fileno(), capture_output=True, check=True)
        assert read.stdout == bytes([600 % 256]) * 5
        with pytest.raises(OSError, match=r"not permitted|Bad file"):
            os.write(snap.fileno(), b"x")
        with pytest.raises(PermissionError):
            mmap.mmap(snap.fileno(), PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        assert snap.page(88)[0] == 600 % 256
