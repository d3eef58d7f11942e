"""The matrix of kernels: where they are, and the module built for each."""

import fnmatch
import hashlib
import os
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ROOT",
    "Kernel",
    "KernelMissing",
    "ModuleBuildFailed",
    "build_module",
    "cache_dir",
    "find",
    "matrix",
]

ROOT = Path(__file__).resolve().parents[1]


class KernelMissing(Exception):
    """A kernel of the matrix is not on this machine."""


class ModuleBuildFailed(Exception):
    """The module did not build; the message has the end of the log."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted, and what builds modules for it."""

    name: str
    release: str
    image: Path
    kdir: Path
    append: tuple[str, ...] = ()


def cache_dir() -> Path:
    """Return, and make, the directory for what outlives a run, outside of the tree."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exmap"
    path.mkdir(parents=True, exist_ok=True)
    return path


def matrix() -> dict[str, dict[str, object]]:
    """Return ci/kernels.toml, by name."""
    with (ROOT / "ci/kernels.toml").open("rb") as file:
        table: dict[str, dict[str, object]] = tomllib.load(file)["kernel"]
    return table


def _version_key(release: str) -> tuple[int, ...]:
    digits = "".join(char if char.isdigit() else " " for char in release)
    return tuple(int(part) for part in digits.split())


def installed(pattern: str, modules: Path = Path("/lib/modules"), boot: Path = Path("/boot")) -> list[str]:
    """Return the releases with image and headers that match, newest last."""
    if not modules.is_dir():
        return []
    found = [
        entry.name
        for entry in modules.iterdir()
        if fnmatch.fnmatch(entry.name, pattern)
        and (entry / "build").exists()
        and (boot / f"vmlinuz-{entry.name}").exists()
    ]
    return sorted(found, key=_version_key)


def _find_packaged(name: str, entry: dict[str, object]) -> Kernel:
    releases = installed(str(entry["pattern"]))
    pinned = str(entry["release"])
    if not releases:
        raise KernelMissing(f"kernel {name} is not installed: run 'make setup'")
    release = pinned if pinned in releases else releases[-1]
    return Kernel(name, release, Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}/build"))


def prebuilt_debug() -> Path | None:
    """Return the directory of a prebuilt debug kernel, if there is one."""
    places = [os.environ["EXMAP_DEBUG_KERNEL"]] if "EXMAP_DEBUG_KERNEL" in os.environ else []
    places += [str(ROOT / str(place)) for place in _list(matrix()["debug"]["prebuilt"])]
    for place in map(Path, places):
        if (place / "bzImage").exists() and (place / "build.tar.zst").exists():
            return place.resolve()
    return None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _find_debug(name: str) -> Kernel:
    place = prebuilt_debug()
    if place is None:
        raise KernelMissing(
            "no debug kernel: set EXMAP_DEBUG_KERNEL to a directory with bzImage and build.tar.zst"
        )
    archive = place / "build.tar.zst"
    stamp = f"{archive.stat().st_size}-{archive.stat().st_mtime_ns}"
    tree = cache_dir() / "debug-kernel" / hashlib.sha256(stamp.encode()).hexdigest()[:16]
    if not (tree / ".unpacked").exists():
        tree.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "--zstd", "-xf", str(archive), "-C", str(tree)], check=True)
        (tree / ".unpacked").touch()
    return Kernel(name, "debug", place / "bzImage", tree, ("page_table_check=on",))


def find(name: str) -> Kernel:
    """Return a kernel of the matrix by name.

    :raises KernelMissing: it is not in the matrix, or not on this machine.
    """
    entry = matrix().get(name)
    if entry is None:
        raise KernelMissing(f"no kernel {name!r}: the matrix has {', '.join(matrix())}")
    return _find_debug(name) if "prebuilt" in entry else _find_packaged(name, entry)


def build_module(kernel: Kernel, *extra: str) -> Path:
    """Build exmap.ko for a kernel, if it is stale, and return its path.

    :raises ModuleBuildFailed: with the last lines that make printed.
    """
    out = ROOT / "build" / f"kmod-{kernel.release}"
    out.mkdir(parents=True, exist_ok=True)
    command = ["make", "-C", str(ROOT / "kmod"), f"KDIR={kernel.kdir}", f"OUT={out}", *extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    (out / "build.log").write_text(done.stdout)
    if done.returncode:
        raise ModuleBuildFailed("\n".join(done.stdout.splitlines()[-30:]))
    return out / "exmap.ko"
