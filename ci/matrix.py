"""make test-matrix: the VM suite on every packaged kernel, and the table of what came out.

`--write` makes the results the table of docs/reference/kernels.md; without it they are only printed.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kernels
import processes
import suite

__all__ = ["PAGE", "main", "packaged", "table", "with_table"]

PAGE = kernels.ROOT / "docs/reference/kernels.md"
BEGIN, END = "<!-- results: make test-matrix WRITE=1 -->\n", "<!-- end -->\n"


def packaged() -> list[str]:
    """Return the kernels of the matrix that Debian has packages of."""
    return [name for name, entry in kernels.matrix().items() if "variant" not in entry]


def table(outcomes: Mapping[str, suite.Outcome]) -> str:
    """Lay out what each kernel came to, by name."""
    lines = ["| kernel | from | passed | failed | skipped |", "| --- | --- | --- | --- | --- |"]
    for name, outcome in outcomes.items():
        entry = kernels.matrix()[name]
        where = entry.get("suite", entry.get("chroot"))
        results = f"{outcome.passed} | {outcome.failed} | {outcome.skipped}"
        lines.append(f"| {kernels.find(name).release} | {where} | {results} |")
    return "\n".join(lines) + "\n"


def with_table(page: str, rows: str) -> str:
    """Return the page with another table between its marks.

    :raises ValueError: it has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks for the table")
    return f"{before}{begin}\n{rows}\n{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite on one kernel after the other; return 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="ci/matrix.py", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the results into {PAGE.name}")
    args = parser.parse_args(argv)
    processes.exit_on_signals()
    os.chdir(kernels.ROOT)
    outcomes = {name: suite.run_part(f"vm:{name}") for name in packaged()}
    rows = table(outcomes)
    print(f"\n{rows}")
    if args.write:
        PAGE.write_text(with_table(PAGE.read_text(), rows))
    return suite.print_summary(list(outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
