"""Numbers that no C type holds are refused like others that are out of range."""

from collections.abc import Iterator
from typing import Any

import pytest

import libexmap
from libexmap import InvalidArgument, OutsideRegion, Region

HUGE = [-1, 1 << 33, 1 << 63, 1 << 70, -(1 << 70)]


@pytest.fixture
def region() -> Iterator[Region]:
    with Region.open(pages=1024, pool=16, backend="posix") as region:
        yield region


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name", ["pages", "pool", "interfaces", "flush_threshold"])
def test_open_refuses_numbers_that_do_not_fit(name: str, value: int) -> None:
    arguments: dict[str, Any] = {"pages": 1024, "pool": 16, name: value}
    with pytest.raises(InvalidArgument):
        Region.open(backend="posix", **arguments)


@pytest.mark.parametrize("value", HUGE)
def test_settings_refuse_numbers_that_do_not_fit(region: Region, value: int) -> None:
    with pytest.raises(InvalidArgument):
        region.resize(value)
    with pytest.raises(InvalidArgument):
        region.tune(value)
    assert region.info.pool_pages == 16


@pytest.mark.parametrize("value", HUGE)
def test_action_refuses_numbers_that_do_not_fit(region: Region, value: int) -> None:
    for arguments in ((value, 1, 0), (1, value, 0), (1, 1, value)):
        with pytest.raises(InvalidArgument):
            region[0].action(*arguments)


@pytest.mark.parametrize(
    "pages", [1 << 63, [0, 1 << 70], range(1 << 63, (1 << 63) + 2), (1 << 63) - 1, 1 << 52, 1024]
)
def test_pages_beyond_every_region_are_outside(region: Region, pages: libexmap.interface.Pages) -> None:
    for call in (region[0].alloc, region[0].free, region.scan):
        with pytest.raises(OutsideRegion):
            call(pages)


@pytest.mark.parametrize("pages", [-1, [3, -4], range(-2, 2)])
def test_negative_pages_are_refused(region: Region, pages: libexmap.interface.Pages) -> None:
    with pytest.raises(InvalidArgument):
        region[0].alloc(pages)
    assert region.counters.mapped == 0
