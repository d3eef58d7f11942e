"""The matrix of kernels: where they are, and the module built for each."""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import debug_kernel
from paths import ROOT, cache_dir

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

# The kernel hands PATH on to init, which finds our stand-ins for what it need not run.
DEBUG_APPEND = (
    "page_table_check=on",
    "null_blk.nr_devices=0",
    f"PATH={ROOT}/ci/debug/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)


class KernelMissing(Exception):
    """A kernel of the matrix is not on this machine."""


class ModuleBuildFailed(Exception):
    """The module did not build; the message has the end of the log."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted, and what builds modules for it.

    kdir is a path inside of chroot, if there is one.
    """

    name: str
    release: str
    image: Path
    kdir: Path
    append: tuple[str, ...] = ()
    chroot: Path | None = None


def matrix() -> dict[str, dict[str, object]]:
    """Return ci/kernels.toml, by name."""
    with (ROOT / "ci/kernels.toml").open("rb") as file:
        table: dict[str, dict[str, object]] = tomllib.load(file)["kernel"]
    return table


def _version_key(release: str) -> tuple[int, ...]:
    digits = "".join(char if char.isdigit() else " " for char in release)
    return tuple(int(part) for part in digits.split())


def _has_headers(modules: Path, root: Path) -> bool:
    build = modules / "build"
    target = build.readlink() if build.is_symlink() else Path()
    # an absolute link in a chroot is meant from its root on
    return (root / target.relative_to("/")).exists() if target.is_absolute() else build.exists()


def installed(pattern: str, root: Path = Path("/")) -> list[str]:
    """Return the releases with image and headers that match, newest last."""
    found = [
        entry.name
        for entry in (root / "usr/lib/modules").glob(pattern)
        if (root / f"boot/vmlinuz-{entry.name}").exists() and _has_headers(entry, root)
    ]
    return sorted(found, key=_version_key)


def _find_packaged(name: str, entry: dict[str, object]) -> Kernel:
    releases = installed(str(entry["pattern"]))
    pinned = str(entry["release"])
    if not releases:
        raise KernelMissing(f"kernel {name} is not installed: run 'make setup'")
    release = pinned if pinned in releases else releases[-1]
    return Kernel(name, release, Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}/build"))


def _find_in_chroot(name: str, entry: dict[str, object]) -> Kernel:
    chroot = cache_dir() / f"chroot-{entry['chroot']}"
    releases = installed(str(entry["pattern"]), chroot)
    if not releases:
        raise KernelMissing(f"no kernel {name}: 'ci/chroot-kernel {entry['chroot']}' gets it")
    release = releases[-1]
    return Kernel(
        name, release, chroot / f"boot/vmlinuz-{release}", Path(f"/lib/modules/{release}/build"), (), chroot
    )


def _is_prebuilt(place: Path) -> bool:
    return (place / "bzImage").exists() and (place / "build.tar.zst").exists()


def _unpack(place: Path) -> Path:
    archive = place / "build.tar.zst"
    stamp = f"{archive.stat().st_size}-{archive.stat().st_mtime_ns}"
    cache = debug_kernel.cache_dir()
    tree = cache / hashlib.sha256(stamp.encode()).hexdigest()[:16]
    if not tree.exists():
        with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as work:
            unpacked = Path(work, "tree")
            unpacked.mkdir()
            subprocess.run(["tar", "--zstd", "-xf", str(archive), "-C", str(unpacked)], check=True)
            with contextlib.suppress(OSError):  # another one was faster
                unpacked.rename(tree)
    return tree


def _find_debug(name: str, entry: dict[str, object]) -> Kernel:
    """Return the kernel that EXMAP_DEBUG_KERNEL names, or that was made here, or that lies about."""
    variant = str(entry["variant"])
    named = os.environ.get("EXMAP_DEBUG_KERNEL") if "prebuilt" in entry else None
    made = debug_kernel.find_built(variant)
    if made and not named:
        return Kernel(name, f"{variant}-{made.tree.name}", made.image, made.tree, DEBUG_APPEND)
    prebuilt = entry.get("prebuilt", [])
    assert isinstance(prebuilt, list)
    for place in [Path(named)] if named else [ROOT / place for place in prebuilt]:
        if _is_prebuilt(place):
            return Kernel(name, "debug", place.resolve() / "bzImage", _unpack(place), DEBUG_APPEND)
    if named:
        raise KernelMissing(f"EXMAP_DEBUG_KERNEL: no bzImage and build.tar.zst in {named}")
    raise KernelMissing(f"no debug kernel: 'ci/debug-kernel build --variant {variant}' makes one")


def find(name: str) -> Kernel:
    """Return a kernel of the matrix by name.

    :raises KernelMissing: it is not in the matrix, or not on this machine.
    """
    entry = matrix().get(name)
    if entry is None:
        raise KernelMissing(f"no kernel {name!r}: the matrix has {', '.join(matrix())}")
    if "variant" in entry:
        return _find_debug(name, entry)
    return _find_in_chroot(name, entry) if "chroot" in entry else _find_packaged(name, entry)


def _in_chroot(chroot: Path, command: list[str]) -> list[str]:
    """Return the command that runs another in a chroot that sees the project; root may."""
    script = (
        'mkdir -p "$1$2" && mount -t proc proc "$1/proc" && mount --bind "$2" "$1$2" || exit;'
        ' root=$1; shift 2; exec chroot "$root" "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(chroot), str(ROOT), *command]


def build_module(kernel: Kernel, *extra: str) -> Path:
    """Build exmap.ko for a kernel, if it is stale, and return its path.

    :raises ModuleBuildFailed: with the last lines that make printed.
    """
    coverage = "-coverage" if os.environ.get("EXMAP_COVERAGE") else ""
    out = ROOT / "build" / f"kmod-{kernel.release}{coverage}"
    out.mkdir(parents=True, exist_ok=True)
    command = ["make", "-C", str(ROOT / "kmod"), f"KDIR={kernel.kdir}", f"OUT={out}", *extra]
    if kernel.chroot:
        command = _in_chroot(kernel.chroot, command)
    with (out / "lock").open("w") as lock:
        # two guests may be started at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    (out / "build.log").write_text(done.stdout)
    if done.returncode:
        raise ModuleBuildFailed("\n".join(done.stdout.splitlines()[-30:]))
    return out / "exmap.ko"
