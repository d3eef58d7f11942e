"""The bindings say what the C header says."""

import re
import subprocess
from pathlib import Path

import pytest
from libexmap._ffi import ffi, lib

from libexmap import Counters, Info, SnapshotInfo

ROOT = Path(__file__).resolve().parents[2]
HEADERS = [
    ROOT / "kmod/uapi/exmap.h",
    ROOT / "kmod/uapi/exmap_nvme_abi.h",
    ROOT / "libexmap/include/exmap_user.h",
    ROOT / "libexmap/include/exmap_nvme.h",
]
STRUCTS = [
    "exmap_iov",
    "exmap_user_interface",
    "exmap_ioctl_setup",
    "exmap_action_params",
    "exmap_ioctl_stats",
    "exmap_info",
    "exmap_counters",
    "exmap_scan",
    "exmap_resize",
    "exmap_barrier",
    "exmap_tune",
    "exmap_snapshot_create",
    "exmap_snapshot_info",
    "exmap_snapshot_pages",
    "exmap_snapshot_diff",
    "exmap_nvme_open",
    "exmap_nvme_info",
    "exmap_nvme_reset",
    "exmap_nvme_addresses",
    "exmap_nvme_config",
    "exmap_nvme_queue",
    "exmap_nvme_command",
    "exmap_nvme_completion",
    "exmap_nvme_result",
    "exmap_snapshot",
    "exmap_config",
    "exmap",
]
FIELDS = {
    # the anonymous parts have no offset of their own
    name: [field for field, _ in ffi.typeof(f"struct {name}").fields if field]
    for name in STRUCTS
}


def ask_c(tmp_path: Path, lines: list[str]) -> list[int]:
    """Compile a program that prints one number a line."""
    prints = "\n".join(f'printf("%llu\\n", (unsigned long long)({line}));' for line in lines)
    source = tmp_path / "ask.c"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "exmap_user.h"\n'
        f"int main(void) {{\n{prints}\nreturn 0;\n}}\n"
    )
    program = tmp_path / "ask"
    includes = [f"-I{header.parent}" for header in HEADERS]
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", *includes, str(source), "-o", str(program)], check=True
    )
    done = subprocess.run([str(program)], stdout=subprocess.PIPE, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_every_constant_of_the_headers_has_its_value_in_python(tmp_path: Path) -> None:
    text = "".join(header.read_text() for header in HEADERS)
    names = re.findall(r"^#define (EXMAP_\w+)[ \t]+[\w(]", text, re.MULTILINE)
    names += re.findall(r"^\t(EXMAP_\w+)\s*=", text, re.MULTILINE)
    names = sorted(set(names) - {"EXMAP_USER_H", "EXMAP_NVME_H"})
    assert len(names) > 50
    values = ask_c(tmp_path, names)
    assert {name: int(getattr(lib, name)) for name in names} == dict(zip(names, values, strict=True))


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_size_and_offsets_of_the_header(tmp_path: Path, name: str) -> None:
    lines = [f"sizeof(struct {name})"] + [f"offsetof(struct {name}, {field})" for field in FIELDS[name]]
    ours = [ffi.sizeof(f"struct {name}")] + [ffi.offsetof(f"struct {name}", f) for f in FIELDS[name]]
    assert ask_c(tmp_path, lines) == ours


def test_dataclasses_have_every_field_of_their_struct() -> None:
    structs = ((Counters, "exmap_counters"), (Info, "exmap_info"), (SnapshotInfo, "exmap_snapshot_info"))
    for kind, name in structs:
        fields = [f for f in FIELDS[name] if f not in ("flags", "reserved", "reserved32")]
        assert sorted(kind.__dataclass_fields__) == sorted(fields)


def test_published_numbers_have_not_moved() -> None:
    assert [lib.EXMAP_IOCTL_SETUP, lib.EXMAP_IOCTL_ACTION, lib.EXMAP_IOCTL_CLONE, lib.EXMAP_IOCTL_STATS] == [
        0x40186B01,
        0x40106B02,
        0x40046B03,
        0x40206B04,
    ]
    assert ffi.sizeof("struct exmap_ioctl_stats") == 32
