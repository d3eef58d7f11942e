"""make bench: run the benches in guests, hold them against the targets and the last committed figures.

Instructions per operation, counted in an icount guest, do not depend on the
host's load; they may not rise by more than a tenth.  The other figures are
ratios of one run and are held against the targets of `exmapctl bench --check`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kernels
import processes

__all__ = ["METRICS", "TOLERANCE", "main", "regressions", "run_bench"]

TOLERANCE = 1.10
COMMITTED = kernels.ROOT / "docs/bench"
METRICS = ("instructions_per_op", "instructions_per_io")
# of others, which are measured for comparison
FOREIGN = ("how=m", "how=p", "how=f", "how=u", "path=pread", "path=uring")
# what a bench needs besides its name: of ci/vm, and of exmapctl
GUESTS: dict[str, tuple[list[str], list[str]]] = {
    "pages": (["--memory", "8G"], []),
    "presence": (["--memory", "8G"], []),
    "snapshot": (["--memory", "9G"], ["--sizes", "1GiB"]),
    "nvme": (
        # for throughput: what the stock driver transfers is translated by the IOMMU as what we do
        ["--nvme", "256M:fast", "--iommu"],
        ["/dev/nvme0n1", "--overwrite", "--depths", "1,32"],
    ),
}
# more of it where instructions are counted: io_uring's cheapest case
COUNTED = {"nvme": ("--append", "iommu=pt")}
Records = list[dict[str, Any]]


def regressions(before: Records, after: Records) -> list[str]:
    """Return the cases whose instructions per operation rose beyond the tolerance, or that are gone."""
    old = {r["case"]: float(r["value"]) for r in before if r["metric"] in METRICS}
    new = {r["case"]: float(r["value"]) for r in after if r["metric"] in METRICS}
    ours = {case: value for case, value in old.items() if not any(word in case for word in FOREIGN)}
    worse = [f"{case}: not measured" for case in ours if case not in new]
    worse += [
        f"{case}: {value:.0f} instructions, now {new[case]:.0f}"
        for case, value in ours.items()
        if case in new and new[case] > value * TOLERANCE
    ]
    return worse


def run_bench(
    bench: str,
    kernel: str,
    *options: str,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> tuple[Records, int]:
    """Run a bench in a guest, with more options of ci/vm; return its records and its exit code."""
    guest, usual = GUESTS[bench]
    command = ["ci/vm", "run", "--kernel", kernel, *guest, "--load", *options]
    check = [] if "--icount" in options else ["--check"]
    command += ["--", "exmapctl", "bench", bench, *usual, "--json", *check, *arguments]
    with processes.process_group(
        command, cwd=kernels.ROOT, output=subprocess.PIPE, env=environment
    ) as process:
        output, _ = process.communicate()
    try:
        records: Records = json.loads(output)
    except json.JSONDecodeError:
        records = []
    return records, process.returncode


def _one(bench: str, kernel: str, update: bool) -> int:
    file = COMMITTED / f"{bench}-{kernel}.json"
    counted, _ = run_bench(bench, kernel, "--smp", "1", "--icount", *COUNTED.get(bench, ()))
    timed, missed = run_bench(bench, kernel)
    if not counted or not timed:
        print(f"bench {bench} on {kernel}: FAILED: no figures")
        return 1
    before: Records = json.loads(file.read_text())["counted"] if file.exists() else []
    worse = regressions(before, counted)
    for line in worse:
        print(f"bench {bench} on {kernel}: WORSE: {line}")
    print(f"bench {bench} on {kernel}: targets {'missed' if missed else 'met'}, {len(worse)} regressions")
    if update:
        COMMITTED.mkdir(exist_ok=True)
        file.write_text(json.dumps({"counted": counted, "timed": timed}, indent=1) + "\n")
    return 1 if worse or missed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run benches on a kernel; return 0 if no target is missed and nothing got worse."""
    parser = argparse.ArgumentParser(prog="ci/bench.py", description=__doc__)
    parser.add_argument("--kernel", default="6.12")
    parser.add_argument("--update", action="store_true", help="make these the committed figures")
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"of {', '.join(GUESTS)}; else all")
    args = parser.parse_args(argv)
    unknown = set(args.benches) - set(GUESTS)
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}")
    processes.exit_on_signals()
    return max(_one(bench, args.kernel, args.update) for bench in args.benches or GUESTS)


if __name__ == "__main__":
    sys.exit(main())
