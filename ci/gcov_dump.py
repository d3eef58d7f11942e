"""In a guest: write what a module that was built with EXMAP_COVERAGE=1 has counted, as .gcda files.

The kernel knows nothing of it: the section .gcov_info of the module has a pointer for each
source file, and the rest is followed in kernel memory.  The structures are those of GCC 10 to
13 (the kernel's kernel/gcov/gcc_4_7.c has them too).
"""

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import drgn

__all__ = ["Counted", "main"]

SECTION = ".gcov_info"
# gcov-io.h
DATA_MAGIC, TAG_FUNCTION, TAG_COUNTERS = 0x67636461, 0x01000000, 0x01A10000
KINDS = 8


class Counted:
    """One struct gcov_info: the counters of one source file."""

    def __init__(self, prog: drgn.Program, address: int) -> None:
        self._prog = prog
        self._address = address
        # version, next, stamp, checksum, filename, merge[KINDS], n_functions, functions
        layout = struct.Struct(f"=I4xQIIQ{KINDS}QI4xQ")
        version, _, stamp, checksum, name, *rest = layout.unpack(prog.read(address, layout.size))
        *merge, self._count, self._functions = rest
        major = (version >> 24) - ord("A")
        if (10 * major + (version >> 16 & 0xFF) - ord("0")) != 12:
            raise SystemExit(f"counters of version {version:#x}: only those of GCC 12 are known")
        self._kinds = [kind for kind, function in enumerate(merge) if function]
        self._head = struct.pack("=IIII", DATA_MAGIC, version, stamp, checksum)
        end = prog.read(name, 512).index(0)
        self.path = Path(prog.read(name, end).decode())

    def _records(self) -> Iterator[bytes]:
        for (address,) in struct.iter_unpack("=Q", self._prog.read(self._functions, 8 * self._count)):
            if not address:
                continue
            key, *function = struct.unpack("=QIII4x", self._prog.read(address, 24))
            # a function of several files is kept in one of them
            if key != self._address:
                continue
            yield struct.pack("=IIIII", TAG_FUNCTION, 12, *function)
            for number, kind in enumerate(self._kinds):
                count, values = struct.unpack("=I4xQ", self._prog.read(address + 24 + 16 * number, 16))
                yield struct.pack("=II", TAG_COUNTERS + (kind << 17), 8 * count)
                yield self._prog.read(values, 8 * count)

    def gcda(self) -> bytes:
        """Make what GCC's own run time would have written."""
        return self._head + b"".join(self._records())


def _section_size(module: Path) -> int:
    told = subprocess.run(["size", "-A", "-d", str(module)], stdout=subprocess.PIPE, text=True, check=True)
    for line in told.stdout.splitlines():
        name, *numbers = line.split() or [""]
        if name == SECTION:
            return int(numbers[0])
    raise SystemExit(f"{module} has no counters: was it built with EXMAP_COVERAGE=1?")


def main() -> None:
    """Write the files of the module named first into the directory named second."""
    module, directory = map(Path, sys.argv[1:])
    prog = drgn.Program()
    prog.set_kernel()
    start = int(Path(f"/sys/module/exmap/sections/{SECTION}").read_text(), 16)
    for (address,) in struct.iter_unpack("=Q", prog.read(start, _section_size(module))):
        counted = Counted(prog, address)
        target = directory / counted.path.relative_to(module.parent)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(counted.gcda())


if __name__ == "__main__":
    main()
