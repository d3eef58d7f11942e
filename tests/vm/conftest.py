"""What VM tests share: the programs of tests/c, and a look at kernel memory after each test.

Regions that are still open are looked at past the module, while the test's fixtures are alive:
afterwards there is nothing left to look at.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parents[1] / "c"
SECTIONS = Path("/sys/module/exmap/sections")
CPUS = Path("/sys/devices/system/cpu")
# of reading a list that changes meanwhile
ATTEMPTS = 5


class Inspector:
    """Opens kernel memory once for each time that the module is loaded, and finds what is broken."""

    def __init__(self) -> None:
        self._loaded: tuple[str, ...] = ()

    def look(self) -> list[str]:
        # takes seconds to import, and tests that need no module do without
        import drgn
        import exmap_drgn

        try:
            loaded = tuple((SECTIONS / name).read_text() for name in (".text", ".data"))
        except FileNotFoundError:
            return []
        if loaded != self._loaded:
            self._prog = exmap_drgn.open_live(os.environ["EXMAP_KO"])
            self._loaded = loaded
        for _ in range(ATTEMPTS - 1):
            # a process that the test has left behind may close its region just now
            with contextlib.suppress(drgn.FaultError):
                return self._findings()
        return self._findings()

    def _findings(self) -> list[str]:
        import exmap_drgn

        return [
            f"region {finding.region}: {finding.what}: {finding.where}"
            for region in exmap_drgn.for_each_exmap_region(self._prog)
            for finding in exmap_drgn.check_region(region)
        ]


INSPECTOR = Inspector()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """Fail a test after which an invariant is broken; its fixtures are taken down all the same."""
    findings = INSPECTOR.look()
    yield
    if findings:
        pytest.fail("\n".join(["kernel memory:", *findings[:20]]), pytrace=False)


@pytest.fixture
def one_cpu() -> Generator[None]:
    """Leave the guest one CPU, for tests in which trace points come and go.

    Enabling one has the kernel put a breakpoint into running code for a moment.  QEMU's emulation of several
    CPUs now and then goes on executing it when it is gone, and the kernel panics (docs/decisions.md).
    """
    others = sorted(CPUS.glob("cpu[1-9]*/online"))
    for cpu in others:
        cpu.write_text("0")
    yield
    for cpu in others:
        cpu.write_text("1")


@pytest.fixture(scope="session")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Finds a program of tests/c by its name; makes it if nobody did before the guest started."""
    made = os.environ.get("EXMAP_TEST_PROGRAMS")
    out = Path(made) if made else tmp_path_factory.mktemp("c")

    def find(name: str) -> Path:
        if not made:
            subprocess.run(["make", "-s", "-C", str(PROGRAMS), f"OUT={out}", name], check=True)
        return out / name

    return find
