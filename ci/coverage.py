"""make coverage: which lines of the module the tests execute.

Builds the module with GCC's own counters (EXMAP_COVERAGE=1), runs tests in a guest, and has
gcov work out the rest.  With --doc the table in the documentation is written anew.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kernels
import processes
import vm
from suite import DISKS, GUEST_NVME, build_programs

__all__ = ["Line", "main", "missed", "percentage", "read_lines", "replace_table", "run_gcov", "table"]

DOCUMENT = kernels.ROOT / "docs/explanation/coverage.md"
KMOD = kernels.ROOT / "kmod"
TESTS = tuple(f"tests/vm/test_{name}.py" for name in ("abi", "fuzz", "lib_c", "netlink", "netlink_nvme"))
WANTED = 85.0
BEGIN, END = "<!-- ci/coverage.py --doc writes from here -->\n", "<!-- to here -->\n"
# of a file: how often each line was executed, and of which function it is
Lines = Mapping[str, Mapping[int, "Line"]]


class Line(NamedTuple):
    """A line that something was made of."""

    runs: int
    function: str


def read_lines(reports: Sequence[Mapping[str, Any]]) -> Lines:
    """Add up gcov's reports, by the path of the source below kmod; inline functions are in several."""
    lines: dict[str, dict[int, Line]] = defaultdict(dict)
    for report in reports:
        for file in report["files"]:
            source = Path(report["current_working_directory"], file["file"]).resolve()
            if not source.is_relative_to(KMOD):
                continue
            found = lines[str(source.relative_to(KMOD))]
            for line in file["lines"]:
                number = line["line_number"]
                before = found[number].runs if number in found else 0
                found[number] = Line(before + line["count"], line.get("function_name", ""))
    return lines


def percentage(lines: Iterable[Line]) -> float:
    """Return the share of lines that were executed."""
    counts = [line.runs > 0 for line in lines]
    return 100 * sum(counts) / len(counts)


def missed(lines: Mapping[int, Line]) -> str:
    """Name the functions with lines that were not executed, and how many: numbers would soon be wrong."""
    functions = Counter(line.function for _, line in sorted(lines.items()) if not line.runs)
    whole = Counter(line.function for line in lines.values())
    return ", ".join(
        f"{name} (all {count})" if count == whole[name] else f"{name} ({count})"
        for name, count in functions.items()
    )


def table(lines: Lines) -> str:
    """Write a row for each file."""
    everything = [line for found in lines.values() for line in found.values()]
    rows = [
        f"| `{file}` | {len(found)} | {percentage(found.values()):.1f} % | {missed(found)} |"
        for file, found in sorted(lines.items())
    ]
    head = ["| file | lines | executed | not executed, by function |", "| --- | --- | --- | --- |"]
    rows.append(f"| all | {len(everything)} | {percentage(everything):.1f} % | |")
    return "\n".join([*head, *rows]) + "\n"


def replace_table(document: str, new: str) -> str:
    """Put a table between the two marks."""
    head, rest = document.split(BEGIN)
    return head + BEGIN + new + END + rest.split(END)[1]


def run_gcov(objects: Path, data: Path) -> list[Mapping[str, Any]]:
    """Run gcov on the files that a guest has left, beside the notes of the compiler."""
    reports = []
    for file in sorted(data.rglob("*.gcda")):
        beside = objects / file.relative_to(data)
        shutil.copy(file, beside)
        done = subprocess.run(
            ["gcov", "--json-format", "--stdout", beside.name],
            cwd=beside.parent,
            stdout=subprocess.PIPE,
            check=True,
        )
        reports += [json.loads(line) for line in done.stdout.splitlines()]
        beside.unlink()
    return reports


def measure(kernel: str, tests: Sequence[str]) -> tuple[Lines, int]:
    """Run tests on a module that counts; return the lines, and the exit code of the tests."""
    os.environ["EXMAP_COVERAGE"] = "1"
    module = kernels.build_module(kernels.find(kernel))
    programs = {"EXMAP_TEST_PROGRAMS": str(build_programs())}
    guest = vm.Guest(kernel=kernel, nvme=DISKS, iommu=True, load=True, timeout=3000.0, environment=programs)
    with vm.results_directory() as out:
        command = ["sh", GUEST_NVME, "exmap2", "sh", "ci/guest-coverage.sh", *tests]
        result = vm.run(guest, command, out=out, log=kernels.ROOT / "build/coverage.log", lock=False)
        return read_lines(run_gcov(module.parent, out / "gcda")), result.returncode or len(result.complaints)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 0 if the tests pass and enough is executed."""
    parser = argparse.ArgumentParser(prog="ci/coverage.py", description=__doc__)
    parser.add_argument("tests", nargs="*", default=TESTS)
    parser.add_argument("--kernel", default="6.12")
    parser.add_argument("--doc", action="store_true", help=f"write {DOCUMENT.name}")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    processes.exit_on_signals()
    lines, failed = measure(args.kernel, args.tests)
    if not lines:
        print("no counters: see build/coverage.log", file=sys.stderr)
        return 1
    print(json.dumps(lines) if args.json else table(lines))
    if args.doc:
        DOCUMENT.write_text(replace_table(DOCUMENT.read_text(), table(lines)))
    everything = [line for found in lines.values() for line in found.values()]
    return int(bool(failed) or percentage(everything) < WANTED)


if __name__ == "__main__":
    sys.exit(main())
