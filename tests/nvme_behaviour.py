"""What an NVMe queue does, whatever its backend: collected by tests/host and by tests/vm."""

import asyncio
import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from backends import BACKENDS
from numpy.typing import NDArray
from nvme_device import owned_controller

import libexmap
from libexmap import NvmeQueue, Region

PAGE = 4096
DISK_PAGES = 8192

Opener = Callable[..., NvmeQueue]


@pytest.fixture(params=BACKENDS)
def region(request: pytest.FixtureRequest) -> Iterator[Region]:
    with Region.open(pages=2048, pool=1024, backend=str(request.param)) as opened:
        opened[0].alloc(range(1024))
        yield opened


@pytest.fixture
def device(region: Region, tmp_path: Path) -> str:
    if region.backend == libexmap.Backend.KERNEL:
        return owned_controller()
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(DISK_PAGES * PAGE)
    return str(path)


@pytest.fixture
def opened(region: Region, device: str) -> Iterator[Opener]:
    queues: list[NvmeQueue] = []

    def open_queue(**options: int) -> NvmeQueue:
        queues.append(region.nvme(device, **options))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.close()


def block_of(queue: NvmeQueue, page: int) -> int:
    return page * PAGE // queue.lba_size


def blocks_of(queue: NvmeQueue, pages: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return pages * np.uint64(PAGE // queue.lba_size)


def contents(versions: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the words of pages, each page different from every other."""
    multiplied = versions.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    mixed: NDArray[np.uint64] = multiplied + np.arange(PAGE // 8, dtype=np.uint64)
    return mixed


def words(region: Region, first: int, count: int) -> NDArray[np.uint64]:
    view: NDArray[np.uint64] = region.view(first, count).view(np.uint64)
    return view


def test_reads_what_was_written(region: Region, opened: Opener) -> None:
    queue = opened()
    disk = np.array([700, 3, 5000, 4999], dtype=np.uint64)
    words(region, 10, 4)[:] = contents(disk)
    assert queue.write(range(10, 14), blocks_of(queue, disk)) == 4
    assert queue.read(range(20, 24), blocks_of(queue, disk)) == 4
    assert np.array_equal(words(region, 20, 4), contents(disk))


def test_runs_of_every_length_arrive_whole_and_nothing_else_is_touched(
    region: Region, opened: Opener
) -> None:
    queue = opened(depth=4)
    for each in (1, 2, 3, 17, queue.max_pages - 1, queue.max_pages):
        written = contents(np.arange(each, dtype=np.uint64) + np.uint64(each))
        words(region, 0, each)[:] = written
        queue.write(0, block_of(queue, 100), each=each)
        words(region, 512, each + 1)[:] = 7
        queue.read(512, block_of(queue, 100), each=each)
        assert np.array_equal(words(region, 512, each), written)
        assert (words(region, 512 + each, 1) == 7).all()


SLOT = 8
AT_ONCE = 100


class Disk:
    """What the disk should hold, in slots of pages, and random transfers of parts of slots."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(20260201)
        self.versions = np.zeros(DISK_PAGES, dtype=np.uint64)
        self.newest = 0

    def draw(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return slots without repetition, sizes, and which are writes."""
        slots = self.random.choice(DISK_PAGES // SLOT, AT_ONCE, replace=False)
        return slots, self.random.integers(1, SLOT + 1, AT_ONCE), self.random.random(AT_ONCE) < 0.5


def transfer_slots(
    queue: NvmeQueue, slots: NDArray[np.int64], sizes: NDArray[np.int64], writes: NDArray[np.bool_]
) -> None:
    """Transfer the first pages of each slot, number i from or to pages i * SLOT of the region."""
    for op, chosen in (("write", writes), ("read", ~writes)):
        for size in range(1, SLOT + 1):
            which = np.flatnonzero(chosen & (sizes == size)).astype(np.uint64)
            blocks = blocks_of(queue, slots[which].astype(np.uint64) * np.uint64(SLOT))
            assert queue.submit(op, which * np.uint64(SLOT), blocks, which, each=size) == which.size
    tags: list[int] = []
    while len(tags) < AT_ONCE:
        results = queue.wait(min=AT_ONCE - len(tags))
        assert not results.errors.size
        tags += results.tags.tolist()
    assert sorted(tags) == list(range(AT_ONCE))


def test_ten_thousand_random_transfers_of_mixed_size_are_right(region: Region, opened: Opener) -> None:
    queue = opened(depth=128)
    for start in range(0, DISK_PAGES, SLOT * AT_ONCE):
        queue.write_zeroes(block_of(queue, start), block_of(queue, min(SLOT * AT_ONCE, DISK_PAGES - start)))
    disk = Disk()
    memory = words(region, 0, SLOT * AT_ONCE)
    for _ in range(10_000 // AT_ONCE):
        slots, sizes, writes = disk.draw()
        inside = (np.arange(SLOT) < sizes[:, None]).ravel()
        pages = (slots[:, None] * SLOT + np.arange(SLOT)).ravel()
        written = inside & np.repeat(writes, SLOT)
        disk.versions[pages[written]] = disk.newest + 1 + np.arange(written.sum())
        disk.newest += int(written.sum())
        memory[:] = 7
        memory[written] = contents(disk.versions[pages[written]])
        transfer_slots(queue, slots, sizes, writes)
        expected = contents(disk.versions[pages])
        expected[disk.versions[pages] == 0] = 0
        expected[~inside] = 7
        assert np.array_equal(memory, expected)


def assert_pages_come_back(region: Region, queue: NvmeQueue, seed: int) -> None:
    """Write 500 pages of a content that the seed determines, and read them again."""
    disk = np.arange(500, dtype=np.uint64)
    expected = contents(disk + np.uint64(seed))
    words(region, 0, 500)[:] = expected
    assert queue.write(range(500), blocks_of(queue, disk)) == 500
    words(region, 0, 500)[:] = 0
    assert queue.read(range(500), blocks_of(queue, disk)) == 500
    assert np.array_equal(words(region, 0, 500), expected)


def test_more_commands_than_the_queue_holds_take_turns(region: Region, opened: Opener) -> None:
    assert_pages_come_back(region, opened(depth=8), 9)


def test_submit_takes_what_fits_and_tags_come_back(opened: Opener) -> None:
    queue = opened(depth=8)
    tags = np.arange(100, 120, dtype=np.uint64)
    assert queue.submit("read", range(20), range(20), tags) == 7
    assert queue.in_flight == 7
    with pytest.raises(libexmap.QueueBusy):
        queue.read(0, 0)
    with pytest.raises(libexmap.QueueBusy):
        queue.flush()
    results = queue.wait(min=7)
    assert sorted(results.tags.tolist()) == list(range(100, 107))
    assert not results.statuses.any()
    assert queue.in_flight == 0
    assert queue.wait().tags.size == 0


def test_zeroes_and_deallocate_leave_neighbours_alone(region: Region, opened: Opener) -> None:
    queue = opened()
    disk = np.arange(20, dtype=np.uint64)
    words(region, 0, 20)[:] = contents(disk + np.uint64(1))
    queue.write(range(20), blocks_of(queue, disk))
    queue.write_zeroes(block_of(queue, 5), block_of(queue, 3))
    queue.deallocate(block_of(queue, 12), block_of(queue, 2))
    queue.flush()
    queue.read(range(20), blocks_of(queue, disk))
    kept = [page for page in range(20) if page not in (5, 6, 7, 12, 13)]
    assert np.array_equal(words(region, 0, 20)[kept], contents(disk + np.uint64(1))[kept])
    assert not words(region, 5, 3).any()


def test_blocks_beyond_the_device_are_an_error_of_that_command(opened: Opener) -> None:
    queue = opened()
    with pytest.raises(libexmap.BeyondBacking) as caught:
        queue.read([0, 1, 2], [0, queue.lbas, 8])
    assert caught.value.done == 2
    with pytest.raises(libexmap.BeyondBacking):
        queue.read(0, queue.lbas - 1 if queue.lba_size < PAGE else queue.lbas)
    with pytest.raises(libexmap.BeyondBacking):
        queue.write_zeroes(queue.lbas, 1)
    queue.submit("read", [0, 1], [0, 2**60])
    assert queue.wait(min=2).errors.tolist() == [1]
    assert queue.read(0, 0) == 1


def test_pages_that_cannot_be_transferred_are_refused(region: Region, opened: Opener) -> None:
    queue = opened()
    with pytest.raises(libexmap.PageAbsent):
        queue.read(1024, 0)
    with pytest.raises(libexmap.PageAbsent):
        queue.read(1023, 0, each=2)
    with pytest.raises(libexmap.PageAbsent):
        queue.read(1020, 0, each=8)
    with pytest.raises(libexmap.OutsideRegion):
        queue.read(2048, 0)
    with pytest.raises(libexmap.OutsideRegion):
        queue.read(2047, 0, each=2)
    for each in (0, queue.max_pages + 1):
        with pytest.raises(libexmap.InvalidArgument):
            queue.read(0, 0, each=each)
    with pytest.raises(libexmap.InvalidArgument):
        queue.read([0, 1], [0])
    with pytest.raises(libexmap.PageAbsent) as caught:
        queue.read([0, 1, 1500, 2], [0, 8, 16, 24])
    assert caught.value.done == 2
    assert queue.in_flight == 0


def test_a_reset_ends_the_queue_and_a_new_one_works(opened: Opener) -> None:
    queue = opened()
    queue.reset()
    with pytest.raises(libexmap.QueueDead) as caught:
        queue.check()
    assert caught.value.errno == errno.EIO
    with pytest.raises(libexmap.QueueDead):
        queue.read(0, 0, timeout=5.0)
    with pytest.raises(libexmap.QueueDead):
        queue.reset()
    queue.close()
    again = opened()
    assert again.read(0, 0) == 1


def test_queue_keeps_the_region_and_calls_after_close_are_refused(region: Region, opened: Opener) -> None:
    queue = opened()
    view = region.view(0, 1)
    region.close()
    view[:] = 5
    assert queue.write(0, 0) == 1
    queue.close()
    with pytest.raises(libexmap.QueueClosed):
        queue.read(0, 0)
    assert queue.closed


def test_open_refuses_what_is_no_device(region: Region, device: str) -> None:
    for depth in (0, 1, 4097):
        with pytest.raises(libexmap.InvalidArgument):
            region.nvme(device, depth=depth)
    if region.backend == libexmap.Backend.KERNEL:
        with pytest.raises(libexmap.NoController):
            region.nvme("0000:ff:1f.7")
        for wrong in ("", "nvme0", "0000:00:04", "0000:00:04.9", "0000:00:04.0x"):
            with pytest.raises(libexmap.InvalidArgument):
                region.nvme(wrong)
    else:
        with pytest.raises(FileNotFoundError):
            region.nvme(device + "x")
        with pytest.raises(libexmap.InvalidArgument):
            region.nvme(device, lba_size=1024)
        with pytest.raises(libexmap.InvalidArgument):
            region.nvme("/dev/null")
        with region.nvme(device, lba_size=4096) as queue:
            assert queue.lbas == DISK_PAGES
            assert queue.read(0, DISK_PAGES - 1) == 1


def test_threads_with_a_queue_each_do_not_meet(region: Region, opened: Opener) -> None:
    queues = [opened(depth=16) for _ in range(3)]
    failures: list[str] = []

    def work(number: int) -> None:
        queue = queues[number]
        pages = range(number * 100, number * 100 + 100)
        disk = np.arange(1000 * number, 1000 * number + 100, dtype=np.uint64)
        for round_ in range(5):
            expected = contents(disk * np.uint64(31) + np.uint64(round_))
            words(region, pages.start, 100)[:] = expected
            queue.write(pages, blocks_of(queue, disk))
            words(region, pages.start, 100)[:] = 0
            queue.read(pages, blocks_of(queue, disk))
            if not np.array_equal(words(region, pages.start, 100), expected):
                failures.append(f"queue {number}, round {round_}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_queue_with_interrupts_wakes_an_event_loop(region: Region, opened: Opener) -> None:
    queue = opened(depth=32, interrupts=True)
    found: list[int] = []

    async def read_some() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def take() -> None:
            found.extend(queue.wait(min=0).tags.tolist())
            if len(found) == 20:
                done.set()

        loop.add_reader(queue.fileno(), take)
        assert queue.submit("read", range(20), blocks_of(queue, np.arange(20, dtype=np.uint64))) == 20
        await asyncio.wait_for(done.wait(), 60)
        loop.remove_reader(queue.fileno())

    asyncio.run(read_some())
    assert sorted(found) == list(range(20))


def test_waiting_with_interrupts_leaves_the_processor_alone(region: Region, opened: Opener) -> None:
    queue = opened(depth=32, interrupts=True)
    page = np.arange(1, dtype=np.uint64)
    assert queue.submit("read", page, page) == 1
    while queue.in_flight:
        assert queue.wait(min=1).tags.tolist() == [0]
    event = queue.fileno()
    # a wait that finds the completion by looking leaves its interrupt to come, once
    if select.select([event], [], [], 1.0)[0]:
        os.read(event, 8)
    begin = time.thread_time()
    # nothing is in flight: nothing wakes it
    assert select.select([event], [], [], 1.0)[0] == []
    assert time.thread_time() - begin < 0.1


def test_queue_without_interrupts_has_no_descriptor(region: Region, opened: Opener) -> None:
    with pytest.raises(libexmap.InvalidArgument):
        opened(depth=32).fileno()


def test_queue_with_shadow_doorbells_transfers_all_around(region: Region, opened: Opener) -> None:
    assert_pages_come_back(region, opened(depth=16, shadow=True), 77)


def test_queues_of_a_controller_have_shadow_doorbells_or_none_has(region: Region, opened: Opener) -> None:
    opened(shadow=True)
    if region.backend == libexmap.Backend.POSIX:
        opened()
        return
    with pytest.raises(libexmap.InvalidArgument):
        opened()


def test_child_of_fork_is_told_whose_region_it_is(region: Region, opened: Opener) -> None:
    if region.backend == libexmap.Backend.POSIX:
        pytest.skip("opens a file, whoever asks")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            try:
                opened()
            except libexmap.ForeignAddressSpace:
                os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
