"""Read what a guest left behind: what must not stand in a kernel log, and how a lost guest ended."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["complaints", "last_words", "leaks", "log_lines"]

_BAD = re.compile(
    r"""
      \bWARNING:\ | \bBUG\b[: ] | kernel\ BUG\ at | \bOops\b | general\ protection\ fault
    | Bad\ page | Bad\ rss-counter | bad\ pmd | bad\ pte | non-zero\ pgtables_bytes
    | KASAN: | KCSAN: | UBSAN:
    | possible\ (circular\ locking|recursive\ locking|deadlock) | inconsistent\ lock\ state
    | suspicious\ RCU | sleeping\ function\ called | scheduling\ while\ atomic | MAX_LOCK_DEPTH\ too\ low
    | blocked\ for\ more\ than | soft\ lockup | hard\ LOCKUP | rcu.*detected\ stalls
    | Kernel\ panic | VM_FAULT_OOM\ leaked | exmap:\ .*leak
    """,
    re.VERBOSE,
)
# What a healthy guest prints nevertheless.
_HARMLESS = re.compile(
    r"exmap: loading out-of-tree module taints kernel|module verification failed"
    r"|WARNING: CPU: \d+ PID: \d+ at arch/x86/kernel/cpu/perfctr-watchdog"
    # the guest's init is not the kernel: it misses systemd's tools where the host has none
    r"|\] virtme-ng-init: |^virtme-ng-init: "
)


# The kernel has booted: what it says of itself before is not about the module.
_BOOTED = re.compile(r"\bRun \S+ as init process")


# KCSAN frames its reports with lines of these.
_RULE = "=" * 66


def _foreign_races(lines: Sequence[str]) -> set[int]:
    """Return the numbers of the lines that are about data races of code that is not the module's."""
    found: set[int] = set()
    for first, line in enumerate(lines):
        if "BUG: KCSAN:" in line:
            ends = (n for n in range(first, len(lines)) if _RULE in lines[n])
            report = range(first, next(ends, len(lines)))
            if not any("[exmap]" in lines[n] for n in report):
                found.update(report)
    return found


def complaints(lines: Iterable[str]) -> list[str]:
    """Return the lines of a kernel log that mean trouble, in order, from the end of the boot on.

    A timer interrupt that comes early finds KASAN kernels without their shadow, now and then. Data races
    that the kernel has without the module do not count.
    """
    found: list[str] = []
    lines = list(lines)
    foreign = _foreign_races(lines)
    for number, line in enumerate(lines):
        if _BOOTED.search(line):
            found.clear()
        elif _BAD.search(line) and not _HARMLESS.search(line) and number not in foreign:
            found.append(line.rstrip("\n"))
    return found


# An address in the modules' area without a name: a function of a module that was
# unloaded, or that ran when it was loaded and is gone.
_NAMELESS = re.compile(r"^ +(\[<\w+>\] )?0xffffffff[a-f][0-9a-f]{7}$", re.MULTILINE)


def leaks(report: str) -> list[str]:
    """Return the objects of a kmemleak report that the module allocated, with their backtraces."""
    objects = re.split(r"^(?=unreferenced object)", report, flags=re.MULTILINE)
    return [text.rstrip("\n") for text in objects if "[exmap]" in text or _NAMELESS.search(text)]


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []


def log_lines(out: Path) -> list[str]:
    """Return the kernel's log from a guest's results, or what there is of it."""
    return _lines(out / "dmesg") or _lines(out / "kmsg") + _lines(out / "console")


def last_words(out: Path) -> str:
    """Return how QEMU ended, whether by a triple fault, and the ends of the log and of the console."""
    faults = [line for line in _lines(out / "resets") if "Triple fault" in line]
    ends = [(faults, 1), *((_lines(out / name), 8) for name in ("launcher", "kmsg"))]
    ends.append((_lines(out / "console"), 60))
    return "".join(line for lines, last in ends for line in lines[-last:])
