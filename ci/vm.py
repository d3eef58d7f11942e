"""Boot a guest with virtme-ng, run a command in it, and bring the results out.

The guest sees the host's root file system read-only over 9p, so the work tree
and its virtual environment are there at the same paths.  One directory is
writable, for results; it is also the channel for output and verdict.  A verdict
that did not arrive means that the guest was lost, whatever QEMU's exit code was.
"""

import argparse
import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent))

import disks
import kernels
import logscan
import processes
import qmp

__all__ = [
    "Guest",
    "GuestError",
    "GuestSetupFailed",
    "LostGuest",
    "Result",
    "kvm_works",
    "main",
    "only_guest",
    "run",
]

Process = subprocess.Popen[bytes]

EXIT_BAD_LOG = 123
EXIT_SETUP = 124
EXIT_LOST = 125
PROBE_SECONDS = 40.0
MAX_DUMP = 1 << 30


class GuestError(Exception):
    """Something other than the command failed."""


class LostGuest(GuestError):
    """The guest ended, or ran out of time, without a verdict."""


class GuestSetupFailed(GuestError):
    """The guest booted but could not be prepared: module not loaded, not unloaded."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What to boot.

    nvme holds emulated disks, see disks.options; recorded is the image of one more, which is kept, and whose
    writes and flushes are recorded.  For the serial number of a disk in the file "unplug" of the results
    directory that disk is unplugged.
    timeout is in seconds and covers boot and command.
    dump is a file that gets the memory of a guest that panics or runs out of time.
    monitor is a socket at which `exmapctl inspect --qmp` can look at the running guest.
    """

    kernel: str = "6.12"
    smp: int = 2
    memory: str = "3G"
    nvme: tuple[str, ...] = ()
    recorded: Path | None = None
    iommu: bool = False
    icount: bool = False
    load: bool = False
    kmemleak: bool = False
    append: tuple[str, ...] = ()
    timeout: float = 900.0
    dump: Path | None = None
    monitor: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def visible(self) -> bool:
        """Tell whether somebody wants to look at its memory."""
        return bool(self.dump or self.monitor)


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind; out is the results directory."""

    returncode: int
    complaints: list[str]
    out: Path


def kvm_works(image: Path) -> bool:
    """Tell whether a stock kernel really boots under KVM here, by booting one.

    /dev/kvm may open and the guest still hang.  The answer is kept in the cache
    for this host kernel.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    memo = kernels.cache_dir() / f"kvm-{os.uname().release}"
    if memo.exists():
        return memo.read_text().strip() == "yes"
    print("ci/vm: trying KVM with a probe boot", file=sys.stderr)
    command = [_vng(), "--run", str(image), *_FIXED, "--exec", "true"]
    with _process(command, subprocess.DEVNULL) as process:
        try:
            works = process.wait(PROBE_SECONDS) == 0
        except subprocess.TimeoutExpired:
            works = False
    memo.write_text("yes\n" if works else "no\n")
    return works


_HERE = Path(__file__).resolve().parent
_FIXED = ("--disable-microvm", "--force-9p", "--user", "root")


def _vng() -> str:
    path = Path(sys.executable).parent / "vng"
    return str(path) if path.exists() else "vng"


def _disk_options(guest: Guest, out: Path) -> list[str]:
    try:
        return disks.options(guest.nvme, guest.recorded, out)
    except ValueError as error:
        raise GuestError(f"--nvme {error}") from error


# The root that virtme-ng mounts caches nothing: each import is read anew.  A second
# view of the same files, cached, covers the directories that programs come from.
_CACHED_SHARE = (
    "-fsdev local,id=cached,path=/,security_model=none,readonly=on,multidevs=remap",
    "-device virtio-9p-pci,fsdev=cached,mount_tag=exmap.cached",
)


_UDEV_RULES = "/usr/lib/udev/rules.d"


def _cached_directories() -> list[str]:
    directories = [Path("/usr"), kernels.ROOT]
    directories += [path for path in [Path(sys.base_prefix)] if not path.is_relative_to("/usr")]
    return [str(path) for path in directories]


def _console_options(out: Path) -> list[str]:
    """Return options that keep what goes to the console, a panic for one, and word of a triple fault."""
    return [f"-set chardev.console.path={out / 'console'}", f"-d cpu_reset -D {out / 'resets'}"]


def _memory_options(guest: Guest, out: Path) -> list[str]:
    """Return the options with which others can look at the guest's memory."""
    if not guest.visible:
        return [f"-qmp unix:{out / 'qmp'},server=on,wait=off"] if disks.can_be_unplugged(guest.nvme) else []
    sockets = [out / "qmp", *([guest.monitor.absolute()] if guest.monitor else [])]
    options = [f"-qmp unix:{path},server=on,wait=off" for path in sockets]
    # the first brings the kernel's notes to whoever reads its memory, the other stops it when it panics
    return [*options, "-device vmcoreinfo", "-device pvpanic-pci -action panic=pause"]


def vng_command(guest: Guest, kernel: kernels.Kernel, out: Path, *, kvm: bool) -> list[str]:
    """Return the command line that boots a guest whose results go to out."""
    qemu = [*_CACHED_SHARE, *_console_options(out), *_disk_options(guest, out), *_memory_options(guest, out)]
    # or it panics when its CPUs wait for the host's while it counts timer interrupts, as kvm's guests know
    append = ["no_timer_check", *kernel.append, *guest.append]
    smp = guest.smp
    if guest.iommu:
        qemu.append("-machine q35,kernel-irqchip=split -device intel-iommu,intremap=on,caching-mode=off")
        append.append("intel_iommu=on")
    if guest.icount:
        smp, kvm = 1, False
        qemu.append("-icount shift=0,sleep=off")
        append.append("tsc=reliable")
    if guest.kmemleak:
        append.append("kmemleak=on")
    command = [_vng(), "--run", str(kernel.image), f"--qemu={_HERE / 'qemu.sh'}", *_FIXED]
    if not kvm:
        command.append("--disable-kvm")
        # eventfds win nothing without KVM, and QEMU's main loop, which is the devices, polls 390 of them
        qemu.append("-global virtio-pci.ioeventfd=off")
    command += ["--cpus", str(smp), "--memory", guest.memory]
    if kernels.ROOT.is_relative_to("/tmp") or kernels.ROOT.is_relative_to("/var/tmp"):
        # the guest has an empty file system of its own there
        command.append(f"--rodir={kernels.ROOT}")
    command.append(f"--rwdir={out}")
    command.append(f"--rodir={_UDEV_RULES}={_HERE / 'udev'}")
    for option in append:
        command += ["--append", option]
    command.append("--qemu-opts=" + " ".join(qemu))
    return [*command, "--exec", f"sh {_HERE / 'guest.sh'} {out}"]


def _environment(guest: Guest, out: Path, module: Path | None, *, kvm: bool) -> dict[str, str]:
    values = {
        "PATH": f"{kernels.ROOT}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "EXMAP_VM": "1",
        "EXMAP_KERNEL": guest.kernel,
        "EXMAP_OUT": str(out),
        "EXMAP_ROOT": str(kernels.ROOT),
        "EXMAP_CACHED": " ".join(_cached_directories()),
        "EXMAP_KO": str(module) if module else "",
        "PYTHONDONTWRITEBYTECODE": "1",
        # a crash says where it was
        "PYTHONFAULTHANDLER": "1",
        "HOME": "/tmp",
        "LC_ALL": "C.UTF-8",
    }
    if not kvm:
        # QEMU's emulation reads what a masked load of AVX2 must not touch, and numpy sorts with those
        values["NPY_DISABLE_CPU_FEATURES"] = "X86_V3"
    if guest.icount:
        values["EXMAP_ICOUNT"] = "1"
    if guest.kmemleak:
        values["EXMAP_KMEMLEAK"] = "1"
    if guest.visible:
        values["EXMAP_INSPECT"] = "1"
    return values | guest.environment


def _process(command: Sequence[str], output: int | IO[bytes]) -> AbstractContextManager[Process]:
    # vng starts its helpers by name
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    return processes.process_group(
        command, output=output, errors=subprocess.STDOUT, env=os.environ | {"PATH": path}
    )


@contextlib.contextmanager
def only_guest() -> Iterator[None]:
    """Keep other guests of this machine out: timings and memory are not shared."""
    with (kernels.cache_dir() / "vm.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("ci/vm: waiting for another guest to end", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Tail:
    """Copies what is appended to a file to a stream."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        self._stream = stream
        self._done = 0

    def copy(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._done)
            data = file.read()
        self._done += len(data)
        if data:
            self._stream.write(data)
            self._stream.flush()


def _serve(out: Path, monitor: qmp.Monitor) -> None:
    """Do what the guest has asked for."""
    request = out / "unplug"
    if request.exists():
        serial = request.read_text().strip()
        request.unlink()
        monitor.unplug(disks.device_id(serial))


def _wait(
    process: Process, out: Path, limit: float, tails: Sequence[_Tail], monitor: qmp.Monitor | None
) -> None:
    """Pass output on until there is a verdict or the guest is gone."""
    while time.monotonic() < limit:
        for tail in tails:
            tail.copy()
        if process.poll() is not None or (out / "verdict").exists():
            break
        if monitor and monitor.panicked():
            break
        if monitor:
            _serve(out, monitor)
        time.sleep(0.1)
    for tail in tails:
        tail.copy()


@contextlib.contextmanager
def _monitored(guest: Guest, out: Path) -> Iterator[qmp.Monitor | None]:
    """Yield a monitor; if there is no verdict afterwards, what is in the guest's memory goes to a file."""
    if not guest.visible and not disks.can_be_unplugged(guest.nvme):
        yield None
        return
    monitor = qmp.Monitor(out / "qmp")
    try:
        yield monitor
        if guest.dump and not (out / "verdict").exists():
            guest.dump.unlink(missing_ok=True)
            monitor.dump(guest.dump.absolute())
            print(f"ci/vm: the guest's memory is in {guest.dump}", file=sys.stderr)
    except qmp.MonitorError as error:
        print(f"ci/vm: monitor: {error}", file=sys.stderr)
    finally:
        monitor.close()


def read_verdict(out: Path) -> int:
    """Return the command's exit code.

    :raises LostGuest: there is no verdict.
    :raises GuestSetupFailed: the module did not load or unload.
    """
    try:
        words = (out / "verdict").read_text().split(maxsplit=2)
    except FileNotFoundError:
        raise LostGuest(
            f"the guest ended without a verdict; its last words:\n{logscan.last_words(out)}"
        ) from None
    if words[0] == "exit" and re.fullmatch(r"\d+", words[1]):
        return int(words[1])
    raise GuestSetupFailed(" ".join(words))


@contextlib.contextmanager
def _boot(guest: Guest, command: Sequence[str], out: Path, lock: bool) -> Iterator[Process]:
    """Yield the process of a guest that runs a command."""
    kernel = kernels.find(guest.kernel)
    module = kernels.build_module(kernel) if guest.load else None
    kvm = not guest.icount and kvm_works(kernel.image)
    values = _environment(guest, out, module, kvm=kvm)
    lines = [f"export {key}={shlex.quote(value)}\n" for key, value in values.items()]
    (out / "environment").write_text("".join(lines))
    (out / "command").write_text("ulimit -l unlimited\nexec " + shlex.join(command) + "\n")
    with only_guest() if lock else contextlib.nullcontext(), (out / "launcher").open("wb") as launcher:
        argv = vng_command(guest, kernel, out, kvm=kvm)
        with _process(argv, launcher) as process:
            yield process


def kill(
    guest: Guest, command: Sequence[str], when: Callable[[], bool], *, out: Path, lock: bool = True
) -> None:
    """Boot a guest, run a command in it, and kill the machine, as a power failure would, at a moment.

    when says whether it has come.  What the command wrote to $EXMAP_OUT is in out.

    :raises LostGuest: the guest ended before, or its time did.
    """
    with _boot(guest, command, out, lock) as process:
        limit = time.monotonic() + guest.timeout
        while not when():
            if process.poll() is not None or (out / "verdict").exists() or time.monotonic() > limit:
                errors = (out / "stderr").read_text()[-2000:] if (out / "stderr").exists() else ""
                raise LostGuest(f"it ended, or its time did, before it was killed:\n{errors}")
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(
    guest: Guest, command: Sequence[str], *, out: Path, log: Path | None = None, lock: bool = True
) -> Result:
    """Boot a guest, run a command in it, pass its output through, and return what became of it.

    out is an empty directory outside of the work tree; what the command writes to
    $EXMAP_OUT is found there afterwards.

    :raises LostGuest: no verdict within the time limit.
    :raises GuestSetupFailed: the module could not be loaded or unloaded.
    :raises kernels.KernelMissing: that kernel is not on this machine.
    :raises kernels.ModuleBuildFailed: the module did not build.
    """
    tails = [_Tail(out / "stdout", sys.stdout.buffer), _Tail(out / "stderr", sys.stderr.buffer)]
    with _boot(guest, command, out, lock) as process, _monitored(guest, out) as monitor:
        _wait(process, out, time.monotonic() + guest.timeout, tails, monitor)
        if (out / "verdict").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        else:
            status = process.poll()
            end = "its time is over" if status is None else f"virtme-ng ended with {status}"
            (out / "launcher").open("a").write(f"ci/vm: {end}\n")
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(logscan.log_lines(out)))
    returncode = read_verdict(out)
    found = logscan.complaints(logscan.log_lines(out))
    if guest.kmemleak:
        found += [
            line for leak in logscan.leaks((out / "kmemleak").read_text()) for line in leak.splitlines()
        ]
    return Result(returncode, found, out)


def memory_bytes(size: str) -> int:
    """Return the bytes of a size as QEMU takes it: "512M", or MiB without a unit."""
    units = {"K": 10, "M": 20, "G": 30}
    unit = size[-1:].upper()
    return int(size[:-1]) << units[unit] if unit in units else int(size) << 20


@contextlib.contextmanager
def results_directory() -> Iterator[Path]:
    """Yield an empty directory that a guest can write to; gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="exmap-vm-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ci/vm", description="Boot a guest and run a command in it.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run", help="run a command in a fresh guest")
    verb.add_argument("--kernel", default="6.12", choices=list(kernels.matrix()))
    verb.add_argument("--smp", type=int, default=2, metavar="N")
    verb.add_argument("--memory", default="3G", metavar="M")
    verb.add_argument("--nvme", default="", metavar="SIZE[:KIND][,SIZE]", help="disks, see ci/disks.py")
    verb.add_argument("--iommu", action="store_true", help="give the guest a virtual IOMMU")
    verb.add_argument("--icount", action="store_true", help="one CPU; thread CPU time counts instructions")
    verb.add_argument("--load", action="store_true", help="load the module, and unload it afterwards")
    verb.add_argument("--kmemleak", action="store_true", help="look for leaks (debug kernels)")
    verb.add_argument("--append", action="append", default=[], metavar="OPTION", help="of the kernel")
    verb.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS")
    verb.add_argument(
        "--dump", type=Path, metavar="FILE", help="where memory goes if it panics or hangs (at most 1G)"
    )
    verb.add_argument("--monitor", type=Path, metavar="SOCKET", help="for exmapctl inspect --qmp")
    verb.add_argument("--log", type=Path, help="kernel log (default build/vm-KERNEL.log)")
    verb.add_argument("--no-lock", action="store_true", help="do not wait for other guests")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code of the guest's command, or 123, 124, 125."""
    parser = _parser()
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command")
    guest = Guest(
        kernel=args.kernel,
        smp=args.smp,
        memory=args.memory,
        nvme=tuple(filter(None, args.nvme.split(","))),
        iommu=args.iommu,
        icount=args.icount,
        load=args.load,
        kmemleak=args.kmemleak,
        append=tuple(args.append),
        timeout=args.timeout,
        dump=args.dump,
        monitor=args.monitor,
    )
    if args.dump and memory_bytes(args.memory) > MAX_DUMP:
        parser.error("--dump wants a guest with --memory 1G or less")
    processes.exit_on_signals()
    log = args.log or kernels.ROOT / "build" / f"vm-{args.kernel}.log"
    try:
        with results_directory() as out:
            result = run(guest, command, out=out, log=log, lock=not args.no_lock)
    except LostGuest as error:
        print(f"ci/vm: lost guest: {error}", file=sys.stderr)
        return EXIT_LOST
    except (GuestSetupFailed, kernels.KernelMissing, kernels.ModuleBuildFailed) as error:
        print(f"ci/vm: {error}", file=sys.stderr)
        return EXIT_SETUP
    if result.complaints:
        print(f"ci/vm: the kernel log ({log}) complains:", file=sys.stderr)
        print("\n".join(f"    {line}" for line in result.complaints[:20]), file=sys.stderr)
        return result.returncode or EXIT_BAD_LOG
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
