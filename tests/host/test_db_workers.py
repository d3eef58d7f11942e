"""The pool of channels into the native core: nobody starves, is forgotten, or slips in."""

import signal
import threading
import time
from typing import Any

import pytest
from exmapdb._core import ffi
from exmapdb.errors import DatabaseClosedError
from exmapdb.workers import Worker, WorkerPool

PATIENCE = 30


def make_pool(count: int) -> WorkerPool:
    return WorkerPool([Worker(i, ffi.cast("void *", i + 1)) for i in range(count)])


def test_who_waits_is_served_before_who_comes_again_and_again() -> None:
    pool = make_pool(1)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            worker = pool.take()
            time.sleep(0)  # as a call into the native core, it lets go of the GIL
            pool.give(worker)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        begin = time.monotonic()
        for _ in range(200):
            pool.give(pool.take())
        assert time.monotonic() - begin < PATIENCE
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_workers_are_lent_to_one_at_a_time_by_many_threads() -> None:
    pool = make_pool(3)
    lent: set[int] = set()
    wrong: list[int] = []

    def work() -> None:
        for _ in range(3000):
            worker = pool.take()
            if worker.index in lent:
                wrong.append(worker.index)
            lent.add(worker.index)
            time.sleep(0)
            lent.discard(worker.index)
            pool.give(worker)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []
    assert {pool.take().index for _ in range(3)} == {0, 1, 2}


def test_close_turns_waiting_threads_away_and_waits_for_the_workers() -> None:
    pool = make_pool(1)
    worker = pool.take()
    turned_away: list[Exception] = []

    def wait() -> None:
        try:
            pool.take()
        except DatabaseClosedError as error:
            turned_away.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(2)]
    for thread in waiting:
        thread.start()
    while len(pool._waiters) < 2:
        time.sleep(0.001)
    closed: list[Worker] = []
    closing = threading.Thread(target=lambda: closed.append(pool.close()))
    closing.start()
    for thread in waiting:
        thread.join(PATIENCE)
    assert len(turned_away) == 2
    assert closed == []
    pool.give(worker)
    closing.join(PATIENCE)
    assert closed == [worker]
    with pytest.raises(DatabaseClosedError):
        pool.take()


def test_an_interrupted_wait_leaves_nothing_behind() -> None:
    pool = make_pool(1)
    worker = pool.take()

    def interrupt(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(TimeoutError):
            pool.take()
    finally:
        signal.signal(signal.SIGALRM, before)
    pool.give(worker)
    assert pool.take() is worker
