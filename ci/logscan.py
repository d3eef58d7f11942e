"""Find what must not stand in a kernel log."""

import re
from collections.abc import Iterable

__all__ = ["complaints", "leaks"]

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
)


def complaints(lines: Iterable[str]) -> list[str]:
    """Return the lines of a kernel log that mean trouble, in order."""
    return [line.rstrip("\n") for line in lines if _BAD.search(line) and not _HARMLESS.search(line)]


def leaks(report: str, module: range) -> list[str]:
    """Return the objects of a kmemleak report that the module allocated, with their backtraces.

    module is where it was loaded: an unloaded module has no symbols any more.
    """
    objects = re.split(r"^(?=unreferenced object)", report, flags=re.MULTILINE)
    return [text.rstrip("\n") for text in objects if _is_ours(text, module)]


def _is_ours(text: str, module: range) -> bool:
    bare = (int(address, 16) for address in re.findall(r"\] 0x([0-9a-f]+)$", text, re.MULTILINE))
    return "[exmap]" in text or any(address in module for address in bare)
