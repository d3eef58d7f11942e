"""The lines of docs/reference/tracing.md for perf and bpftrace, run as they stand there.

They run beside a program that does everything there is an event for.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvme_device import owned_controller

ROOT = Path(__file__).resolve().parents[2]
LINES = re.findall(
    r"^    ((?:perf|bpftrace) .*?)(?: +# .*)?$", (ROOT / "docs/reference/tracing.md").read_text(), re.M
)
# tools start slowly, and here there are many of them
PATIENCE = 900
ROUNDS = 5


class Tool:
    """One line in a shell, in a directory and a process group of its own."""

    def __init__(self, line: str, directory: Path) -> None:
        self.line = line
        self.events = re.findall(r"exmap:(exmap_\w+)", line)
        self.attached_at: int | None = None
        directory.mkdir()
        self._output = directory / "output"
        with self._output.open("wb") as output:
            # the numbers of seconds are for people
            command = ["bash", "-c", re.sub(r"sleep \d+", "sleep 3", line)]
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def attached(self) -> bool:
        """Tell whether bpftrace has loaded the programs of all its probes."""
        probes = len(self.events) + self.line.count("interval:")
        links = []
        with contextlib.suppress(FileNotFoundError):
            links = [os.readlink(fd) for fd in Path(f"/proc/{self.process.pid}/fd").iterdir()]
        return links.count("anon_inode:bpf-prog") >= probes

    def saw_something(self) -> bool:
        """Tell whether what was printed shows that the events came."""
        found = self.output()
        if self.line.startswith("perf stat"):
            return all(re.search(rf"\s[1-9][\d,.]* +exmap:{event}\b", found) for event in self.events)
        if self.line.startswith("perf"):
            return all(re.search(rf"exmap:{event}[:(]", found) for event in self.events)
        maps = set(re.findall(r"@(\w*)\S* = \w+\(", self.line))
        prints = "printf" in self.line and re.search(r"^\S+: \d+ pages in \d+ us$", found, re.M)
        return bool(prints or maps) and all(re.search(rf"^@{name}(\[|:)", found, re.M) for name in maps)

    def look(self, rounds: int) -> None:
        """Interrupt a tool that does not end by itself, when enough has happened; rounds of the workload."""
        if "sleep" in self.line:
            return
        if self.line.startswith("perf"):
            enough = self.saw_something()
        else:
            if self.attached_at is None and self.attached():
                self.attached_at = rounds
            enough = self.attached_at is not None and rounds >= self.attached_at + ROUNDS
        if enough:
            os.killpg(self.process.pid, signal.SIGINT)


@contextlib.contextmanager
def workload(directory: Path) -> Iterator[Path]:
    """A file with a character for each round of the workload.

    It has ended before the test has: the look at kernel memory after a test wants regions that stand still.
    """
    rounds = directory / "rounds"
    command = [sys.executable, ROOT / "tests/trace_workload.py", owned_controller()]
    with rounds.open("wb") as output:
        process = subprocess.Popen(command, stdout=output)
    try:
        yield rounds
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def watch(tools: list[Tool], rounds: Path) -> None:
    """Have tools look at the workload until all have ended."""
    end = time.monotonic() + PATIENCE
    try:
        while any(tool.process.poll() is None for tool in tools) and time.monotonic() < end:
            for tool in tools:
                if tool.process.poll() is None:
                    tool.look(rounds.stat().st_size)
            time.sleep(0.2)
    finally:
        for tool in tools:
            if tool.process.poll() is None:
                os.killpg(tool.process.pid, signal.SIGKILL)
                tool.process.wait()


def silent(lines: list[str], directory: Path) -> list[str]:
    """Run lines at the same time; return those that showed nothing, with what they printed."""
    with workload(directory) as rounds:
        tools = [Tool(line, directory / str(number)) for number, line in enumerate(lines)]
        watch(tools, rounds)
    return [f"{tool.line}\n{tool.output()[-1000:]}" for tool in tools if not tool.saw_something()]


def test_a_line_of_each_tool_shows_its_events(tmp_path: Path) -> None:
    first = {re.match(r"\w+(?: [a-z]+)?", line)[0]: line for line in reversed(LINES)}  # type: ignore[index]
    assert {"bpftrace", "perf record", "perf stat", "perf trace"} == set(first)
    assert silent(list(first.values()), tmp_path) == []


@pytest.mark.slow
def test_each_line_shows_its_events(tmp_path: Path) -> None:
    assert len(LINES) >= 15
    assert silent(LINES, tmp_path) == []
