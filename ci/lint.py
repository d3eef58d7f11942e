"""The linters: each is a command, or a function, that has to say nothing."""

import os
import re
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import abidoc
import kernels

__all__ = ["CHECKS", "Check", "function_lengths", "main", "run_check"]

LONGEST = 80
MEDIAN = 25
FORBIDDEN = re.compile(r"\bBUG_ON\(|\bBUG\(\)|kallsyms_lookup_name|register_kprobe|write_cr0|__flush_tlb_all")
# What checkpatch cannot know: the layout of TRACE_EVENT, and version checks.
CHECKPATCH_IGNORE = {
    "trace.h": ["OPEN_ENDED_LINE", "PARENTHESIS_ALIGNMENT"],
    "compat.h": ["CONSTANT_COMPARISON"],
}
PYTHON = ["ci", "cli", "dbms", "libexmap", "tests", "setup.py"]


@dataclass(frozen=True, slots=True)
class Check:
    """A linter: it returns None, or what is wrong."""

    name: str
    run: Callable[[], str | None]


def _command(*argv: str) -> str | None:
    done = subprocess.run(
        argv, cwd=kernels.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout if done.returncode else None


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _ruff() -> str | None:
    return _command(_tool("ruff"), "check", "--no-cache", *PYTHON)


def _format() -> str | None:
    return _command(_tool("ruff"), "format", "--no-cache", "--check", *PYTHON)


def _mypy() -> str | None:
    files = ["ci", "cli/exmap_drgn", "cli/exmap_netlink", "cli/exmapctl", "dbms/exmapdb", "libexmap/libexmap"]
    return _command(_tool("mypy"), f"--cache-dir={kernels.ROOT}/build/mypy", *files)


def _kmod_sources() -> list[Path]:
    kmod = kernels.ROOT / "kmod"
    return sorted(path for path in kmod.rglob("*.[ch]") if not path.name.endswith(".mod.c"))


def _forbidden() -> str | None:
    found = [
        f"{path.relative_to(kernels.ROOT)}:{number}: {line.strip()}"
        for path in _kmod_sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    return "\n".join(found) or None


def _checkpatch_script() -> Path | None:
    candidates = [Path(os.environ.get("EXMAP_CHECKPATCH", "/nonexistent"))]
    candidates += sorted(kernels.cache_dir().glob("checkpatch/*/scripts/checkpatch.pl"))
    return next((path for path in candidates if path.exists()), None)


def _checkpatch() -> str | None:
    script = _checkpatch_script()
    if script is None:
        return "checkpatch.pl is missing: run 'make setup'"
    options = ["--strict", "--no-tree", "--terse", "--no-summary", "--max-line-length=100", "-f"]
    found = []
    for path in _kmod_sources():
        ignore = f"--ignore={','.join(['LINUX_VERSION_CODE', *CHECKPATCH_IGNORE.get(path.name, [])])}"
        found.append(_command("perl", str(script), ignore, *options, str(path)))
    return "".join(filter(None, found)) or None


def _sparse(name: str) -> str | None:
    kernel = kernels.find(name)
    try:
        # everything anew, so that sparse sees it
        for stale in (kernels.ROOT / "build" / f"kmod-{kernel.release}").rglob("*.o"):
            stale.unlink()
        module = kernels.build_module(kernel, "C=2", "W=1")
    except kernels.ModuleBuildFailed as error:
        return str(error)
    lines = (module.parent / "build.log").read_text().splitlines()
    found = [line for line in lines if "warning:" in line or "error:" in line]
    return "\n".join(found) or None


def function_lengths(text: str) -> dict[str, int]:
    """Return the length in lines of each function of a C file in kernel style."""
    lengths: dict[str, int] = {}
    name, begin = "", 0
    for number, line in enumerate(text.splitlines()):
        if line == "{":
            begin = number
        elif line == "}" and begin:
            lengths[name] = number - begin + 1
            begin = 0
        elif not begin and (match := re.match(r"^[a-z_].*?\b(\w+)\(", line)):
            name = match.group(1)
    return lengths


def _lengths() -> str | None:
    lengths: dict[str, int] = {}
    for path in _kmod_sources():
        lengths |= {f"{path.name}:{name}": n for name, n in function_lengths(path.read_text()).items()}
    long = [f"{name}: {n} lines" for name, n in lengths.items() if n > LONGEST]
    median = statistics.median(lengths.values())
    print(f"    {len(lengths)} functions in kmod, median {median:.0f} lines, longest {max(lengths.values())}")
    if median >= MEDIAN:
        long.append(f"median {median}")
    return "\n".join(long) or None


def _python_lengths() -> str | None:
    long = []
    for folder in PYTHON[:-1]:
        for path in (kernels.ROOT / folder).rglob("*.py"):
            n = len(path.read_text().splitlines())
            if n > 500:
                long.append(f"{path.relative_to(kernels.ROOT)}: {n} lines")
    return "\n".join(long) or None


def _user_c() -> str | None:
    flags = [
        "-std=gnu11",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Ilibexmap/include",
        "-Ikmod/uapi",
    ]
    folders = ["libexmap/src", "cli/native", "dbms/native"]
    sources = [str(path) for folder in folders for path in sorted((kernels.ROOT / folder).rglob("*.c"))]
    includes = [f"-I{folder}" for folder in [*folders, sysconfig.get_path("include")]]
    return _command("gcc", *flags, *includes, *sources) if sources else None


def _abi_pages() -> str | None:
    pages = abidoc.stale()
    return f"{', '.join(pages)}: stale: run 'make docs'" if pages else None


CHECKS = (
    Check("ruff check", _ruff),
    Check("ruff format", _format),
    Check("mypy --strict", _mypy),
    Check("python file lengths", _python_lengths),
    Check("user C warnings", _user_c),
    Check("ABI reference is fresh", _abi_pages),
    Check("kmod forbidden words", _forbidden),
    Check("kmod function lengths", _lengths),
    Check("kmod checkpatch --strict", _checkpatch),
    Check("kmod sparse and W=1, 6.1", lambda: _sparse("6.1")),
    Check("kmod sparse and W=1, 6.12", lambda: _sparse("6.12")),
)


def run_check(check: Check) -> str | None:
    """Run one check, print the outcome, and return what is wrong or None."""
    problem = check.run()
    print(f"{'FAILED' if problem else 'ok    '} {check.name}", flush=True)
    if problem:
        print("\n".join(f"    {line}" for line in problem.splitlines()[:60]), flush=True)
    return problem


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks, or those whose name has a word of the arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = [check for check in CHECKS if not words or any(word in check.name for word in words)]
    return 1 if [check for check in chosen if run_check(check)] else 0


if __name__ == "__main__":
    sys.exit(main())
