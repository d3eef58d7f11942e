"""Where a module's sections are, in the memory of a kernel whose sysfs is out of reach.

The kernel keeps the module's symbols with their addresses; the .ko has the same symbols with their offsets
in sections. What one says less what the other says is where a section was loaded. So nothing has to be known
of structures that are private to the kernel.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import drgn

__all__ = ["SymbolTable", "loaded_sections"]

# System V ABI, chapter 4: e_shoff and e_shentsize, e_shnum, e_shstrndx; section headers; symbols
HEADER = struct.Struct("<40xQ10xHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
SHT_SYMTAB = 2
SHF_ALLOC = 2
SHN_LORESERVE = 0xFF00


class Section(NamedTuple):
    """A section header, as far as it is of use."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class SymbolTable:
    """The symbols of a relocatable file: `offsets[name]` is the section's name and the offset in it.

    `count` is how many there are, with those that have no name of their own.

    :raises ValueError: the file is none.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        if self._data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is no 64-bit ELF file")
        start, size, count, names = HEADER.unpack_from(self._data)
        self._sections = [
            Section(*SECTION.unpack_from(self._data, start + i * size)[:7]) for i in range(count)
        ]
        self._names = self._sections[names]
        self.offsets: dict[str, tuple[str, int]] = {}
        self.count = 0
        for section in self._sections:
            if section.kind == SHT_SYMTAB:
                self._read(section)

    def _string(self, table: Section, index: int) -> str:
        start = table.offset + index
        return self._data[start : self._data.index(b"\0", start)].decode()

    def _read(self, table: Section) -> None:
        strings = self._sections[table.link]
        data = self._data[table.offset : table.offset + table.size]
        self.count += len(data) // SYMBOL.size
        seen: set[str] = set()
        for name, _, _, index, value, _ in SYMBOL.iter_unpack(data):
            if not name or not 0 < index < SHN_LORESERVE or not self._sections[index].flags & SHF_ALLOC:
                continue
            text = self._string(strings, name)
            # static symbols of several files may share a name
            if text in seen:
                self.offsets.pop(text, None)
            else:
                self.offsets[text] = (self._string(self._names, self._sections[index].name), value)
            seen.add(text)


def _find_module(prog: drgn.Program, types: drgn.Program, head: int) -> int | None:
    """Walk the list of modules for ours; return the address of its struct module."""
    kind = types.type("struct module")
    node: int = drgn.offsetof(kind, "list")
    name: int = drgn.offsetof(kind, "name")
    link = prog.read_u64(head)
    while link != head:
        module: int = link - node
        if prog.read_c_string(module + name) == b"exmap":
            return module
        link = prog.read_u64(link)
    return None


def loaded_sections(prog: drgn.Program, path: Path, head: int) -> dict[str, int] | None:
    """Return the address of each section of exmap.ko that has symbols; None if it is not loaded.

    :param path: the exmap.ko, with DWARF.
    :param head: address of the kernel's list of modules.
    :raises ValueError: the file is no module, has no debugging information, or another one was loaded.
    """
    file = SymbolTable(path)
    types = drgn.Program(prog.platform)
    types.extra_module("exmap.ko", create=True).try_file(str(path))
    try:
        module = _find_module(prog, types, head)
        return None if module is None else _match(prog, types, module, file)
    except LookupError:
        raise ValueError(f"{path} has no debugging information") from None
    except (drgn.FaultError, ValueError):
        # types of another kernel lead anywhere
        raise ValueError(f"{path} is not the exmap.ko that was loaded") from None


def _match(prog: drgn.Program, types: drgn.Program, module: int, file: SymbolTable) -> dict[str, int]:
    """Compare the symbols that a kernel keeps of a module with the file's; return where its sections are.

    :raises ValueError: they differ.
    """
    kallsyms = types.type("struct mod_kallsyms")
    table = prog.read_u64(module + drgn.offsetof(types.type("struct module"), "kallsyms"))
    symbols, count, strings = (
        int.from_bytes(prog.read(table + drgn.offsetof(kallsyms, member), size), "little")
        for member, size in (("symtab", 8), ("num_symtab", 4), ("strtab", 8))
    )
    # a kernel drops some, and has no others
    if not 0 < count <= file.count:
        raise ValueError(f"{count} symbols")
    found: dict[str, int] = {}
    entries = list(SYMBOL.iter_unpack(prog.read(symbols, count * SYMBOL.size)))
    last = max(entry[0] for entry in entries)
    names = prog.read(strings, last + len(prog.read_c_string(strings + last)) + 1)
    for name, _, _, index, value, _ in entries:
        section, offset = file.offsets.get(names[name : names.index(b"\0", name)].decode(), ("", 0))
        if index and section and found.setdefault(section, value - offset) != value - offset:
            raise ValueError(f"{section} is in two places")
    return found
