"""Build libexmap._ffi.  The declarations are taken from the headers: nothing is written twice."""

import re
import subprocess
import tempfile
from pathlib import Path

from cffi import FFI

__all__ = ["declarations", "ffibuilder"]

ROOT = Path(__file__).resolve().parents[1]
INCLUDES = ["libexmap/include", "libexmap/src", "kmod/uapi"]
TYPES = {
    "__u8": "uint8_t",
    "__u16": "uint16_t",
    "__u32": "uint32_t",
    "__u64": "unsigned long long",
    "__s16": "int16_t",
    "__s32": "int32_t",
    "__aligned_u64": "unsigned long long",
}
SYSTEM_HEADERS = ("errno.h", "stdbool.h", "stddef.h", "stdint.h", "linux/types.h", "linux/ioctl.h")


def _preprocess(*options: str) -> str:
    """Run the preprocessor over ffi.h, which includes the others, with empty system headers."""
    with tempfile.TemporaryDirectory() as empty:
        for name in SYSTEM_HEADERS:
            path = Path(empty) / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        includes = [f"-I{ROOT / path}" for path in INCLUDES]
        types = [f"-D{name}={value}" for name, value in TYPES.items()]
        command = ["gcc", "-E", "-P", *options, "-nostdinc", f"-I{empty}", *includes, *types]
        header = str(ROOT / "libexmap/src/ffi.h")
        return subprocess.run([*command, header], stdout=subprocess.PIPE, text=True, check=True).stdout


def _without_inlines(text: str) -> str:
    """Drop the inline functions: ffi.c exports them under other names."""
    while (match := re.search(r"static inline[^{]*\{", text)) is not None:
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[: match.start()] + text[end:]
    return text


def _without_bit_fields(text: str) -> str:
    """Drop anonymous structs of bit fields, which cffi cannot lay out; `value` stands for them."""
    return re.sub(r"struct \{[^{}]*:[^{}]*\};", "", text)


def _constants() -> str:
    """Return a cffi declaration of every EXMAP_ macro that is a number."""
    names = []
    for line in _preprocess("-dM").splitlines():
        match = re.fullmatch(r"#define (EXMAP_\w+) (.+)", line)
        if match:
            names.append(match.group(1))
    return "".join(f"#define {name} ...\n" for name in sorted(names))


def declarations() -> str:
    """Return what ffi.cdef gets."""
    return _constants() + _without_bit_fields(_without_inlines(_preprocess()))


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "libexmap._ffi",
    '#include "ffi.h"',
    sources=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "libexmap/src").glob("*.c")),
    include_dirs=INCLUDES,
    depends=[
        *("libexmap/src/internal.h", "libexmap/src/posix.h", "libexmap/src/ffi.h"),
        *("libexmap/include/exmap_user.h", "libexmap/include/exmap_nvme.h"),
        *("kmod/uapi/exmap.h", "kmod/uapi/exmap_nvme_abi.h"),
    ],
    extra_compile_args=["-std=gnu11", "-O2"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
