"""The manual page, shell completion, and what exmapctl reads by offsets."""

import os
import shutil
import subprocess
import sys

import pytest
import typer
from exmapctl import manual, snapshots, status
from exmapctl.app import app
from libexmap._ffi import ffi, lib
from test_cli_docs import all_commands
from typer.testing import CliRunner

PAGE = manual.render(typer.main.get_command(app))


def leaves() -> list[str]:
    """All commands that are not groups."""
    names = all_commands()
    return [name for name in names if not any(other.startswith(name + " ") for other in names)]


@pytest.mark.parametrize("command", leaves())
def test_every_command_is_in_the_manual(command: str) -> None:
    assert f".SS {manual.escape(command)}\n" in PAGE


def test_man_prints_the_manual() -> None:
    assert CliRunner().invoke(app, ["man"]).stdout == PAGE


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_nothing_to_complain_of() -> None:
    command = ["groff", "-man", "-Tascii", "-P-cbou", "-ww"]
    done = subprocess.run(command, input=PAGE, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "--install-rule" in done.stdout


def test_requests_in_text_are_escaped() -> None:
    assert manual.escape(".TH x\n'y\nz-w\\") == "\\&.TH x\n\\&'y\nz\\-w\\e"


@pytest.mark.parametrize(
    ("words", "expected"),
    [("exmapctl sna", {"snapshot"}), ("exmapctl snapshot d", {"diff"}), ("exmapctl stats --wa", {"--watch"})],
)
def test_the_shell_completes_commands_and_options(words: str, expected: set[str]) -> None:
    environment = os.environ | {
        "_EXMAPCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "exmapctl"], env=environment, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == expected


def test_what_is_read_without_cffi_lies_where_the_header_says() -> None:
    info = ffi.new("struct exmap_snapshot_info *")
    values = {"start": 11, "count": 12, "reserve": 13, "frames": 14, "id": 15, "region": 16, "broken": 1}
    for name, value in values.items():
        setattr(info, name, value)
    assert snapshots.INFO.unpack(bytes(ffi.buffer(info)))[:7] == tuple(values.values())
    diff = ffi.new("struct exmap_snapshot_diff *")
    diff.fd, diff.start, diff.count, diff.bitmap = 3, 4, 5, 6
    assert snapshots.DIFF.pack(0, 3, 0, 4, 5, 6) == bytes(ffi.buffer(diff))
    module = ffi.new("struct exmap_info *")
    module.abi_version, module.page_size, module.features, module.chunk_pages = 1, 2, 3, 4
    data = bytes(ffi.buffer(module))
    assert status.INFO.unpack_from(data) == (1, 2, 3)
    assert status.CHUNK_PAGES.unpack_from(data, status.CHUNK_PAGES_OFFSET) == (4,)
    assert len(data) == status.INFO_BYTES
    assert (snapshots.IOCTL_SNAPSHOT_INFO, snapshots.IOCTL_SNAPSHOT_DIFF, status.IOCTL_INFO) == (
        lib.EXMAP_IOCTL_SNAPSHOT_INFO,
        lib.EXMAP_IOCTL_SNAPSHOT_DIFF,
        lib.EXMAP_IOCTL_INFO,
    )


def test_runs_are_found_in_a_bitmap() -> None:
    assert snapshots.runs_of(bytes([0b10000001, 0b00000011, 0]), 512, 20) == [(512, 1), (519, 3)]
    assert snapshots.runs_of(bytes([0xFF]), 0, 5) == [(0, 5)]
    assert snapshots.runs_of(bytes(2), 0, 16) == []
