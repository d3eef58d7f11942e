"""Run the parts of the test suite and add up what they say.

Parts: lint, host, crash, vm:KERNEL, vm-short:KERNEL, vm-faults:KERNEL; the last two are
skipped if that kernel is not there.  Parts joined by a plus run side by side: a guest's tests keep one
CPU busy.  The last line printed is "N passed, N failed, N skipped", a lost guest
and a failed linter being failures.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kernels
import lint
import processes
import vm

__all__ = ["Outcome", "build_programs", "main", "print_summary", "read_cases", "read_junit", "run_together"]

GUEST_SUITE = "ci/guest-suite.sh"
# two for files and blocks, one for exmap-nvme, one with bad blocks, and those of test_nvme_devices.py
DISKS = ("512M", "512M", "256M", "16M:bad", *["16M:hot"] * 4, "33554944:slow", "32M:4k", "16M:meta", "16M:2k")
# takes the serial number of a disk, then a command
GUEST_NVME = "ci/guest-nvme.sh"
HEARTBEAT = 60.0
# a case of tests/c/abi that lacks something exits with
SKIP = 77
CASES_SECONDS = 900.0
# in which threads and processes meet at random
RACES = ("tests/vm/test_snapshot.py", "tests/vm/test_fuzz.py")


@dataclass(slots=True)
class Outcome:
    """What one part of the suite came to."""

    part: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0

    def fail(self, what: str) -> None:
        self.failed += 1
        self.failures.append(what)


def read_junit(path: Path, outcome: Outcome) -> None:
    """Add the results of a JUnit file; a file that is missing or cut is a failure."""
    try:
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        outcome.fail(f"no results: {error}")
        return
    for case in root.iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.fail(name)
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def run_lint(outcome: Outcome) -> None:
    """Run every linter; each counts as one test."""
    for check in lint.CHECKS:
        problem = lint.run_check(check)
        if problem is None:
            outcome.passed += 1
        else:
            outcome.fail(f"lint {check.name}")


def run_here(outcome: Outcome) -> None:
    """Run a directory of tests on this machine: host, or crash, whose tests boot guests of their own."""
    report = kernels.ROOT / f"build/junit-{outcome.part}.xml"
    report.unlink(missing_ok=True)
    returncode = processes.run(_pytest(f"tests/{outcome.part}", f"--junitxml={report}"), cwd=kernels.ROOT)
    read_junit(report, outcome)
    if returncode and not outcome.failed:
        outcome.fail(f"pytest ended with {returncode}")


def _vm_guest(kernel: str) -> vm.Guest:
    guest = vm.Guest(kernel=kernel, nvme=DISKS, iommu=True, load=True, timeout=2100.0)
    if kernel.startswith("debug"):
        return dataclasses.replace(guest, kmemleak=True, timeout=5400.0)
    return guest


def share_of(tests: Sequence[str], share: str) -> list[str]:
    """Return the n-th of m shares of the tests, by "n/m"; all of them by ""."""
    number, _, shares = (share or "1/1").partition("/")
    return list(tests[int(number) - 1 :: int(shares)])


def _vm_tests() -> list[str]:
    return sorted(
        str(path.relative_to(kernels.ROOT)) for path in (kernels.ROOT / "tests/vm").glob("test_*.py")
    )


def _add_complaints(outcome: Outcome, result: vm.Result) -> None:
    outcome.failures += [f"kernel log: {line}" for line in result.complaints[:10]]
    outcome.failed += bool(result.complaints)


def run_vm(outcome: Outcome, kernel: str, lock: bool, tests: Sequence[str]) -> None:
    """Run files of tests/vm in one boot of a kernel; without `lock` beside other guests."""
    log = kernels.ROOT / f"build/{outcome.part.replace(':', '-').replace('/', 'of')}.log"
    guest = dataclasses.replace(_vm_guest(kernel), environment={"EXMAP_TEST_PROGRAMS": str(build_programs())})
    with vm.results_directory() as out:
        command = ["sh", GUEST_NVME, "exmap2", "sh", GUEST_SUITE, *tests]
        result = vm.run(guest, command, out=out, log=log, lock=lock)
        read_junit(out / "junit.xml", outcome)
    _add_complaints(outcome, result)
    if result.returncode and not outcome.failed:
        outcome.fail(f"the suite ended with {result.returncode}")


def read_cases(path: Path, names: Sequence[str], outcome: Outcome) -> None:
    """Add the exit codes that guest-abi.sh wrote; a case that is missing is a failure."""
    lines = path.read_text().splitlines() if path.exists() else []
    codes = {name: int(code) for code, name in (line.split() for line in lines)}
    for name in names:
        if codes.get(name) == 0:
            outcome.passed += 1
        elif codes.get(name) == SKIP:
            outcome.skipped += 1
        else:
            outcome.fail(f"{name}: {codes.get(name, 'did not run')}")


def build_programs() -> Path:
    """Make the C programs of the tests; return their directory."""
    out = kernels.ROOT / "build/tests-c"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", "-C", str(kernels.ROOT / "tests/c"), f"OUT={out}"], check=True)
    return out


def run_cases(outcome: Outcome, kernel: str, lock: bool, program: str, kmemleak: bool = False) -> None:
    """Run the cases of a C program, and nothing else, on a kernel that not everyone has."""
    try:
        kernels.find(kernel)
    except kernels.KernelMissing as error:
        outcome.skipped = 1
        outcome.note = f"skipped: {error}"
        return
    path = str(build_programs() / program)
    cases = subprocess.run([path, "list"], stdout=subprocess.PIPE, text=True, check=True)
    guest = vm.Guest(
        kernel=kernel, nvme=("256M",), iommu=True, load=True, kmemleak=kmemleak, timeout=CASES_SECONDS
    )
    command = ["sh", GUEST_NVME, "exmap0", "sh", "ci/guest-abi.sh", path]
    log = kernels.ROOT / f"build/vm-{program}-{kernel}.log"
    with vm.results_directory() as out:
        try:
            result = vm.run(guest, command, out=out, log=log, lock=lock)
        finally:
            read_cases(out / "cases", cases.stdout.split(), outcome)
    _add_complaints(outcome, result)


def _run_part(part: str, outcome: Outcome, lock: bool) -> None:
    if part == "lint":
        run_lint(outcome)
    elif part in ("host", "crash"):
        run_here(outcome)
    elif part.startswith("vm-short:"):
        run_cases(outcome, part.removeprefix("vm-short:"), lock, "abi")
    elif part.startswith("vm-races:"):
        run_vm(outcome, part.removeprefix("vm-races:"), lock, RACES)
    elif part.startswith("vm-faults:"):
        run_cases(outcome, part.removeprefix("vm-faults:"), lock, "faults", kmemleak=True)
    elif part.startswith("vm:"):
        kernel, _, share = part.removeprefix("vm:").partition("@")
        run_vm(outcome, kernel, lock, share_of(_vm_tests(), share))
    else:
        outcome.fail(f"no part {part!r}")


def run_part(part: str, lock: bool = True) -> Outcome:
    """Run one part by name; whatever it raises is a failure of that part."""
    outcome = Outcome(part)
    begin = time.monotonic()
    print(f"\n=== {part}", flush=True)
    try:
        _run_part(part, outcome, lock)
    except (vm.GuestError, kernels.KernelMissing, kernels.ModuleBuildFailed) as error:
        outcome.fail(f"{type(error).__name__}: {error}")
    except Exception as error:  # the other parts still run, and the summary says so
        traceback.print_exc()
        outcome.fail(f"{type(error).__name__}: {error}")
    outcome.seconds = time.monotonic() - begin
    return outcome


def _wait_for(running: dict[str, subprocess.Popen[bytes]]) -> None:
    """Wait for all of them, and say from time to time that it is not over."""
    begin = said = time.monotonic()
    while any(process.poll() is None for process in running.values()):
        time.sleep(0.5)
        if time.monotonic() - said >= HEARTBEAT:
            said = time.monotonic()
            busy = [part for part, process in running.items() if process.returncode is None]
            print(f"{said - begin:5.0f} s: {', '.join(busy)}", flush=True)


def _read_outcome(path: Path, part: str) -> Outcome:
    try:
        return Outcome(**json.loads(path.read_text()))
    except (OSError, ValueError):
        outcome = Outcome(part)
        outcome.fail("ended without an outcome")
        return outcome


def run_together(parts: Sequence[str]) -> list[Outcome]:
    """Run parts in processes of their own, at the same time; what they print comes when all have ended."""
    print(f"\n=== {', '.join(parts)}, side by side", flush=True)
    build = kernels.ROOT / "build"
    outputs = {part: build / f"part-{number}.out" for number, part in enumerate(parts)}
    results = {part: build / f"part-{number}.json" for number, part in enumerate(parts)}
    with contextlib.ExitStack() as stack:
        if any(part.startswith("vm") for part in parts):
            stack.enter_context(vm.only_guest())
        running = {}
        for part in parts:
            results[part].unlink(missing_ok=True)
            output = stack.enter_context(outputs[part].open("wb"))
            command = [sys.executable, "ci/suite.py", "--outcome", str(results[part]), part]
            running[part] = stack.enter_context(
                processes.process_group(command, output=output, errors=subprocess.STDOUT)
            )
        _wait_for(running)
    for part in parts:
        print(outputs[part].read_text(errors="replace"), flush=True)
    return [_read_outcome(results[part], part) for part in parts]


def _run_parts(parts: Sequence[str]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for part in parts:
        outcomes += run_together(part.split("+")) if "+" in part else [run_part(part)]
    return outcomes


def print_summary(outcomes: Sequence[Outcome]) -> int:
    """Print what every part came to; return 0 if nothing failed."""
    print("\n=== summary")
    for outcome in outcomes:
        print(
            f"{outcome.part:14} {outcome.passed:5} passed {outcome.failed:4} failed"
            f" {outcome.skipped:4} skipped {outcome.seconds:7.0f} s  {outcome.note}".rstrip()
        )
        for failure in outcome.failures:
            print(f"    FAILED {failure}")
    failed = sum(outcome.failed for outcome in outcomes)
    passed = sum(outcome.passed for outcome in outcomes)
    print(
        f"{passed} passed, {failed} failed, {sum(outcome.skipped for outcome in outcomes)} skipped",
        flush=True,
    )
    return 1 if failed or not passed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are named; return 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="ci/suite.py", description=__doc__)
    parser.add_argument("parts", nargs="+", metavar="PART[+PART...]")
    parser.add_argument(
        "--outcome", type=Path, help="run one part, beside others, and write its outcome here"
    )
    args = parser.parse_args(argv)
    processes.exit_on_signals()
    os.chdir(kernels.ROOT)
    (kernels.ROOT / "build").mkdir(exist_ok=True)
    if args.outcome:
        outcome = run_part(args.parts[0], lock=False)
        args.outcome.write_text(json.dumps(dataclasses.asdict(outcome)))
        return int(outcome.failed > 0)
    return print_summary(_run_parts(args.parts))


if __name__ == "__main__":
    sys.exit(main())
