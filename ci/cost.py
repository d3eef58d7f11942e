"""What counters and tracepoints cost: bench pages, counted in icount guests, against builds without them.

Fails if either adds more to a case than its limit, in parts of a hundred.  EXMAP_NO_COUNTERS
is of this project, NOTRACE of the kernel's tracepoint.h.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench
import kernels
import processes

__all__ = ["WITHOUT", "added", "main"]

# what is left out of a build, and its limit
WITHOUT = {"counters": ("-DEXMAP_NO_COUNTERS", 3.0), "events": ("-DNOTRACE", 3.0)}
Figures = Mapping[str, float]


def added(whole: Figures, without: Figures) -> dict[str, float]:
    """Return by how many per cent each of our cases is dearer than without something.

    :raises KeyError: one of the builds lacks a case.
    """
    return {case: 100 * (value / without[case] - 1) for case, value in whole.items() if "free=" in case}


def _measure(kernel: str, flags: str) -> Figures:
    records, _ = bench.run_bench(
        *("pages", kernel, "--no-lock"),
        counted=True,
        arguments=["--quick"],
        environment=os.environ | {"KCFLAGS": flags},
    )
    return {record["case"]: record["value"] for record in records if record["metric"] in bench.METRICS}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 0 if all are within their limits."""
    parser = argparse.ArgumentParser(prog="ci/cost.py", description=__doc__)
    parser.add_argument("--kernel", default="6.12")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    processes.exit_on_signals()
    whole = _measure(args.kernel, "")
    costs = {name: added(whole, _measure(args.kernel, flags)) for name, (flags, _) in WITHOUT.items()}
    kernels.build_module(kernels.find(args.kernel))
    if not whole:
        print("no figures", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"instructions": whole, "added_percent": costs}, indent=1))
    else:
        for case in costs["counters"]:
            parts = ", ".join(f"{name} {percent[case]:+.2f} %" for name, percent in costs.items())
            print(f"{case}: {whole[case]:.1f} instructions a page; {parts}")
    return int(any(max(costs[name].values()) > limit for name, (_, limit) in WITHOUT.items()))


if __name__ == "__main__":
    sys.exit(main())
