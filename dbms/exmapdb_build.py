"""Build exmapdb._core: the native core, with libexmap compiled in."""

from pathlib import Path

from cffi import FFI

__all__ = ["ffibuilder"]

# setuptools wants sources relative to the project's root
ROOT = Path(__file__).resolve().parents[1]
HEADER = "dbms/native/exdb.h"
NATIVE = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "dbms/native").glob("*.c"))
LIBEXMAP = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "libexmap/src").glob("*.c") if path.name != "ffi.c"
)
HEADERS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("dbms/native", "libexmap/include", "libexmap/src", "kmod/uapi")
    for path in (ROOT / folder).glob("*.h")
)


def declarations() -> str:
    """Return the C API as cffi wants it: the header without the preprocessor's lines."""
    lines = (ROOT / HEADER).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


BACKENDS = "static const int EXMAP_BACKEND_AUTO, EXMAP_BACKEND_KERNEL, EXMAP_BACKEND_POSIX;"

ffibuilder = FFI()
ffibuilder.cdef(BACKENDS + declarations())
ffibuilder.set_source(
    "exmapdb._core",
    '#include "exdb.h"\n#include "exmap_user.h"',
    sources=NATIVE + LIBEXMAP,
    include_dirs=["dbms/native", "libexmap/include", "libexmap/src", "kmod/uapi"],
    depends=HEADERS,
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread"],
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
