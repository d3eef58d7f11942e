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

pytestmark = pytest.mark.usefixtures("one_cpu")
ROOT = Path(__file__).resolve().parents[2]
# bpftrace needs the kernel's types, which debug kernels do not bring
BPFTRACE = ["bpftrace"] if Path("/sys/kernel/btf/vmlinux").exists() else []
TOOLS = ("perf record", "perf stat", "perf trace", *BPFTRACE)
LINES = re.findall(
    rf"^    ((?:{'|'.join(TOOLS)}) .*?)(?: +# .*)?$", (ROOT / "docs/reference/tracing.md").read_text(), re.M
)
# tools start slowly, and here there are many of them
PATIENCE = 900
ROUNDS = 3


class Tool:
    """One line in a shell, in a directory and a process group of its own."""

    def __init__(self, line: str, directory: Path, rounds: Path) -> None:
        self.line = line
        self.events = re.findall(r"exmap:(exmap_\w+)", line)
        directory.mkdir()
        self._output = directory / "output"
        with self._output.open("wb") as output:
            # seconds are for people: here it is rounds of the workload that have to pass
            pause = f"bash -c 'tail -c 0 -f {rounds} | head -c {ROUNDS}'"
            command = ["bash", "-c", re.sub(r"sleep \d+", pause, line)]
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

    def loaded(self) -> bool:
        """Tell whether bpftrace has loaded the programs of all its probes, and so handles signals."""
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
        maps = set(re.findall(r"@(\w*)(?:\[[^\]]*\])? = \w+\(", self.line))
        prints = "printf" in self.line and re.search(r"^\S+: \d+ pages in \d+ us$", found, re.M)
        return bool(prints or maps) and all(re.search(rf"^@{name}(\[|:)", found, re.M) for name in maps)

    def look(self) -> None:
        """Interrupt a tool that has seen something and does not end by itself; have bpftrace print."""
        if "sleep" in self.line:
            return
        if self.saw_something():
            os.killpg(self.process.pid, signal.SIGINT)
        elif self.line.startswith("bpftrace") and self.loaded():
            os.kill(self.process.pid, signal.SIGUSR1)


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


def watch(tools: list[Tool]) -> None:
    """Have tools look at the workload until all have ended."""
    end = time.monotonic() + PATIENCE
    try:
        while any(tool.process.poll() is None for tool in tools) and time.monotonic() < end:
            for tool in tools:
                if tool.process.poll() is None:
                    tool.look()
            time.sleep(0.2)
    finally:
        for tool in tools:
            if tool.process.poll() is None:
                os.killpg(tool.process.pid, signal.SIGKILL)
                tool.process.wait()


def silent(lines: list[str], directory: Path) -> list[str]:
    """Run lines at the same time; return those that showed nothing, with what they printed."""
    with workload(directory) as rounds:
        tools = [Tool(line, directory / str(number), rounds) for number, line in enumerate(lines)]
        watch(tools)
    return [f"{tool.line}\n{tool.output()[-1000:]}" for tool in tools if not tool.saw_something()]


def test_a_line_of_each_tool_shows_its_events(tmp_path: Path) -> None:
    first = [next(line for line in LINES if line.startswith(tool)) for tool in TOOLS]
    assert silent(first, tmp_path) == []


@pytest.mark.slow
def test_each_line_shows_its_events(tmp_path: Path) -> None:
    assert len(LINES) >= 6
    assert silent(LINES, tmp_path) == []
