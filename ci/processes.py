"""Start processes of which nothing is left behind, also when we are told to go.

A guest is a tree of processes: virtme-ng, its helpers, QEMU.  It gets a process
group of its own, and the group ends with the block that started it.  Signals
therefore have to unwind the stack, and must not do so while a process is started
or its group is being ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

__all__ = ["exit_on_signals", "process_group", "run"]

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_held = 0
_pending: list[int] = []


def exit_on_signals() -> None:
    """Let the signals that end a program raise SystemExit, once the program can take it."""
    for number in _SIGNALS:
        signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    if _held:
        _pending.append(number)
    else:
        sys.exit(128 + number)


@contextlib.contextmanager
def _hold_signals() -> Iterator[None]:
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if _pending and not _held:
        sys.exit(128 + _pending.pop())


@contextlib.contextmanager
def process_group(
    command: Sequence[str | Path],
    *,
    output: int | IO[bytes] | None = None,
    errors: int | IO[bytes] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, without input, in a process group of its own, of which nothing survives."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with _hold_signals():
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        yield process
    finally:
        if process is not None:
            with _hold_signals():
                _end_group(process.pid)
                process.wait()


def run(command: Sequence[str | Path], *, cwd: Path | None = None) -> int:
    """Run a command to its end and return its exit code; it does not outlive an exception."""
    with process_group(command, cwd=cwd) as process:
        return process.wait()


def _end_group(group: int) -> None:
    for number, patience in ((0, 5.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        with contextlib.suppress(ProcessLookupError):
            if number:
                os.killpg(group, number)
        limit = time.monotonic() + patience
        while time.monotonic() < limit:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            if number == 0 and not _exited(group):
                break
            time.sleep(0.05)


def _exited(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
