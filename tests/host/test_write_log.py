"""What QEMU records of a disk, and the states of the disk that are made of it."""

import random
import subprocess
from pathlib import Path

import disks
from write_log import Write, crash, flushes, read_log


def qemu_io(image: Path, *commands: str) -> None:
    (option,) = disks.options([], image, image.parent)[:1]
    drive = option.removeprefix("-blockdev ")
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", *arguments, "--image-opts", drive], check=True, capture_output=True)


def test_writes_and_flushes_are_read_in_their_order(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    qemu_io(image, "write -P 1 0 4096", "flush", "write -P 2 8192 512", "write -P 3 512 512", "flush")
    log = read_log(tmp_path / "disk.log")
    assert log == [
        Write(0, b"\1" * 4096),
        Write(0, b""),
        Write(8192, b"\2" * 512),
        Write(512, b"\3" * 512),
        Write(0, b""),
        # closing it flushes too
        Write(0, b""),
    ]
    assert flushes(log) == [1, 4, 5]
    assert crash(bytes(1 << 20), log, len(log), random.Random(1)) == image.read_bytes()


LOG = [Write(0, b"a" * 1024), Write(0, b""), Write(0, b"b" * 1024), Write(2048, b"c" * 512, forced=True)]


def test_a_crash_keeps_what_was_flushed_and_any_sectors_of_the_rest() -> None:
    base = b"-" * 4096
    seen = {crash(base, LOG, len(LOG), random.Random(seed)) for seed in range(200)}
    tail = b"-" * 1024 + b"c" * 512 + b"-" * 1536
    assert seen == {a * 512 + b * 512 + tail for a in (b"a", b"b") for b in (b"a", b"b")}


def test_a_crash_before_the_flush_may_lose_all() -> None:
    seen = {crash(b"-" * 1024, LOG, 1, random.Random(seed)) for seed in range(200)}
    assert seen == {a * 512 + b * 512 for a in (b"-", b"a") for b in (b"-", b"a")}
    assert crash(b"-" * 1024, LOG, 2, random.Random(1)) == b"a" * 1024
