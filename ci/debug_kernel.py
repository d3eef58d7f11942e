"""Make a debug guest kernel from Debian's packaged source.

The configuration is virtme-ng's, with the fragments ci/debug/base.config and
ci/debug/VARIANT.config on top.  What is made is kept in the cache, under a hash
of the fragments and the package's version; the tree there builds modules.
Every step may be interrupted: the next run goes on from there.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import paths
import processes

__all__ = [
    "Build",
    "BuildFailed",
    "build",
    "cache_dir",
    "dropped_options",
    "find_built",
    "main",
    "options",
    "variants",
]

PACKAGE = "linux-source-6.12"
FRAGMENTS = paths.ROOT / "ci/debug"
# With it come vmlinux, with DWARF, and Module.symvers.
IMAGE = "arch/x86/boot/bzImage"
FILES = 2070
PROGRESS_SECONDS = 15.0


class BuildFailed(Exception):
    """A step of the build failed; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Build:
    """A debug kernel, made or to be made.

    source is shared between variants; tree has the objects, and has "complete" in
    it when it can be used.
    """

    variant: str
    version: str
    source: Path
    tree: Path

    @property
    def image(self) -> Path:
        return self.tree / IMAGE

    @property
    def complete(self) -> bool:
        return (self.tree / "complete").exists()


def cache_dir() -> Path:
    """Return, and make, the directory for debug kernels and their source."""
    path = paths.cache_dir() / "debug-kernel"
    path.mkdir(exist_ok=True)
    return path


def variants() -> list[str]:
    """Return the names of the variants: each has a fragment besides the common one."""
    return sorted(path.stem for path in FRAGMENTS.glob("*.config") if path.stem != "base")


def options(text: str) -> dict[str, str]:
    """Return the lines of a configuration that set an option, or say that it is not set, by option."""
    found = {}
    for line in map(str.strip, text.splitlines()):
        if match := re.fullmatch(r"(CONFIG_\w+)=.*|# (CONFIG_\w+) is not set", line):
            found[match[1] or match[2]] = line
    return found


def dropped_options(wanted: str, got: str) -> list[str]:
    """Return the options of a fragment that did not make it into a configuration."""
    config = options(got)
    return [
        name for name, line in options(wanted).items() if config.get(name, f"# {name} is not set") != line
    ]


def _fragment(variant: str) -> str:
    return "".join((FRAGMENTS / f"{name}.config").read_text() for name in ("base", variant))


def describe(variant: str, version: str) -> Build:
    """Return where the kernel of a variant and a version of the package is, or would be."""
    # comments and order do not make another kernel
    settings = sorted(options(_fragment(variant)).values())
    key = hashlib.sha256("\n".join([version, *settings]).encode()).hexdigest()[:16]
    # a tilde in a path is asking for trouble
    return Build(variant, version, cache_dir() / f"linux-{version.replace('~', '-')}", cache_dir() / key)


def find_built(variant: str) -> Build | None:
    """Return the newest kernel in the cache that was made with the fragments of today."""
    found = []
    for stamp in cache_dir().glob("*/complete"):
        build = describe(variant, stamp.read_text().strip())
        if build.tree == stamp.parent and build.image.exists():
            found.append((stamp.stat().st_mtime, build))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def say(text: str) -> None:
    print(f"debug-kernel: {text}", flush=True)


def _version() -> str:
    done = subprocess.run(["apt-cache", "policy", PACKAGE], capture_output=True, text=True, check=False)
    match = re.search(r"Candidate: (\S+)", done.stdout)
    if match is None or match[1] == "(none)":
        raise BuildFailed(f"apt knows no {PACKAGE}: run 'make setup' and 'apt-get update'")
    return match[1]


@contextlib.contextmanager
def _only_build() -> Iterator[None]:
    with (cache_dir() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _step(command: Sequence[str | Path], cwd: Path, what: str) -> None:
    with processes.process_group(
        command, cwd=cwd, output=subprocess.PIPE, errors=subprocess.STDOUT
    ) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise BuildFailed(f"{what}:\n" + "\n".join(output.decode(errors="replace").splitlines()[-20:]))


def _fetch_source(made: Build) -> None:
    if made.source.exists():
        return
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="new-") as name:
        work = Path(name)
        say(f"fetching {PACKAGE} {made.version}")
        _step(["apt-get", "download", "-q", f"{PACKAGE}={made.version}"], work, f"cannot fetch {PACKAGE}")
        say("unpacking the source")
        (work / "linux").mkdir()
        unpack = (
            "set -o pipefail; dpkg-deb --fsys-tarfile ./*.deb"
            f" | tar -xO --wildcards '*/{PACKAGE}.tar.xz' | tar -xJ -C linux --strip-components=1"
        )
        _step(["bash", "-c", unpack], work, "cannot unpack the source")
        (work / "linux").rename(made.source)


def _configure(made: Build) -> None:
    fragment = made.tree / "fragment.config"
    if (made.tree / "configured").exists():
        return
    made.tree.mkdir(exist_ok=True)
    fragment.write_text(_fragment(made.variant))
    say("configuring")
    tool = Path(sys.executable).parent / "virtme-configkernel"
    _step(
        [sys.executable, tool, "--defconfig", "--custom", fragment, f"O={made.tree}"],
        made.source,
        "cannot configure",
    )
    if dropped := dropped_options(fragment.read_text(), (made.tree / ".config").read_text()):
        raise BuildFailed(f"this kernel does not take {', '.join(dropped)}")
    (made.tree / "configured").touch()


def _compile(made: Build, jobs: int) -> None:
    say(f"compiling with {jobs} jobs; the log is {made.tree}/make.log")
    begin = shown = time.monotonic()
    files = sum(1 for _ in made.tree.rglob("*.o"))
    command = ["make", f"-j{jobs}", "bzImage", "modules"]
    with (
        (made.tree / "make.log").open("wb") as log,
        processes.process_group(
            command, cwd=made.tree, output=subprocess.PIPE, errors=subprocess.STDOUT
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            files += line.startswith(b"  CC ")
            if time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                say(f"{files} of about {FILES} files, {(shown - begin) / 60:.1f} min")
        returncode = process.wait()
    if returncode:
        tail = (made.tree / "make.log").read_text(errors="replace").splitlines()[-30:]
        raise BuildFailed("make:\n" + "\n".join(tail))


def _trim(made: Build) -> None:
    """Drop the objects, which are most of the tree and of no use to modules."""
    for path in made.tree.rglob("*.[oa]"):
        if "scripts" not in path.parts and "tools" not in path.parts:
            path.unlink()


def build(variant: str, jobs: int) -> Build:
    """Make the kernel of a variant, or what is missing of it.

    :raises BuildFailed: a step failed.
    """
    made = describe(variant, _version())
    with _only_build():
        if made.complete:
            say(f"{variant} {made.version} is there already: {made.tree}")
            return made
        _fetch_source(made)
        _configure(made)
        _compile(made, jobs)
        _trim(made)
        (made.tree / "complete").write_text(f"{made.version}\n")
    size = shutil.disk_usage(made.tree)
    say(f"{variant} {made.version} is in {made.tree}; {size.free >> 30} GiB of disk left")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="ci/debug-kernel", description="Make debug guest kernels.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("build", help="make a kernel, or go on making it; takes 20 to 45 minutes")
    verb.add_argument("--variant", default="kasan", choices=variants())
    verb.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    verb = verbs.add_parser("where", help="print the directory of a kernel that has been made")
    verb.add_argument("--variant", default="kasan", choices=variants())
    args = parser.parse_args(argv)
    processes.exit_on_signals()
    if args.verb == "where":
        made = find_built(args.variant)
        print(made.tree if made else f"no {args.variant} kernel here: run 'ci/debug-kernel build'")
        return 0 if made else 1
    try:
        build(args.variant, args.jobs)
    except BuildFailed as error:
        print(f"debug-kernel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
