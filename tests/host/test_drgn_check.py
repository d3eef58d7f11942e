"""What `inspect check` calls broken, on arrays that are; tests/vm/test_inspect.py looks at a kernel."""

import re
from pathlib import Path

import numpy as np
import pytest
from exmap_drgn import check, helpers

HEADER = (Path(__file__).resolve().parents[2] / "kmod/uapi/exmap.h").read_text()
PFNS = np.array([100, 101, 0, 103], np.uint64)


@pytest.mark.parametrize("name", ["FRAME_MASK", "BUSY", "LAZY", "SNAPSHOT", "STATE_MASK"])
def test_residency_words_are_those_of_the_header(name: str) -> None:
    found = re.search(rf"^#define EXMAP_RES_{name}\s+(0x[0-9a-f]+)u", HEADER, re.MULTILINE)
    assert found is not None
    assert getattr(helpers, f"RES_{name}") == int(found[1], 16)


def entries_wrong(word: int, entry: int) -> list[str]:
    """Check chunk 2, of which page 3 has this word and this entry; all else is absent."""
    words = np.zeros(helpers.CHUNK_PAGES, np.uint32)
    entries = np.zeros(helpers.CHUNK_PAGES, np.uint64)
    words[3], entries[3] = word, entry
    frames = (words & np.uint32(helpers.RES_FRAME_MASK)) - np.uint32(1)
    mapped = np.zeros(helpers.CHUNK_PAGES, bool)
    mapped[3] = 0 < word & helpers.RES_STATE_MASK <= helpers.RES_FRAME_MASK
    found = list(check._check_entries(2, words, mapped, frames, entries, PFNS))
    assert all(where == f"page {2 * helpers.CHUNK_PAGES + 3}" for _, where in found)
    return [what for what, _ in found]


@pytest.mark.parametrize(
    ("word", "entry"),
    [
        (0, 0),
        (2, 101 << 12 | 0x8000000000000067),
        (2 | helpers.RES_SNAPSHOT, 101 << 12 | 0x65),
        (2 | helpers.RES_LAZY, 0),
        # the zero page of a region with FAULT_ZERO
        (0, 7 << 12 | check.PTE_SPECIAL | 0x65),
    ],
)
def test_entries_that_say_what_residency_says_are_well(word: int, entry: int) -> None:
    assert entries_wrong(word, entry) == []


@pytest.mark.parametrize(
    ("word", "entry", "what"),
    [
        (2, 0, "residency says mapped, the entry does not"),
        (0, 101 << 12 | 0x67, "the entry maps what residency denies"),
        (2 | helpers.RES_LAZY, 101 << 12 | 0x67, "the entry maps what residency denies"),
        (2, 100 << 12 | 0x67, "the entry maps another frame than residency says"),
        (2 | helpers.RES_SNAPSHOT, 101 << 12 | 0x67, "a page that a snapshot shares is writable"),
    ],
)
def test_entries_that_do_not_are_found(word: int, entry: int, what: str) -> None:
    assert entries_wrong(word, entry) == [what]


def places(**arrays: list[int]) -> check.Places:
    return {name: [np.array(frames, np.uint32)] for name, frames in arrays.items()}


def test_frames_that_are_each_in_one_place_are_well() -> None:
    assert list(check._check_places(places(mapped=[0], free=[3, 1]), PFNS)) == []


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        (places(mapped=[0, 1], free=[3, 1]), ("a frame is in two places", "frame 1: mapped and free")),
        (places(mapped=[0, 0], free=[3, 1]), ("a frame is in two places", "frame 0: mapped and mapped")),
        (places(mapped=[0], free=[3]), ("a frame is nowhere", "frame 1")),
        (places(mapped=[0, 2], free=[3, 1]), ("a hole of the pool is in use", "frame 2, mapped")),
        (places(mapped=[0, 4], free=[3, 1]), ("no such frame", "frame 4, mapped")),
    ],
)
def test_frames_that_are_not_are_found(wrong: check.Places, finding: tuple[str, str]) -> None:
    assert list(check._check_places(wrong, PFNS)) == [finding]


def test_what_is_not_seen_at_each_look_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel goes on while it is looked at."""
    lasting, passing = (check.Finding(1, what, "frame 1") for what in ("lasting", "passing"))
    looks = iter([[lasting, passing], [lasting], [passing, lasting]])
    monkeypatch.setattr(check, "_look", lambda region: next(looks))
    assert check.check_region(object()) == [lasting]  # type: ignore[arg-type]
    assert next(looks, None) is None


def test_what_looks_well_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([[]])
    monkeypatch.setattr(check, "_look", lambda region: next(looks))
    assert check.check_region(object()) == []  # type: ignore[arg-type]
