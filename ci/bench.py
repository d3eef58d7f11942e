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
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Bench:
    """A command, and the options of ci/vm for its guest.

    counts: it runs where instructions are counted, too; with what is other, or more, there.
    """

    command: Sequence[str]
    guest: Sequence[str] = ()
    counts: bool = True
    counted_command: Sequence[str] = ()
    counted_guest: Sequence[str] = ()


def of_exmapdb(*options: str, counted: Sequence[str] = ()) -> Bench:
    """Return a bench of exmapdb on owned NVMe queues, its peers on a file system on another disk."""
    bench = 'exec exmapdb bench --device nvme:$EXMAP_NVME --folder /tmp/disk --json "$@"'
    prepare = ("sh", "ci/guest-nvme.sh", "exmap0", "sh", "ci/guest-disk.sh", "exmap1", "/tmp/disk")
    command = [*prepare, "sh", "-c", bench, "exmapdb", *options]
    guest = ("--nvme", "2G:fast,2G:fast", "--iommu", "--memory", "4G", "--timeout", "3600")
    return Bench(command, guest, bool(counted), counted)


def of_exmapctl(name: str, *options: str) -> tuple[str, ...]:
    """Return a command of exmapctl."""
    return ("exmapctl", "bench", name, *options, "--json")


ONE_TABLE = "ycsb-a,ycsb-b,ycsb-c,ycsb-d,ycsb-e,ycsb-f,update,mixed"
IN_MEMORY = (
    "exmapdb",
    "bench",
    "--workloads",
    "ycsb-c,update,ycsb-e",
    "--rows",
    "20000",
    "--no-durable",
    "--json",
)
BENCHES = {
    "pages": Bench(of_exmapctl("pages"), ("--memory", "8G")),
    "presence": Bench(of_exmapctl("presence"), ("--memory", "8G")),
    "snapshot": Bench(of_exmapctl("snapshot", "--sizes", "1GiB"), ("--memory", "9G")),
    "nvme": Bench(
        of_exmapctl("nvme", "/dev/nvme0n1", "--overwrite", "--depths", "1,32"),
        # for throughput: what the stock driver transfers is translated by the IOMMU as what we do
        ("--nvme", "256M:fast", "--iommu"),
        # io_uring's cheapest case
        counted_guest=("--append", "iommu=pt"),
    ),
    "exmapdb": of_exmapdb("--workloads", ONE_TABLE, "--beside", "background", counted=IN_MEMORY),
    # with all rows that the standard wants an emulated guest loads tables for a quarter of an hour
    "exmapdb-tpcc": of_exmapdb("--workloads", "tpcc", "--customers", "100", "--items", "1000"),
    "exmapdb-4x": of_exmapdb("--workloads", "ycsb-c", "--data", "4x", "--keys", "uniform"),
    "exmapdb-writers": of_exmapdb("--workloads", "update,mixed", "--threads", "2", "--peers", "sqlite"),
}
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
    name: str,
    kernel: str,
    *options: str,
    counted: bool = False,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> tuple[Records, int]:
    """Run a bench in a guest, with more options of ci/vm; return its records and its exit code.

    counted: in one whose clock counts instructions; else held against its targets.
    """
    bench = BENCHES[name]
    command = ["ci/vm", "run", "--kernel", kernel, "--load", *options]
    if not counted:
        command += [*bench.guest, "--", *bench.command, "--check"]
    elif bench.counted_command:
        command += ["--smp", "1", "--icount", "--", *bench.counted_command]
    else:
        command += [*bench.guest, *bench.counted_guest, "--smp", "1", "--icount", "--", *bench.command]
    with processes.process_group(
        [*command, *arguments], cwd=kernels.ROOT, output=subprocess.PIPE, env=environment
    ) as process:
        output, _ = process.communicate()
    try:
        records: Records = json.loads(output)
    except json.JSONDecodeError:
        records = []
    return records, process.returncode


def _one(name: str, kernel: str, update: bool) -> int:
    file = COMMITTED / f"{name}-{kernel}.json"
    counts = BENCHES[name].counts
    counted: Records = run_bench(name, kernel, counted=True)[0] if counts else []
    timed, missed = run_bench(name, kernel)
    if not timed or (counts and not counted):
        print(f"bench {name} on {kernel}: FAILED: no figures")
        return 1
    before: Records = json.loads(file.read_text())["counted"] if file.exists() else []
    worse = regressions(before, counted)
    for line in worse:
        print(f"bench {name} on {kernel}: WORSE: {line}")
    print(f"bench {name} on {kernel}: targets {'missed' if missed else 'met'}, {len(worse)} regressions")
    if update:
        COMMITTED.mkdir(exist_ok=True)
        file.write_text(json.dumps({"counted": counted, "timed": timed}, indent=1) + "\n")
    return 1 if worse or missed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run benches on a kernel; return 0 if no target is missed and nothing got worse."""
    parser = argparse.ArgumentParser(prog="ci/bench.py", description=__doc__)
    parser.add_argument("--kernel", default="6.12")
    parser.add_argument("--update", action="store_true", help="make these the committed figures")
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; else all")
    args = parser.parse_args(argv)
    unknown = set(args.benches) - set(BENCHES)
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}")
    processes.exit_on_signals()
    return max(_one(bench, args.kernel, args.update) for bench in args.benches or BENCHES)


if __name__ == "__main__":
    sys.exit(main())
