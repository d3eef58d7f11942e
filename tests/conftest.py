"""Rules for all tests: what is collected where, and a look at the kernel log after each VM test."""

import os
from collections.abc import Iterator
from pathlib import Path

import logscan
import pytest

IN_GUEST = os.environ.get("EXMAP_VM") == "1"
VM_TESTS = Path(__file__).parent / "vm"

collect_ignore = [] if IN_GUEST else ["vm"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if VM_TESTS in item.path.parents:
            item.add_marker(pytest.mark.vm)
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(skip)


class KernelLog:
    """Reads what the kernel logs from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def news(self) -> list[str]:
        lines = []
        while True:
            try:
                record = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                lines.append("BUG: the log was overrun; complaints may be lost")
                continue
            lines += record.split(";", 1)[-1].splitlines()

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture(autouse=True)
def clean_kernel_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a VM test after which the kernel has complained."""
    if not IN_GUEST:
        yield
        return
    log = KernelLog()
    try:
        yield
        complaints = logscan.complaints(log.news())
    finally:
        log.close()
    if complaints:
        pytest.fail("kernel log:\n" + "\n".join(complaints))
