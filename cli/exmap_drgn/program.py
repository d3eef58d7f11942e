"""A drgn program that knows exmap, without the kernel's debug package."""

import errno
from collections.abc import Iterable
from pathlib import Path

import drgn

__all__ = ["ExmapNotLoaded", "NoDebugInfo", "load_exmap", "open_live"]

SECTIONS = Path("/sys/module/exmap/sections")
KALLSYMS = Path("/proc/kallsyms")
# what tells frames' numbers; everything else that we read is the module's
KERNEL_SYMBOLS = frozenset({"vmemmap_base"})


class ExmapNotLoaded(OSError):
    """The module is not in the kernel."""

    def __init__(self) -> None:
        super().__init__(errno.ENOENT, "exmap is not loaded: 'exmapctl load' does it")


class NoDebugInfo(OSError):
    """The file given is no exmap.ko with DWARF, or not the one that is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOEXEC, f"{path} has no debugging information of the loaded exmap.ko")


def open_live(module: str | Path) -> drgn.Program:
    """Open the running kernel; `module` is the exmap.ko that is loaded, built with -g.

    :raises ExmapNotLoaded: it is not.
    :raises PermissionError: the caller may not read /proc/kcore or the sections' addresses.
    :raises NoDebugInfo: see there.
    """
    prog = drgn.Program()
    prog.set_kernel()
    load_exmap(prog, module)
    return prog


def load_exmap(prog: drgn.Program, module: str | Path) -> None:
    """Teach a program of the running kernel the module's symbols and types.

    Errors are those of `open_live`.
    """
    try:
        sections = {path.name: int(path.read_text(), 16) for path in SECTIONS.iterdir()}
    except FileNotFoundError:
        raise ExmapNotLoaded from None
    symbols = _read_symbols(KERNEL_SYMBOLS)
    prog.register_symbol_finder(
        "exmap", lambda _prog, name, address, one: _find(symbols, name, address), enable_index=0
    )
    loaded = prog.relocatable_module("exmap", sections[".text"], create=True)
    loaded.section_addresses.update(sections)
    loaded.try_file(str(module))
    if loaded.debug_file_status != drgn.ModuleFileStatus.HAVE:
        raise NoDebugInfo(str(module))


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
