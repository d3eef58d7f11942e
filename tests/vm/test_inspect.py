"""exmap_drgn and `exmapctl inspect` on the running kernel of the guest."""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drgn
import exmap_drgn
import pytest
from exmapctl.app import app
from typer.testing import CliRunner

import libexmap

MODULE = os.environ.get("EXMAP_KO", "")
# linux/mman.h
MAP_FIXED_NOREPLACE = 0x100000
REGIONS = 8


@pytest.fixture(scope="module")
def prog() -> drgn.Program:
    return exmap_drgn.open_live(MODULE)


@pytest.fixture
def region() -> Iterator[libexmap.Region]:
    """A region in which there is something of everything: 700 pages mapped, 100 in quarantine."""
    with libexmap.Region.open(
        pages=4096, pool=3000, interfaces=2, snapshots=True, backend="kernel"
    ) as opened:
        opened[0].alloc(range(600))
        opened[1].alloc(range(2000, 2200))
        opened[1].free(range(2100, 2200), lazy=True)
        yield opened


def seen(prog: drgn.Program, region: libexmap.Region) -> drgn.Object:
    """The only region there is."""
    [found] = exmap_drgn.for_each_exmap_region(prog)
    assert int(found.nr_pages) == region.pages
    return found


def test_helpers_say_what_the_module_says(prog: drgn.Program, region: libexmap.Region) -> None:
    found = seen(prog, region)
    counters = region.counters
    books = exmap_drgn.exmap_pool_conservation(found)
    assert books.holds
    for name, value in books._asdict().items():
        assert value == getattr(counters, name), name
    assert books.mapped == 700
    assert books.quarantine == 100
    assert found.pid.value_() == os.getpid()
    assert found.comm.string_() == Path("/proc/self/comm").read_bytes().strip()
    numbers = exmap_drgn.exmap_region_frames(found)
    assert len(set(numbers.tolist())) == int(found.pool.total) == counters.total


@contextlib.contextmanager
def mapped_behind(region: libexmap.Region, size: int) -> Iterator[bool]:
    """Map memory from the region's last byte on; yields False if something else is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    end = region.page(region.pages - 1).ctypes.data + mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    address = libc.mmap(
        ctypes.c_void_p(end), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0
    )
    if address != end:
        assert ctypes.get_errno() == errno.EEXIST
        yield False
        return
    ctypes.memset(address, 1, size)
    yield True
    assert libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size)) == 0


def test_mappings_behind_a_region_are_none_of_its_pages(prog: drgn.Program) -> None:
    """They share the page table of its last chunk."""
    with contextlib.ExitStack() as stack:
        # a region that is not whole chunks ends short of the one that was opened before
        for _ in range(REGIONS):
            region = stack.enter_context(libexmap.Region.open(pages=600, pool=600, backend="kernel"))
            if stack.enter_context(mapped_behind(region, 64 * mmap.PAGESIZE)):
                break
        else:
            pytest.fail("there is something right behind each region")
        region[0].alloc(range(600))
        start = region.page(0).ctypes.data
        [found] = [seen for seen in exmap_drgn.for_each_exmap_region(prog) if int(seen.start) == start]
        assert exmap_drgn.exmap_pte_of(found, 600)
        assert exmap_drgn.check_region(found) == []


def test_an_entry_is_what_pagemap_shows(prog: drgn.Program, region: libexmap.Region) -> None:
    found = seen(prog, region)
    with open("/proc/self/pagemap", "rb") as pagemap:
        for page in (0, 599, 2050):
            pagemap.seek((region.page(0).ctypes.data // 4096 + page) * 8)
            number = int.from_bytes(pagemap.read(8), "little") & (1 << 55) - 1
            entry = exmap_drgn.exmap_pte_of(found, page)
            assert entry is not None
            assert entry & 1
            assert (entry & 0x000FFFFFFFFFF000) >> 12 == number
    assert exmap_drgn.exmap_pte_of(found, 600) == 0
    assert exmap_drgn.exmap_pte_of(found, 4095) is None


def test_chunks_and_snapshots_are_followed(prog: drgn.Program, region: libexmap.Region) -> None:
    found = seen(prog, region)
    states = {nr: exmap_drgn.exmap_chunk_state(chunk) for nr, chunk in exmap_drgn.for_each_exmap_chunk(found)}
    in_use = exmap_drgn.ChunkState.IN_USE
    assert states == {0: in_use, 1: in_use, 3: in_use, 4: in_use}
    with region.snapshot() as old, region.snapshot(count=1024):
        assert exmap_drgn.exmap_chunk_state(found.chunks[0]) is exmap_drgn.ChunkState.PARKED
        region.page(0)[0] = 1
        assert exmap_drgn.exmap_chunk_state(found.chunks[0]) is in_use
        snapshots = list(exmap_drgn.for_each_exmap_snapshot(found))
        assert int(snapshots[0].id) == old.info().id
        assert [int(snap.nr_chunks) for snap in snapshots] == [8, 2]
        assert exmap_drgn.check_region(found) == []
    assert list(exmap_drgn.for_each_exmap_snapshot(found)) == []


def test_a_frame_that_somebody_else_still_holds_is_found(prog: drgn.Program, region: libexmap.Region) -> None:
    found = seen(prog, region)
    reader, writer = os.pipe()
    vector = struct.pack("=QQ", region.page(5).ctypes.data, 4096)
    assert ctypes.CDLL(None).vmsplice(writer, vector, 1, 0) == 4096
    region[0].free([5])
    assert region.counters.pinned == 1
    assert exmap_drgn.check_region(found) == []
    assert len(exmap_drgn.frames_by_place(found)["quarantine"]) == region.counters.quarantine
    os.close(reader)
    os.close(writer)


def test_nothing_is_broken_whatever_has_happened(prog: drgn.Program, region: libexmap.Region) -> None:
    found = seen(prog, region)
    assert exmap_drgn.check_region(found) == []
    with region.snapshot(reserve=50) as snapshot:
        for page in range(40):
            region.page(page)[0] = 1
        region[0].free(range(100, 200))
        assert exmap_drgn.check_region(found) == []
        assert (snapshot.page(3) == 0).all()
    # what a snapshot leaves is unpacked later
    assert exmap_drgn.check_region(found) == []
    region.resize(2500)
    assert exmap_drgn.check_region(found) == []


def test_a_gibibyte_is_checked_in_less_than_20_seconds(prog: drgn.Program) -> None:
    pages = 1 << 18
    with libexmap.Region.open(pages=pages, pool=pages, snapshots=True, backend="kernel") as region:
        region[0].alloc(range(pages))
        [found] = exmap_drgn.for_each_exmap_region(prog)
        begin = time.monotonic()
        assert exmap_drgn.check_region(found) == []
        seconds = time.monotonic() - begin
    print(f"1 GiB checked in {seconds:.1f} s")
    assert seconds < 20


def test_the_commands(region: libexmap.Region) -> None:
    def inspect(*arguments: str) -> Any:
        # in this process: each start of Python with drgn costs seconds here
        done = CliRunner().invoke(app, ["inspect", *arguments, "--module", MODULE, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    [found] = inspect("regions")
    assert found["pid"] == os.getpid()
    assert found["pages"] == region.pages
    assert found["pool"]["mapped"] == 700
    assert inspect("check") == []
    places = {place["place"]: place["total"] for place in inspect("frames")}
    assert places == {"mapped": 700, "quarantine": 100, "free": 2200}
    chunk = inspect("chunk", hex(region.page(599).ctypes.data))
    assert [(run["page"], run["pages"], run["residency"]) for run in chunk["pages"]] == [
        (512, 88, "mapped"),
        (600, 424, "absent"),
    ]
    assert inspect("snapshot") == []
    last = inspect("events")[-1]
    assert (last["event"], last["pid"]) == ("region_created", os.getpid())


def test_a_file_without_debugging_information_is_refused() -> None:
    with pytest.raises(exmap_drgn.NoDebugInfo):
        exmap_drgn.open_live("/bin/true")
