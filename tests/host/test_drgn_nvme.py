"""Which commands of a queue are in flight, on queues whose whole story is known."""

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from exmap_drgn import nvme

ROOT = Path(__file__).resolve().parents[2]
DEPTH = 8


class Queue:
    """A queue pair, its owner and its controller; `running` are the identifiers of what is not completed."""

    def __init__(self) -> None:
        self.sq = [nvme.SqEntry(slot, 0, 0, 0, 0, 0, 0, 1) for slot in range(DEPTH)]
        self.cq = [nvme.CqEntry(slot, 0, 0, 0, 0, 0, 0) for slot in range(DEPTH)]
        self.tail = self.fetched = self.posted = self.reaped = 0
        self.ids = list(range(DEPTH - 1))
        self.running: list[int] = []

    def submit(self) -> None:
        slot = self.tail % DEPTH
        if self.ids and self.tail - self.fetched < DEPTH - 1:
            self.sq[slot] = nvme.SqEntry(slot, 2, self.ids.pop(), 1, 0, 0, 0, 8)
            self.running.append(self.sq[slot].cid)
            self.tail += 1

    def fetch(self) -> None:
        self.fetched = min(self.fetched + 1, self.tail)

    def complete(self, number: int) -> None:
        waiting = len(self.running) - (self.tail - self.fetched)
        if waiting and self.posted - self.reaped < DEPTH - 1:
            cid = self.running.pop(min(number, waiting - 1))
            slot, phase = self.posted % DEPTH, 1 - self.posted // DEPTH % 2
            self.cq[slot] = nvme.CqEntry(slot, cid, self.fetched % DEPTH, 1, phase, 0, 0)
            self.posted += 1

    def reap(self) -> None:
        if self.reaped < self.posted:
            self.ids.append(self.cq[self.reaped % DEPTH].cid)
            self.reaped += 1

    def unfinished(self, tail: int | None) -> list[int]:
        done = nvme.order_completions(self.cq)
        return [entry.cid for entry in nvme.unfinished(self.sq, done, tail)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("reordered", [0, 1])
def test_what_is_in_flight_is_what_was_submitted_and_not_completed(seed: int, reordered: int) -> None:
    chance = random.Random(seed)
    queue = Queue()
    steps = [queue.submit, queue.fetch, queue.reap, lambda: queue.complete(chance.randint(0, reordered))]
    weights = [chance.random() + 0.1 for _ in steps]
    seen = 0
    for _ in range(1000):
        chance.choices(steps, weights)[0]()
        found = queue.unfinished(queue.tail % DEPTH)
        if not reordered:
            assert found == queue.running
        # one that is overtaken for long may be missed, but nothing is made up
        assert [cid for cid in queue.running if cid in found] == found
        assert set(queue.unfinished(None)) <= set(queue.running)
        seen += len(found)
    assert seen > 100


def test_without_a_note_of_the_tail_what_was_not_fetched_may_be_missed() -> None:
    queue = Queue()
    for _ in range(DEPTH):
        queue.submit()
        queue.fetch()
        queue.complete(0)
        queue.reap()
    queue.submit()
    assert queue.unfinished(None) == []
    assert queue.unfinished(1) == queue.running


def test_numbers_are_those_of_the_header() -> None:
    library = (ROOT / "libexmap/include/exmap_nvme.h").read_text()
    assert f"UINT64_C({nvme.TAIL_MARK:#x}) << 32" in library
    assert f"EXMAP_NVME_LIST_ENTRIES\t{nvme.LIST_ENTRIES}\n" in library


@pytest.mark.parametrize(("note", "tail"), [(nvme.TAIL_MARK << 32 | 3, 3), (3, None), (0, None)])
def test_a_tail_is_what_its_owner_has_left_a_note_of(
    monkeypatch: pytest.MonkeyPatch, note: int, tail: int | None
) -> None:
    kind = SimpleNamespace(type=SimpleNamespace(type_name=lambda: "struct exmap_nvme_queue"))
    queue = SimpleNamespace(type_=kind, pair=SimpleNamespace(depth=4, prp=SimpleNamespace(nr=64)))
    monkeypatch.setattr(nvme, "_read_block", lambda block, offset, size: note.to_bytes(8, "little"))
    assert nvme.sq_tail(queue) == tail  # type: ignore[arg-type]
