"""Snapshots on both backends, side by side; and how those of the kernel break."""

import errno
from collections.abc import Callable

import pytest
from snapshot_behaviour import *  # noqa: F403

import libexmap
from libexmap import Region


def write(region: Region, first: int, count: int) -> None:
    region.view(first, count)[:] = 1


def unshare(region: Region, first: int, count: int) -> None:
    region.unshare(range(first, first + count))


@pytest.mark.parametrize("change", [write, unshare])
def test_snapshot_without_frames_breaks_and_says_so(change: Callable[[Region, int, int], None]) -> None:
    with Region.open(pages=1024, pool=100, backend="kernel", snapshots=True) as region:
        region[0].alloc(range(60))
        with region.snapshot() as old, region.snapshot(512) as other:
            change(region, 0, 40)
            assert old.present(59)
            change(region, 40, 20)
            assert old.info().broken
            assert not other.info().broken
            calls = (
                lambda: old.page(59),
                lambda: old.read(59),
                lambda: old.words,
                lambda: old.present(100),
                lambda: other.diff(old),
            )
            for call in calls:
                with pytest.raises(libexmap.SnapshotBroken, match="reserve='all'") as caught:
                    call()
                assert caught.value.errno == errno.ENODATA
            write(region, 0, 60)
            assert (region.view(0, 60) == 1).all()


def test_snapshot_with_all_frames_reserved_does_not_break() -> None:
    with Region.open(pages=1024, pool=120, backend="kernel", snapshots=True) as region:
        region[0].alloc(range(60))
        region.view(0, 60)[:] = 5
        with region.snapshot(reserve="all") as snap:
            region.view(0, 60)[:] = 1
            assert (snap.view(0, 60) == 5).all()
            assert snap.info().reserve == 0
