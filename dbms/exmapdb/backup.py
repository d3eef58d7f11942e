"""Backups: all pages of a snapshot, or those that differ from an earlier backup, in one file.

    magic
    pages, ascending, their checksums 0
    u32 for each of them: its number
    u8 for each of them: what it is, as exdb_freeze_load says
    16 bytes for each page of the database from page 1 on: its BLAKE2b, 0 if it is unused and so in no file
    JSON: what there is to know
    footer: length of the JSON, pages in the file, pages of the database, BLAKE2b of all behind the pages
    magic

All little-endian.  What is stored of an incremental backup is what differs in the list of digests.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from exmapdb._core import ffi, lib
from exmapdb.errors import BackupError
from exmapdb.storage import PAGE_SIZE

if TYPE_CHECKING:
    from exmapdb.database import Database
    from exmapdb.frozen import Frozen

__all__ = ["BackupResult", "Kept", "restore", "write_backup"]

MAGIC: Final = b"EXDBBAK2"
FOOTER: Final = struct.Struct("<III16s8s")
DIGEST: Final = 16
UNUSED: Final = bytes(DIGEST)
RUN: Final = 256  # pages that are read at a time

Open = Callable[..., "Database"]


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup or a restore has done: pages of the database, those in the file or files, and bytes.

    read: pages that were looked at.
    """

    path: str
    pages: int
    stored: int
    read: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The freeze that a backup was written from, for the next one."""

    id: str
    frozen: Frozen


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    path: Path
    id: str
    base: str | None
    count: int
    free_page: int
    nr_free: int
    numbers: NDArray[np.uint32]
    kinds: bytes
    digests: NDArray[np.void]

    def digest(self, number: int) -> bytes:
        """Return that of a page."""
        return bytes(self.digests[number - 1].tobytes())


def digest(data: bytes | bytearray | memoryview, kind: int = lib.EXDB_PAGE_NODE) -> bytes:
    """Return the BLAKE2b of some bytes, 16 of it; pages of two kinds are never the same."""
    if kind == lib.EXDB_PAGE_UNUSED:
        return UNUSED
    return hashlib.blake2b(data, digest_size=DIGEST, person=bytes([kind])).digest()


def write_backup(
    frozen: Frozen, path: Path, base: Path | None, kept: Kept | None = None
) -> tuple[BackupResult, Kept]:
    """Write the pages of a freeze to a file, or those that differ from a base. BackupError, OSError.

    kept: what an earlier backup has returned: if that is the base, only pages that may have changed since are
    read.  It returns what was done, and the freeze for the next one.
    """
    earlier = read_manifest(base) if base else None
    same = earlier and kept and kept.id == earlier.id
    diverged = frozen.diverged(kept.frozen) if kept and same else None
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            writer = Writer(file, earlier)
            for first, count in runs(frozen.stats().count, diverged):
                writer.add(frozen, first, count)
            made = writer.finish(frozen)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    pages, size = frozen.stats().count - 1, path.stat().st_size
    return BackupResult(str(path), pages, len(writer.numbers), writer.read, size), Kept(made, frozen)


def runs(count: int, diverged: NDArray[np.bool_] | None) -> Iterator[tuple[int, int]]:
    """Iterate over runs of pages that have to be read, of RUN at most."""
    wanted = np.ones(count, np.bool_) if diverged is None else diverged[:count].copy()
    wanted[0] = False
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        for first in range(begin, end, RUN):
            yield first, min(RUN, end - first)


class Writer:
    """Writes a backup; pages that are not added are as they were in the earlier one."""

    def __init__(self, file: BinaryIO, earlier: Manifest | None) -> None:
        self._file = file
        self._earlier = earlier
        self._digests = bytearray(earlier.digests.tobytes()) if earlier else bytearray()
        self.numbers: list[int] = []
        self.kinds = bytearray()
        self.read = 0
        file.write(MAGIC)

    def add(self, frozen: Frozen, first: int, count: int) -> None:
        """Read pages, of ascending numbers, and write those that differ."""
        self.read += count
        # direct I/O wants aligned memory
        with mmap.mmap(-1, count * PAGE_SIZE) as buffer, memoryview(buffer) as memory:
            kinds = frozen.load(first, count, memory)
            for i in range(count):
                page = memory[i * PAGE_SIZE : (i + 1) * PAGE_SIZE]
                found, at = digest(page, kinds[i]), DIGEST * (first + i - 1)
                if found != UNUSED and not has_page(self._earlier, first + i, found):
                    self.numbers.append(first + i)
                    self.kinds.append(kinds[i])
                    self._file.write(page)
                self._digests[at : at + DIGEST] = found
                page.release()

    def finish(self, frozen: Frozen) -> str:
        """Write what is behind the pages, and return the backup's id."""
        stats, earlier = frozen.stats(), self._earlier
        # a base may be of another database, and longer
        digests = self._digests[: DIGEST * (stats.count - 1)]
        about = {
            "id": digest(digests).hex(),
            "base": earlier.id if earlier else None,
            "free_page": stats.free_page,
            "nr_free": stats.nr_free,
        }
        text = json.dumps(about).encode()
        trailer = np.array(self.numbers, "<u4").tobytes() + self.kinds + digests + text
        footer = FOOTER.pack(len(text), len(self.numbers), stats.count, digest(trailer), MAGIC)
        self._file.write(trailer + footer)
        return str(about["id"])


def has_page(manifest: Manifest | None, number: int, found: bytes) -> bool:
    """Return whether a backup has this page as it is."""
    return manifest is not None and number < manifest.count and manifest.digest(number) == found


def read_manifest(path: Path) -> Manifest:
    """Read all of a backup but its pages. BackupError, OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(MAGIC) + FOOTER.size:
            raise BackupError(path, "it is no backup, or was cut")
        file.seek(size - FOOTER.size)
        length, stored, count, check, magic = FOOTER.unpack(file.read(FOOTER.size))
        expected = 5 * stored + DIGEST * max(count - 1, 0) + length
        if magic != MAGIC or size != len(MAGIC) + stored * PAGE_SIZE + expected + FOOTER.size:
            raise BackupError(path, "it is no backup, or was cut")
        file.seek(len(MAGIC) + stored * PAGE_SIZE)
        trailer = file.read(expected)
    if digest(trailer) != check:
        raise BackupError(path, "it is damaged")
    about = json.loads(trailer[expected - length :])
    numbers = np.frombuffer(trailer, "<u4", stored)
    kinds = trailer[4 * stored : 5 * stored]
    digests = np.frombuffer(trailer, np.dtype((np.void, DIGEST)), count - 1, 5 * stored)
    free = about["free_page"], about["nr_free"]
    return Manifest(path, about["id"], about["base"], count, *free, numbers, kinds, digests)


def restore(
    target: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    force: bool = False,
    **options: Any,
) -> BackupResult:
    """Make a database of a backup and the incremental ones that follow it, in their order.

    target: a file that is not there yet, or, with `force`, any file or device; its content is lost.  A file
    appears under its name when it is whole.  options: as for `open`.  Every page is checked.
    Raises BackupError, FileExistsError, StorageError, OSError.
    """
    from exmapdb.opening import open_database

    chain = read_chain([Path(name) for name in files])
    last, path = chain[-1], Path(target)
    is_file = not path.exists() or stat.S_ISREG(path.stat().st_mode)
    if path.exists() and not force:
        raise FileExistsError(errno.EEXIST, "it would be overwritten: use force", str(path))
    made = path.with_name(path.name + ".part") if is_file else path
    if is_file:
        options.setdefault("capacity", max(1 << 30, 2 * last.count * PAGE_SIZE))
    try:
        with open_database(made, flag="n", force=force, **options) as database:
            stored = fill(database, chain)
            database.check()
        if is_file:
            made.replace(path)
    except BaseException:
        if is_file:
            made.unlink(missing_ok=True)
        raise
    return BackupResult(str(path), last.count - 1, stored, stored, (last.count - 1) * PAGE_SIZE)


def read_chain(paths: Sequence[Path]) -> list[Manifest]:
    """Read backups of which each is based on the one before. BackupError."""
    chain = [read_manifest(path) for path in paths]
    if not chain:
        raise BackupError(Path(), "name a backup")
    base = None
    for manifest in chain:
        if manifest.base != base:
            wrong = "is based on another backup" if manifest.base else "has all pages: begin with it"
            raise BackupError(manifest.path, wrong)
        base = manifest.id
    return chain


def fill(database: Database, chain: Sequence[Manifest]) -> int:
    """Copy the newest version of each page, and return how many were read."""
    last = chain[-1]
    # for each page the backup that has it, and its place there
    source = np.zeros((last.count, 2), np.int64)
    source[:, 0] = -1
    for i, manifest in enumerate(chain):
        source[manifest.numbers, 0] = i
        source[manifest.numbers, 1] = np.arange(len(manifest.numbers))
    files = [manifest.path.open("rb") for manifest in chain]
    try:
        for first in range(1, last.count, RUN):
            pages, kinds = bytearray(), bytearray()
            for number in range(first, min(first + RUN, last.count)):
                page, kind = read_page(files, chain, source[number].tolist(), number)
                pages += page
                kinds.append(kind)
            put_pages(database, first, pages, kinds)
    finally:
        for file in files:
            file.close()
    with database.worker() as worker:
        code = lib.exdb_restore_end(worker.handle, last.free_page, last.nr_free)
        if code:
            raise database.error(code, worker.error_page)
    return last.count - 1


def read_page(
    files: Sequence[BinaryIO], chain: Sequence[Manifest], source: list[int], number: int
) -> tuple[bytes, int]:
    """Read one page from the backup that has it, and what it is. BackupError if it is not what it was."""
    which, place = source
    if chain[-1].digest(number) == UNUSED:
        return bytes(PAGE_SIZE), int(lib.EXDB_PAGE_UNUSED)
    if which < 0:
        raise BackupError(chain[-1].path, f"page {number} is in none of the backups")
    files[which].seek(len(MAGIC) + place * PAGE_SIZE)
    page = files[which].read(PAGE_SIZE)
    kind = chain[which].kinds[place]
    if digest(page, kind) != chain[-1].digest(number):
        raise BackupError(chain[which].path, f"page {number} is damaged")
    return page, kind


def put_pages(database: Database, first: int, pages: bytearray, kinds: bytearray) -> None:
    """Put pages into the database that is being made. StorageError."""
    with database.worker() as worker:
        raw = ffi.from_buffer("char[]", pages)
        what = ffi.from_buffer("uint8_t[]", kinds)
        code = lib.exdb_restore_pages(worker.handle, first, len(kinds), raw, what)
        if code:
            raise database.error(code, worker.error_page)
