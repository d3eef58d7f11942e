"""exmap_drgn and `exmapctl inspect` on the running kernel of the guest."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import drgn
import exmap_drgn
import pytest

import libexmap

MODULE = os.environ.get("EXMAP_KO", "")


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
    assert found.mm.owner.tgid.value_() == os.getpid()
    numbers = exmap_drgn.exmap_region_frames(found)
    assert len(set(numbers.tolist())) == int(found.pool.total) == counters.total


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


def test_the_commands(region: libexmap.Region) -> None:
    def inspect(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "exmapctl", "inspect", *arguments, "--module", MODULE, "--json"],
            stdout=subprocess.PIPE,
            check=True,
        )
        return json.loads(done.stdout)

    [found] = inspect("regions")
    assert found["pid"] == os.getpid()
    assert found["pages"] == region.pages
    assert found["pool"]["mapped"] == 700
    assert inspect("check") == []


def test_a_file_without_debugging_information_is_refused() -> None:
    with pytest.raises(exmap_drgn.NoDebugInfo):
        exmap_drgn.open_live("/bin/true")
