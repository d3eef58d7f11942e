"""LMDB in a process of its own, whose memory a cgroup bounds: its cache is the page cache."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from exmapdb.bench.engines import LmdbEngine, Setup
from exmapdb.bench.ycsb import Measured, Operations, Runner
from exmapdb.errors import ExmapdbError

__all__ = ["BoundedLmdb", "PeerFailedError", "can_bound"]

ROOT: Final = Path("/sys/fs/cgroup")


class PeerFailedError(ExmapdbError):
    """The process of another engine has ended, or says that something went wrong there."""


def can_bound() -> bool:
    """Return whether this process may make a memory cgroup (v2)."""
    control = ROOT / "cgroup.subtree_control"
    controllers = ROOT / "cgroup.controllers"
    if not control.exists() or not os.access(control, os.W_OK):
        return False
    return "memory" in controllers.read_text().split()


@contextlib.contextmanager
def memory_cgroup() -> Iterator[Path]:
    """Make a cgroup that counts memory; its processes have ended when it goes."""
    (ROOT / "cgroup.subtree_control").write_text("+memory")
    group = ROOT / f"exmapdb-bench-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        group.rmdir()


def bound(group: Path, cache: int) -> None:
    """Leave what the process has by itself just now, and so much for the page cache."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    # what it is made of does not add up to all that is charged
    used = int((group / "memory.current").read_text()) - int(stat["file"])
    (group / "memory.max").write_text(str(used + cache))


def serve(setup: Setup, group: Path, connection: Connection) -> None:
    """Enter the cgroup, open LMDB, and do as the connection says."""
    (group / "cgroup.procs").write_text("0")
    with contextlib.closing(Runner(LmdbEngine(setup, readahead=False), setup.threads)) as runner:
        while (order := connection.recv()) is not None:
            what, batched = order
            try:
                if isinstance(what, int):
                    runner.load(what)
                    os.sync()
                    connection.send(None)
                else:
                    bound(group, setup.memory)
                    connection.send(runner.run(what, batched))
            except Exception as error:
                connection.send(error)


class BoundedLmdb:
    """LMDB with as much memory beyond what its process has anyway as other engines have for their caches.

    Raises PeerFailedError, from all methods, and OSError where there is no cgroup (see can_bound).
    """

    def __init__(self, setup: Setup) -> None:
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(memory_cgroup())
            self._mine, theirs = multiprocessing.Pipe()
            stack.callback(self._mine.close)
            # a process that is forked would have the other engines' memory, and open files
            context = multiprocessing.get_context("spawn")
            self._process = context.Process(target=serve, args=(setup, group, theirs))
            self._process.start()
            theirs.close()
            stack.callback(self._end)
            self._resources = stack.pop_all()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._mine.send(None)
        self._process.join(60)
        self._process.kill()
        self._process.join()

    def _ask(self, what: object, batched: bool = False) -> Any:
        try:
            self._mine.send((what, batched))
            answer = self._mine.recv()
        except (EOFError, OSError) as error:
            self._process.join(10)
            code = self._process.exitcode
            raise PeerFailedError(f"the process with LMDB ended with {code}") from error
        if isinstance(answer, Exception):
            raise PeerFailedError(f"LMDB: {answer}") from answer
        return answer

    def load(self, rows: int) -> None:
        """Fill it."""
        self._ask(rows)

    def run(self, parts: Sequence[Operations], batched: bool) -> Measured:
        """Do operations there; see Runner.run."""
        found = self._ask(parts, batched)
        assert isinstance(found, Measured)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.close()
