"""A drgn program that knows exmap, without the kernel's debug package.

The running kernel tells where the module is through /sys. In a core dump, and in a guest that is looked at
from outside, the kernel's own symbol table and list of modules are read out of its memory; the notes that the
kernel keeps for kdump (vmcoreinfo, Linux 6.0 or later) say where to begin.
"""

import errno
from collections.abc import Callable, Iterable
from pathlib import Path

import drgn
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from exmap_drgn.sections import loaded_sections

__all__ = [
    "ExmapNotLoaded",
    "NoDebugInfo",
    "NoKernelNotes",
    "load_exmap",
    "open_dump",
    "open_live",
    "open_qemu",
]

SECTIONS = Path("/sys/module/exmap/sections")
KALLSYMS = Path("/proc/kallsyms")
# what tells frames' numbers and addresses; everything else that we read is the module's
KERNEL_SYMBOLS = frozenset({"vmemmap_base", "page_offset_base"})
THIS_MACHINE = drgn.ProgramFlags.IS_LIVE | drgn.ProgramFlags.IS_LOCAL

Finder = Callable[[drgn.Program, str | None, int | None, bool], list[drgn.Symbol]]


class ExmapNotLoaded(OSError):
    """The module is not in the kernel."""

    def __init__(self, advice: str = ": 'exmapctl load' does it") -> None:
        super().__init__(errno.ENOENT, f"exmap is not loaded{advice}")


class NoDebugInfo(OSError):
    """The file given is no exmap.ko with DWARF, or not the one that is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOEXEC, f"{path} has no debugging information of the loaded exmap.ko")


class NoKernelNotes(OSError):
    """There is memory, but not the notes of a Linux kernel in it."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(errno.ENOEXEC, f"{what} cannot be read as a Linux kernel's memory: {reason}")


def open_live(module: str | Path) -> drgn.Program:
    """Open the running kernel; `module` is the exmap.ko that is loaded, built with -g.

    >>> prog = open_live("exmap.ko")

    :raises ExmapNotLoaded: it is not.
    :raises PermissionError: the caller may not read /proc/kcore or the sections' addresses.
    :raises NoDebugInfo: see there.
    """
    prog = drgn.Program()
    prog.set_kernel()
    load_exmap(prog, module)
    return prog


def open_dump(core: str | Path, module: str | Path) -> drgn.Program:
    """Open a core dump (of kdump, or of QEMU's dump-guest-memory with `-device vmcoreinfo`).

    >>> prog = open_dump("core", "exmap.ko")

    :param module: the exmap.ko that was loaded, built with -g.
    :raises OSError: the dump cannot be read.
    :raises NoKernelNotes: it has no vmcoreinfo.
    :raises ExmapNotLoaded: the module was not in that kernel.
    :raises NoDebugInfo: see there.
    """
    prog = drgn.Program()
    _set_target(prog.set_core_dump, str(core))
    load_exmap(prog, module)
    return prog


def open_qemu(socket: str | Path, module: str | Path) -> drgn.Program:
    """Open a guest that runs in QEMU, which it does meanwhile, through the socket of its monitor (QMP).

    >>> prog = open_qemu("qmp", "exmap.ko")

    The guest needs `-device vmcoreinfo`, and its kernel the module qemu_fw_cfg. Errors as of `open_dump`.
    """
    prog = drgn.Program()
    _set_target(prog.set_qemu_qmp, str(Path(socket).absolute()))
    load_exmap(prog, module)
    return prog


def _set_target(setter: Callable[[str], None], path: str) -> None:
    try:
        setter(path)
    except OSError:
        raise
    except Exception as error:  # drgn has no narrower class for these
        raise NoKernelNotes(path, str(error)) from None


def load_exmap(prog: drgn.Program, module: str | Path) -> None:
    """Teach a program of any Linux kernel the module's symbols and types.

    >>> load_exmap(prog, "exmap.ko")

    Errors are those of `open_live` and `open_dump`.
    """
    if not prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise NoKernelNotes("this", "no vmcoreinfo; QEMU wants -device vmcoreinfo, the guest qemu_fw_cfg")
    if prog.flags & THIS_MACHINE == THIS_MACHINE:
        sections, finder = _ask_kernel()
    else:
        sections, finder = _read_kernel(prog, Path(module))
    prog.register_symbol_finder("exmap", finder, enable_index=0)
    loaded = prog.relocatable_module("exmap", sections[".text"], create=True)
    loaded.section_addresses.update(sections)
    loaded.try_file(str(module))
    if loaded.debug_file_status != drgn.ModuleFileStatus.HAVE:
        raise NoDebugInfo(str(module))


def _ask_kernel() -> tuple[dict[str, int], Finder]:
    try:
        sections = {path.name: int(path.read_text(), 16) for path in SECTIONS.iterdir()}
    except FileNotFoundError:
        raise ExmapNotLoaded from None
    symbols = _read_symbols(KERNEL_SYMBOLS)
    return sections, lambda _prog, name, address, _one: _find(symbols, name, address)


def _read_kernel(prog: drgn.Program, module: Path) -> tuple[dict[str, int], Finder]:
    finder = load_vmlinux_kallsyms(prog)
    [modules] = finder(prog, "modules", None, True)
    try:
        sections = loaded_sections(prog, module, modules.address)
    except ValueError:
        raise NoDebugInfo(str(module)) from None
    if sections is None:
        raise ExmapNotLoaded(" in that kernel")
    return sections, finder


def _read_symbols(names: Iterable[str]) -> dict[str, drgn.Symbol]:
    """Look a few names up in the running kernel: to load all 200,000 takes seconds."""
    missing = set(names)
    found = {}
    with KALLSYMS.open() as lines:
        for line in lines:
            address, _, name = line.split(maxsplit=3)[:3]
            if name in missing:
                missing.discard(name)
                found[name] = drgn.Symbol(
                    name, int(address, 16), 8, drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.OBJECT
                )
                if not missing:
                    break
    return found


def _find(symbols: dict[str, drgn.Symbol], name: str | None, address: int | None) -> list[drgn.Symbol]:
    if name is not None:
        return [symbols[name]] if name in symbols else []
    return [symbol for symbol in symbols.values() if symbol.address == address]
