"""What exmapctl top shows, and how it follows keys; the rates under it and under stats."""

import os

import pytest
from exmap_netlink import Interface, Pool, Region
from exmapctl import sampling, top
from exmapctl.sampling import Rate, Sample
from rich.console import Console


def region(number: int, **counts: int) -> Region:
    plain = dict.fromkeys(Region._fields, 0) | {"region": number, "pid": 1000 + number, "dead": False}
    return Region(**(plain | counts))  # type: ignore[arg-type]


def pool(number: int, mapped: int, low: bool = False) -> Pool:
    return Pool(number, 1 << 20, (1 << 20) - mapped, mapped, 0, 0, 0, 0, low)


def sample(time: float, *regions: Region) -> Sample:
    return Sample(time, list(regions), {one.region: pool(one.region, one.region) for one in regions})


def some_rates(count: int) -> list[Rate]:
    return sampling.rates(
        sample(10.0),
        sample(
            12.0, *(region(n, allocs=1000 * n, frees=100_000 - n, flushes=n % 7) for n in range(1, count + 1))
        ),
    )


def interfaces(count: int) -> list[Interface]:
    return [Interface(1, n, *[0] * 12) for n in range(count)]


def screen(view: top.View, found: list[Rate], shown: list[Interface], lines: int = 24) -> list[str]:
    console = Console(width=80, height=lines, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(top.render(view, found, shown, lines))
    return console.export_text().rstrip("\n").split("\n")


def test_rates_are_differences_in_a_second() -> None:
    before, after = (
        sample(10.0, region(1, allocs=100)),
        sample(12.0, region(1, allocs=500), region(2, frees=6)),
    )
    old, new = sampling.rates(before, after)
    assert (old.allocs, old.frees, new.frees) == (200, 0, 3)


@pytest.mark.parametrize("count", [0, 1, 5, 200])
@pytest.mark.parametrize("lines", [24, 50])
@pytest.mark.parametrize("shown", [0, 3, 257])
def test_the_screen_is_not_left(count: int, lines: int, shown: int) -> None:
    text = screen(top.View(), some_rates(count), interfaces(shown), lines)
    assert len(text) <= lines
    assert max(map(len, text)) <= 80
    assert "q quit" in text[-1]


def test_all_columns_have_room_in_80_characters() -> None:
    heading = screen(top.View(), some_rates(3), [])[1]
    assert heading.split() == list(top.COLUMNS)


def test_what_is_picked_stays_on_the_screen() -> None:
    found = some_rates(200)
    order = [rate.region.region for rate in top.ordered(found, "region")]
    view = top.View(sort="region", picked=order[150])
    assert any(line.split()[:1] == [str(order[150])] for line in screen(view, found, interfaces(5)))


def test_keys_sort_pick_open_and_quit() -> None:
    order = [3, 1, 2]
    view = top.View()
    sorts = ["region", "pool", "mapped", "allocs", "frees", "flushes", "copies"]
    assert [top.press(view, key, order).sort for key in "rpmaflc"] == sorts == list(top.SORTS.values())
    down = top.press(view, "down", order)
    assert (down.picked, top.press(down, "down", order).picked) == (1, 2)
    assert top.press(top.press(down, "down", order), "down", order).picked == 2
    assert top.press(down, "up", order).picked == 3
    assert top.press(view, "\r", order).open
    assert top.press(view, "q", order).quit
    assert top.press(view, "x", order) == view
    assert top.press(view, "down", []) == view


@pytest.mark.parametrize("sort", top.SORTS.values())
def test_regions_are_sorted_from_the_largest_down(sort: str) -> None:
    found = top.ordered(some_rates(20), sort)
    keys = [top.sort_key(rate, sort) for rate in found]
    assert keys == sorted(keys, reverse=True)


@pytest.mark.parametrize(
    ("sort", "less", "more"),
    [
        ("allocs", {"allocs": 5}, {"allocs": 9}),
        ("frees", {"frees": 5, "allocs": 50}, {"frees": 9}),
        ("flushes", {"flushes": 5}, {"flushes": 3, "flushes_ranged": 4}),
        ("copies", {"copies": 5}, {"copies": 9}),
        ("mapped", {"allocs": 50}, {}),
    ],
)
def test_each_sort_goes_by_its_column(sort: str, less: dict[str, int], more: dict[str, int]) -> None:
    found = sampling.rates(sample(10.0), sample(12.0, region(1, **less), region(2, **more)))
    assert [rate.region.region for rate in top.ordered(found, sort)] == [2, 1]
    assert [rate.region.region for rate in top.ordered(found, "region")] == [1, 2]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9999, "9999"), (10_000, "10k"), (12_345, "12.3k"), (1 << 20, "1049k"), (5e12, "5000G")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert top.short(number) == text


def test_keys_are_read_as_they_come() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\x1b[A")
    assert top.read_keys(reader, 1) == ["up"]
    os.write(writer, b"a\x1b[Bq")
    assert top.read_keys(reader, 1) == ["a", "j", "q"]
    assert top.read_keys(reader, 0) == []
    os.close(writer)
    assert top.read_keys(reader, 1) == ["q"]
