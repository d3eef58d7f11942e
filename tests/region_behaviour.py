"""What a region does, whatever its backend: collected by tests/host and by tests/vm."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from backends import BACKENDS
from libexmap._ffi import lib

import libexmap
from libexmap import Region

PAGE = 4096
MAPPED_MASK = 0x7FFFFFFF
FRAME_MASK = 0x1FFFFFFF

Opener = Callable[..., Region]


def mapped(region: Region) -> list[int]:
    words = np.array(region.residency)
    return np.flatnonzero((words & MAPPED_MASK) - 1 < FRAME_MASK).tolist()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(backend: str) -> Iterator[Opener]:
    """Opens regions of the backend, and checks that each has lost no frame."""
    regions: list[Region] = []

    def open_region(**options: object) -> Region:
        settings: dict[str, object] = {"pages": 2048, "pool": 256} | options
        region = Region.open(backend=backend, **settings)  # type: ignore[arg-type]
        regions.append(region)
        return region

    yield open_region
    for region in regions:
        if not region.closed:
            assert region.counters.conserved, region.counters
            region.close()


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing"
    data = np.repeat(np.arange(100, dtype=np.uint8), PAGE)
    path.write_bytes(data.tobytes() + b"tail")
    return path


def test_alloc_maps_absent_pages_and_counts_them(opened: Opener) -> None:
    region = opened()
    assert region[0].alloc(range(10, 20)) == 10
    assert region[0].alloc(range(15, 25)) == 5
    assert mapped(region) == list(range(10, 25))
    assert region.counters.mapped == 15


def test_each_mapped_page_has_its_own_frame_and_keeps_its_content(opened: Opener) -> None:
    region = opened()
    pages = np.random.default_rng(1).choice(2048, 256, replace=False).astype(np.uint64)
    assert region[0].alloc(pages) == 256
    for page in pages:
        region.page(int(page))[:8] = np.frombuffer(int(page).to_bytes(8, "little"), dtype=np.uint8)
    for page in pages:
        assert int.from_bytes(bytes(region.page(int(page))[:8]), "little") == page
    frames = np.array(region.residency)[pages.astype(int)] & FRAME_MASK
    assert len(set(frames.tolist())) == 256


def test_free_unmaps_and_counts_only_mapped_pages(opened: Opener) -> None:
    region = opened()
    region[0].alloc(range(8))
    assert region[0].free(range(4, 12)) == 4
    assert mapped(region) == [0, 1, 2, 3]
    assert region.counters.free == 252


def test_probe_leaves_a_run_alone_whose_first_page_is_mapped(opened: Opener) -> None:
    region = opened()
    region[0].alloc([7])
    assert region[0].alloc(range(7, 12), probe=True) == 0
    assert region[0].alloc(range(6, 12), probe=True) == 5


def test_exhausted_pool_keeps_what_was_done_and_works_again_after_free(opened: Opener) -> None:
    region = opened(pool=64)
    with pytest.raises(libexmap.PoolExhausted) as caught:
        region[0].alloc(range(100))
    assert caught.value.errno == errno.ENOMEM
    assert caught.value.done == 64
    region[0].free(range(10))
    assert region[0].alloc(range(70, 80)) == 10


def test_frames_in_another_interface_s_quarantine_are_found(opened: Opener) -> None:
    region = opened(pool=64, interfaces=2)
    region[0].alloc(range(64))
    region[0].free(range(64), lazy=True)
    assert region[1].alloc(range(500, 564)) == 64


def test_outside_the_region_is_refused(opened: Opener) -> None:
    region = opened()
    for pages in ([2048], range(2040, 2050), [2**40], [2**60]):
        with pytest.raises(libexmap.OutsideRegion):
            region[0].alloc(pages)
    with pytest.raises(libexmap.OutsideRegion):
        region.page(2048)
    with pytest.raises(libexmap.InvalidArgument):
        region[0].alloc([-1])


def test_bad_action_is_refused_and_bad_iov_reported(opened: Opener) -> None:
    region = opened()
    for opcode, length, flags in ((5, 1, 0), (1, 513, 0), (1, 1, 8), (2, 1, 1), (0x10000, 1, 0)):
        with pytest.raises(libexmap.InvalidArgument):
            region[0].action(opcode, length, flags)
    iovs = region[0].iovs
    iovs[:3] = [5 | 2 << 52, 3000 | 1 << 52, 9]
    assert region[0].action(1, 3) == 1
    assert iovs[0] == 2 << 32
    assert int(iovs[1]) & 0xFFFFFFFF == 2**32 - errno.EFAULT
    assert iovs[2] == 0


def test_lazily_freed_page_keeps_its_content_until_the_barrier(opened: Opener) -> None:
    region = opened()
    region[0].alloc([3])
    region.page(3)[:] = 9
    region[0].free([3], lazy=True)
    assert region.counters.quarantine == 1
    assert not region.is_mapped(3)
    assert region[0].alloc([3]) == 1
    assert region.counters.rescues == 1
    assert (region.page(3) == 9).all()
    region[0].free([3], lazy=True)
    region.barrier()
    assert region.counters.quarantine == 0
    assert region.counters.free == 256


def test_quarantine_flushes_itself_at_the_threshold(opened: Opener) -> None:
    region = opened(pool=2048, flush_threshold=100)
    flushes = region.counters.flushes
    for start in range(0, 1000, 50):
        region[0].alloc(range(start, start + 50))
        region[0].free(range(start, start + 50), lazy=True)
    assert region.counters.flushes - flushes == 10
    assert region.tune() == 100
    assert region.tune(200) == 200


def test_read_fills_pages_and_write_brings_them_back(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    assert region[0].read([0, 5, 6, 99]) == 4
    assert [int(region.page(p)[100]) for p in (0, 5, 6, 99)] == [0, 5, 6, 99]
    assert region[0].read([5, 7]) == 1
    region.page(5)[:] = 200
    assert region[0].write([5]) == 1
    assert backing.read_bytes()[5 * PAGE : 6 * PAGE] == bytes([200]) * PAGE
    assert region.counters.reads == 5
    assert region.counters.writes == 1


def test_pages_are_read_from_and_written_to_other_blocks(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    pages = [7, 3, 500, 501, 502, 40, 600]
    blocks = [90, 4, 10, 11, 12, 13, 4]
    assert region[0].read(pages, blocks) == 7
    assert [int(region.page(page)[4095]) for page in pages] == blocks
    for page in pages:
        region.page(page)[:] = page % 256
    assert region[0].write(pages[:6], [300, 20, 21, 22, 24, 120]) == 6
    content = backing.read_bytes()
    written = {300: 7, 20: 3, 21: 500, 22: 501, 24: 502, 120: 40}
    for block, page in written.items():
        assert content[block * PAGE : (block + 1) * PAGE] == bytes([page % 256]) * PAGE
    assert content[23 * PAGE : 24 * PAGE] == bytes([23]) * PAGE
    assert region.counters.reads == 7
    assert region.counters.writes == 6


def test_thousand_pages_change_places_in_the_backing(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing, pool=1024)
    blocks = np.random.default_rng(5).permutation(1000).astype(np.uint64)
    assert region[0].alloc(range(1000)) == 1000
    region.view(0, 1000)[:] = (np.arange(1000) % 251).astype(np.uint8)[:, np.newaxis]
    assert region[0].write(range(1000), blocks) == 1000
    region[0].free(range(1000))
    assert region[0].read(range(1000)) == 1000
    assert (region.view(0, 1000)[blocks] == (np.arange(1000) % 251)[:, np.newaxis]).all()


def test_block_beyond_the_end_concerns_its_page_alone(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    with pytest.raises(libexmap.BeyondBacking) as caught:
        region[0].read([1, 2, 3, 4], [50, 101, 100, 1 << 50])
    assert caught.value.done == 2
    assert mapped(region) == [1, 3]
    assert bytes(region.page(3)) == b"tail" + bytes(PAGE - 4)


@pytest.mark.parametrize("block", [(1 << 51) - 1, 1 << 62])
def test_block_that_no_offset_names_is_refused(opened: Opener, backing: Path, block: int) -> None:
    region = opened(backing=backing)
    with pytest.raises(libexmap.InvalidArgument):
        region[0].read([1], [block])
    region[0].alloc([2])
    with pytest.raises(libexmap.InvalidArgument):
        region[0].write([2], [block])
    assert mapped(region) == [2]


def test_blocks_go_with_pages(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    with pytest.raises(libexmap.InvalidArgument, match="2 pages and 3 blocks"):
        region[0].read([1, 2], [1, 2, 3])
    assert region[0].read([], []) == 0
    with pytest.raises(libexmap.InvalidArgument):
        region[0].action(lib.EXMAP_OP_READ, 257, lib.EXMAP_AT_BLOCKS)


def test_tail_of_a_cut_page_is_zero_and_pages_beyond_the_end_fail(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    region[0].alloc([100])
    region.page(100)[:] = 77
    region[0].free([100])
    assert region[0].read([100]) == 1
    assert bytes(region.page(100)) == b"tail" + bytes(PAGE - 4)
    with pytest.raises(libexmap.BeyondBacking):
        region[0].read([101])
    assert not region.is_mapped(101)


def test_write_extends_a_file(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    region[0].alloc([300])
    region.page(300)[:] = 3
    assert region[0].write([300]) == 1
    assert backing.stat().st_size == 301 * PAGE


def test_write_of_an_absent_page_fails(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    with pytest.raises(libexmap.PageAbsent):
        region[0].write([4])


def test_without_backing_there_is_no_io(opened: Opener) -> None:
    region = opened()
    with pytest.raises(libexmap.NoBacking):
        region[0].read([1])


def test_read_only_backing_is_not_written(opened: Opener, backing: Path) -> None:
    fd = os.open(backing, os.O_RDONLY)
    try:
        region = opened(backing=fd)
    finally:
        os.close(fd)
    assert region[0].read([1]) == 1
    with pytest.raises(libexmap.ExmapError) as caught:
        region[0].write([1])
    assert caught.value.errno == errno.EBADF


def test_read_of_a_page_in_quarantine_delivers_the_backing(opened: Opener, backing: Path) -> None:
    region = opened(backing=backing)
    region[0].read([8])
    region.page(8)[:] = 123
    region[0].free([8], lazy=True)
    region[0].read([8])
    assert (region.page(8) == 8).all()


def test_pool_grows_and_shrinks_while_pages_are_mapped(opened: Opener) -> None:
    region = opened(pool=64)
    region[0].alloc(range(64))
    region.view(0, 64)[:] = 5
    region.resize(128)
    assert region[0].alloc(range(64, 128)) == 64
    with pytest.raises(libexmap.PoolBusy):
        region.resize(100)
    region[0].free(range(64, 128), lazy=True)
    region.resize(64)
    assert region.counters.total == 64
    assert (region.view(0, 64) == 5).all()
    with pytest.raises(libexmap.PoolExhausted):
        region[0].alloc([100])


def test_scan_reports_mapped_pages_in_the_order_asked_for(opened: Opener) -> None:
    region = opened()
    region[0].alloc([4, 6])
    region.page(6)[:] = 1
    scan = region.scan([6, 5, 4])
    assert scan.present.tolist() == [True, False, True]
    assert scan.accessed.tolist() == [True, False, True]
    assert scan.dirty[0]
    assert not scan.dirty[1]
    assert region.scan([6], clear_dirty=True, clear_accessed=True).dirty[0]


def test_arrays_keep_the_memory_of_a_closed_region(opened: Opener) -> None:
    region = opened()
    region[0].alloc([1])
    page = region.page(1)
    residency = region.residency
    page[:] = 6
    region.close()
    assert (page == 6).all()
    assert residency[1]
    with pytest.raises(libexmap.RegionClosed):
        region[0].alloc([2])
    with pytest.raises(ValueError, match="read-only"):
        residency[0] = 1


def test_threads_on_their_own_interfaces_do_not_disturb_each_other(opened: Opener) -> None:
    region = opened(pages=8192, pool=2048, interfaces=4)
    wrong: list[int] = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        own = np.arange(number * 2048, (number + 1) * 2048, dtype=np.uint64)
        for _ in range(20):
            pages = rng.choice(own, 200, replace=False)
            region[number].alloc(pages)
            for page in pages[::20]:
                region.page(int(page))[:] = number + 1
            wrong.extend(int(p) for p in pages[::20] if not (region.page(int(p)) == number + 1).all())
            region[number].free(pages, lazy=bool(rng.integers(2)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert region.counters.mapped == 0


@pytest.mark.parametrize(
    "options",
    [
        {"pool": 0},
        {"pages": 0},
        {"interfaces": 0},
        {"interfaces": 257},
        {"fault": "maybe"},
        {"flush_threshold": 2**20},
    ],
)
def test_bad_settings_are_refused(backend: str, options: dict[str, object]) -> None:
    settings = {"pages": 16, "pool": 16} | options
    with pytest.raises(libexmap.InvalidArgument):
        Region.open(backend=backend, **settings)  # type: ignore[arg-type]
