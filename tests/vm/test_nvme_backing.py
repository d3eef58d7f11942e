"""A controller that the kernel drives: through libexmap, and under a database."""

import mmap
import os
from pathlib import Path

import exmapdb
import numpy as np
import pytest
from nvme_device import owned_controller

import libexmap
from libexmap import Region, nvme_backing

PAGES = 64


@pytest.mark.vm
def test_read_and_write_of_a_region_go_through_the_controller() -> None:
    address = owned_controller()
    content = np.arange(PAGES * 4096, dtype=np.uint32).view(np.uint8)[: PAGES * 4096].reshape(PAGES, 4096)
    with Region.open(pages=PAGES, pool=PAGES, backend="kernel", backing=f"nvme:{address}") as region:
        region[0].alloc(range(PAGES))
        region.view(0, PAGES)[:] = content
        assert region[0].write(range(PAGES)) == PAGES
    fd = nvme_backing(address)
    try:
        with Region.open(pages=PAGES, pool=PAGES, backend="kernel", backing=fd) as region:
            assert region.info.backing_pages * 4096 == os.lseek(fd, 0, os.SEEK_END)
            assert region[0].read(range(0, PAGES, 3)) == len(range(0, PAGES, 3))
            for page in range(0, PAGES, 3):
                assert np.array_equal(region.page(page), content[page])
        with mmap.mmap(-1, 4096) as buffer:
            assert os.preadv(fd, [buffer], 5 * 4096) == 4096
            assert buffer[:] == content[5].tobytes()
        with pytest.raises(libexmap.QueueBusy):
            nvme_backing(address, exclusive=True)
    finally:
        os.close(fd)


@pytest.mark.vm
def test_a_controller_that_is_not_ours_is_refused() -> None:
    owned_controller()
    with pytest.raises(libexmap.NoController):
        nvme_backing("0000:fe:00.0")
    with pytest.raises(libexmap.InvalidArgument):
        nvme_backing("the first one")


@pytest.fixture
def empty_controller() -> str:
    """A controller whose disk looks empty."""
    address = owned_controller()
    fd = nvme_backing(address)
    os.pwrite(fd, bytes(1 << 20), 0)
    os.close(fd)
    return f"nvme:{address}"


@pytest.mark.vm
def test_a_database_lives_on_a_controller(empty_controller: str) -> None:
    rows = 4000
    with exmapdb.open(empty_controller, memory="256KiB", flag="c") as db:
        assert db.storage == "NVMe queues"
        table = db.create_table("t", {"k": "int64", "v": "text"}, key="k")
        for part in np.array_split(np.random.default_rng(3).permutation(rows), 4):
            table.insert_many({"k": part, "v": [f"{i:080}" for i in part]})
        with pytest.raises(exmapdb.DeviceInUseError):
            exmapdb.open(empty_controller, flag="w")
        with pytest.raises(exmapdb.BackendUnavailableError):
            exmapdb.open(empty_controller, backend="posix", flag="w")
        stats = db.stats()
        assert stats.pages_read
        assert stats.pages_written
    with exmapdb.open(empty_controller, memory="256KiB", flag="w") as db:
        found = [row for batch in db.table("t").scan() for row in batch.to_rows()]
        assert found == [(i, f"{i:080}") for i in range(rows)]


@pytest.mark.vm
def test_a_controller_with_something_else_on_it_is_not_overwritten(empty_controller: str) -> None:
    fd = nvme_backing(empty_controller.removeprefix("nvme:"))
    os.pwrite(fd, b"label".ljust(4096), 64 << 10)
    os.close(fd)
    with pytest.raises(exmapdb.DeviceInUseError, match="not empty"):
        exmapdb.open(empty_controller, flag="c")


@pytest.mark.vm
@pytest.mark.usefixtures("one_cpu")
def test_a_trace_sees_each_command_and_the_reset() -> None:
    address = owned_controller()
    tracing = Path("/sys/kernel/tracing/instances/nvme-test")
    tracing.mkdir()
    try:
        (tracing / "events/exmap/enable").write_text("1")
        with Region.open(pages=64, pool=64, backend="kernel", backing=f"nvme:{address}") as region:
            region[0].read(range(0, 32, 2))
            region[0].alloc(range(64))
            fd = nvme_backing(address)
            # frames in place: one command, where copying would take several
            os.preadv(fd, [region.view(0, 64)], 0)
            os.close(fd)
        with Region.open(pages=64, pool=64, backend="kernel") as region:
            region[0].alloc([0])
            with region.nvme(address) as queue:
                queue.reset()
        lines = (tracing / "trace").read_text().splitlines()
    finally:
        tracing.rmdir()
    submitted = [line for line in lines if "exmap_nvme_submit:" in line]
    assert len(submitted) == 17
    assert all("opcode=0x2 " in line and "bytes=4096" in line for line in submitted[:16])
    assert "bytes=262144" in submitted[16]
    completed = [line for line in lines if "exmap_nvme_complete:" in line]
    assert len(completed) == 17
    assert completed[-1].endswith("status=0x0 left=0")
    assert len([line for line in lines if "exmap_nvme_reset:" in line and "error=-5" in line]) == 1
