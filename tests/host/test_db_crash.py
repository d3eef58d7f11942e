"""kill -9 at random moments, and what is there afterwards. Posix backend."""

import random
from pathlib import Path

import exmapdb
import pytest
from bank import audit, kill_while_it_works, make_bank

OPTIONS = {"memory": "256KiB", "backend": "posix", "log": "256KiB"}


def crash_often(path: Path, durability: exmapdb.Durability, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    durable = durability != "async"
    bank = make_bank(path, durability=durability, **OPTIONS)
    firsts, _ = audit(bank, durable)
    slowest = 0.0
    for _ in range(kills):
        # some while the last crash is being recovered
        for _ in range(rng.randrange(3)):
            kill_while_it_works(bank, rng.uniform(0, 0.02), firsts)
            firsts, _ = audit(bank, durable)
        kill_while_it_works(bank, rng.uniform(0.02, 0.6), firsts)
        firsts, seconds = audit(bank, durable)
        slowest = max(slowest, seconds)
    assert len(bank.acknowledged) > 5 * kills
    print(f"{len(bank.acknowledged)} transfers acknowledged, slowest recovery {slowest:.3f} s")


@pytest.mark.parametrize(("durability", "kills"), [("sync", 5), ("group", 5), ("async", 3)])
def test_killed_banks_lose_nothing(tmp_path: Path, durability: exmapdb.Durability, kills: int) -> None:
    crash_often(tmp_path / "bank.exdb", durability, kills, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(("durability", "kills"), [("sync", 150), ("group", 150), ("async", 50)])
def test_killed_banks_lose_nothing_at_length(
    tmp_path: Path, durability: exmapdb.Durability, kills: int
) -> None:
    crash_often(tmp_path / "bank.exdb", durability, kills, seed=2)
