"""The parts of ci/ that need no guest."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bench
import kernels
import lint
import logscan
import matrix
import processes
import pytest
import suite
import vm

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 1 PID: 77 at mm/memory.c:12 zap",
        "BUG: Bad page state in process x pfn:123",
        "BUG: KASAN: use-after-free in exmap_op_alloc",
        "BUG: sleeping function called from invalid context",
        "WARNING: possible circular locking dependency detected",
        "Oops: 0000 [#1] PREEMPT SMP",
        "exmap: leaked frames in region 3: 15 of 16 found",
        "INFO: task abi:77 blocked for more than 120 seconds.",
        "UBSAN: array-index-out-of-bounds in x",
        "BUG: non-zero pgtables_bytes on freeing mm: 4096",
    ],
)
def test_log_scanner_finds_trouble(line: str) -> None:
    assert logscan.complaints([line]) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "exmap: loading out-of-tree module taints kernel.",
        "exmap: module verification failed: signature and/or required key missing - tainting kernel",
        "EXT4-fs (nvme1n1): mounted filesystem",
        "hrtimer: interrupt took 16238320 ns",
        "... MAX_LOCK_DEPTH:          48",
        '[    8.928062] virtme-ng-init: WARNING: failed to run: "systemd-tmpfiles"',
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    ],
)
def test_log_scanner_lets_a_healthy_guest_pass(line: str) -> None:
    assert not logscan.complaints([line])


RACE = """\
==================================================================
BUG: KCSAN: data-race in {function} / tick_nohz_idle_got_tick
read to 0xffff88813bc1d2a0 of 4 bytes by task 12 on cpu 1:
 {function}+0x1b/0x40
==================================================================
BUG: something else
"""


def test_data_races_count_if_the_module_has_a_part_in_them() -> None:
    ours = RACE.format(function="exmap_op [exmap]").splitlines()
    assert logscan.complaints(ours) == [ours[1], ours[5]]
    foreign = RACE.format(function="tick_nohz_handler").splitlines()
    assert logscan.complaints(foreign) == [foreign[5]]
    assert logscan.complaints(foreign[:3]) == []


LEAKS = """\
unreferenced object 0xffff888003c2a000 (size 64):
  comm "insmod", pid 123, jiffies 4294900000
  backtrace (crc 1234):
    __kmalloc_cache_noprof+0x1b2/0x2f0
    exmap_open+0x12/0x30 [exmap]
unreferenced object 0xffff888003c2b000 (size 64):
  comm "udevd", pid 75, jiffies 4294900001
  backtrace (crc 1235):
    __kmalloc_cache_noprof+0x1b2/0x2f0
unreferenced object 0xffff888003c2c000 (size 128):
  comm "rmmod", pid 124, jiffies 4294900002
  backtrace (crc 1236):
    __kmalloc_cache_noprof+0x1b2/0x2f0
    0xffffffffc0201300
"""


def test_leaks_are_those_of_the_module_with_and_without_names() -> None:
    assert ["size 64" in leak for leak in logscan.leaks(LEAKS)] == [True, False]
    assert "0xffff888003c2b000" not in str(logscan.leaks(LEAKS))


def test_missing_verdict_means_a_lost_guest_whose_last_words_are_told(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text("6,1,2,-;all is well\n")
    (tmp_path / "console").write_text("Kernel panic\n")
    (tmp_path / "launcher").write_text("ci/vm: QEMU ended with 139\n")
    (tmp_path / "resets").write_text("CPU Reset (CPU 0)\nTriple fault\nEAX=0\n")
    with pytest.raises(vm.LostGuest, match=r"Triple fault\n.*with 139\n.*all is well\nKernel panic\n"):
        vm.read_verdict(tmp_path)
    (tmp_path / "verdict").write_text("exit 3\n")
    assert vm.read_verdict(tmp_path) == 3
    (tmp_path / "verdict").write_text("setup insmod failed: no\n")
    with pytest.raises(vm.GuestSetupFailed, match="insmod failed"):
        vm.read_verdict(tmp_path)


def command_of(guest: vm.Guest, tmp_path: Path) -> str:
    kernel = kernels.Kernel("x", "6.1", Path("/boot/vmlinuz"), Path("/k"))
    return " ".join(vm.vng_command(guest, kernel, tmp_path, kvm=True))


def test_icount_means_one_cpu_without_kvm(tmp_path: Path) -> None:
    command = command_of(vm.Guest(icount=True, smp=4), tmp_path)
    assert "--cpus 1" in command
    assert "--disable-kvm" in command
    assert "virtio-pci.ioeventfd=off" in command
    assert "-icount shift=0" in command


def test_disks_and_iommu_become_devices(tmp_path: Path) -> None:
    command = command_of(vm.Guest(nvme=("1M", "2M"), iommu=True), tmp_path)
    assert command.count("-device nvme") == 2
    assert "intel-iommu" in command
    assert "--disable-kvm" not in command
    assert "ioeventfd" not in command
    assert [p.stat().st_size for p in sorted(tmp_path.glob("*.img"))] == [2**20, 2**21]


def test_disks_are_of_the_kinds_that_there_are(tmp_path: Path) -> None:
    kinds = ("16M:bad", "1M:slow", "1M", "1M:hot", "1M:4k", "1M:meta", "1M:2k", "1M:fast")
    command = command_of(vm.Guest(nvme=kinds, iommu=True), tmp_path)
    blocks = ("logical_block_size=4096", "logical_block_size=2048", "ms=8")
    for word in ("blkdebug", "throttling.iops-total", "bus=port3", "aio=io_uring", *blocks):
        assert command.count(word) == 1
    with pytest.raises(vm.GuestError, match="1M:quick"):
        command_of(vm.Guest(nvme=("1M:quick",)), tmp_path)


def test_only_guests_with_a_disk_to_unplug_have_a_monitor(tmp_path: Path) -> None:
    assert "-qmp" not in command_of(vm.Guest(nvme=("1M",)), tmp_path)
    assert "-qmp" in command_of(vm.Guest(nvme=("1M:hot",), iommu=True), tmp_path)


def test_every_kernel_of_the_matrix_has_a_source() -> None:
    assert {"6.1", "6.12", "debug"} <= set(kernels.matrix())
    for entry in kernels.matrix().values():
        assert "variant" in entry or {"pattern"} | (
            {"chroot"} if "chroot" in entry else {"release", "suite"}
        ) <= set(entry)


def test_the_matrix_fills_its_table_and_nothing_else_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernels.Kernel("6.1", "6.1.0-9-amd64", Path("/boot/x"), Path("/k"))
    monkeypatch.setattr(kernels, "find", lambda name: found)
    rows = matrix.table({"6.1": suite.Outcome("vm:6.1", passed=7, failed=1, skipped=2)})
    assert "| 6.1.0-9-amd64 | bookworm | 7 | 1 | 2 |" in rows
    page = matrix.with_table(matrix.PAGE.read_text(), rows)
    assert rows in page
    assert matrix.with_table(page, rows) == page
    assert "6.1" in matrix.packaged()
    assert "debug" not in matrix.packaged()
    with pytest.raises(ValueError, match="no marks"):
        matrix.with_table("a page", rows)


def test_unknown_kernel_is_named_with_those_that_exist() -> None:
    with pytest.raises(kernels.KernelMissing, match=r"6\.12"):
        kernels.find("2.4")


def test_installed_kernels_are_those_with_image_and_headers_newest_last(tmp_path: Path) -> None:
    modules, boot = tmp_path / "usr/lib/modules", tmp_path / "boot"
    boot.mkdir()
    for release in ("6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-11-amd64"):
        (modules / release / "build").mkdir(parents=True)
        if "11" not in release:
            (boot / f"vmlinuz-{release}").touch()
    assert kernels.installed("6.1.0-*-amd64", tmp_path) == ["6.1.0-9-amd64", "6.1.0-10-amd64"]


def test_links_in_a_chroot_are_meant_from_its_root_on(tmp_path: Path) -> None:
    modules = tmp_path / "usr/lib/modules/7.2.1-amd64"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to("/usr/src/of-7.2.1")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-7.2.1-amd64").touch()
    assert kernels.installed("7.2.*", tmp_path) == []
    (tmp_path / "usr/src/of-7.2.1").mkdir(parents=True)
    assert kernels.installed("7.2.*", tmp_path) == ["7.2.1-amd64"]


def test_missing_or_cut_results_count_as_a_failure(tmp_path: Path) -> None:
    outcome = suite.Outcome("x")
    suite.read_junit(tmp_path / "none.xml", outcome)
    (tmp_path / "cut.xml").write_text("<testsuites><testsuite>")
    suite.read_junit(tmp_path / "cut.xml", outcome)
    assert outcome.failed == 2


def test_results_are_counted(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="b"/><testcase classname="a" name="c"><failure/>'
        '</testcase><testcase classname="a" name="d"><skipped/></testcase></testsuite></testsuites>'
    )
    outcome = suite.Outcome("x")
    suite.read_junit(report, outcome)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 1, 1)
    assert outcome.failures == ["a::c"]


def test_cases_that_did_not_run_have_failed(tmp_path: Path) -> None:
    outcome = suite.Outcome("x")
    (tmp_path / "cases").write_text("0 good\n77 lacking\n134 bad\n")
    suite.read_cases(tmp_path / "cases", ["good", "lacking", "bad", "never"], outcome)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 2, 1)
    assert outcome.failures == ["bad: 134", "never: did not run"]


def test_a_part_that_raises_has_failed_and_the_summary_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_such_tool() -> str | None:
        raise FileNotFoundError("no such tool")

    monkeypatch.setattr(lint, "CHECKS", (lint.Check("x", lambda: None), lint.Check("y", no_such_tool)))
    monkeypatch.setattr(processes, "exit_on_signals", lambda: None)
    assert suite.main(["lint", "nothing"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "    FAILED FileNotFoundError: no such tool" in printed
    assert printed[-1] == "1 passed, 2 failed, 0 skipped"


def test_function_lengths_are_counted_in_lines() -> None:
    text = (
        "static int a(int b)\n{\n\treturn b;\n}\n\n"
        "int long_one(int b,\n\t     int c)\n{\n\tb++;\n\tc++;\n\treturn b;\n}\n"
    )
    assert lint.function_lengths(text) == {"a": 3, "long_one": 5}


def record(case: str, value: float) -> dict[str, object]:
    return {"bench": "pages", "case": case, "metric": "instructions_per_op", "value": value}


def test_bench_holds_of_nvme_the_owned_queue_against_the_last_figures_and_nothing_else() -> None:
    def cost(path: str, value: float) -> dict[str, object]:
        case = f"path={path},op=read,qd=32,threads=1"
        return {"bench": "nvme", "case": case, "metric": "instructions_per_io", "value": value}

    before = [cost("user", 110), cost("uring_best", 2000), cost("pread", 9000)]
    after = [cost("user", 122), cost("uring_best", 9000)]
    assert bench.regressions(before, after) == [
        "path=user,op=read,qd=32,threads=1: 110 instructions, now 122"
    ]
    assert not bench.regressions(before, [cost("user", 120)])


def test_bench_reports_what_got_more_than_a_tenth_worse() -> None:
    before = [record("vector=1", 100.0), record("vector=64", 100.0), record("vector=2", 5.0)]
    after = [record("vector=1", 109.0), record("vector=64", 111.0)]
    assert bench.regressions(before, after) == [
        "vector=2: not measured",
        "vector=64: 100 instructions, now 111",
    ]


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_processes_that_were_started(tmp_path: Path, number: signal.Signals) -> None:
    pids = tmp_path / "pids"
    program = (
        "import processes; processes.exit_on_signals();"
        f"processes.run(['sh', '-c', 'sleep 99 & echo $$ $! >{pids}.new; mv {pids}.new {pids}; sleep 99'])"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT / "ci")
    wait_for(pids.exists)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not [pid for pid in pids.read_text().split() if Path("/proc", pid).exists()]


def test_ci_vm_without_a_command_is_a_usage_error() -> None:
    done = subprocess.run([ROOT / "ci/vm", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no command" in done.stderr


@pytest.mark.slow
def test_guest_passes_output_and_exit_code_through() -> None:
    command = [ROOT / "ci/vm", "run", "--kernel", "6.1", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err\n" in done.stderr


@pytest.mark.slow
def test_guest_that_panics_is_lost() -> None:
    command = [ROOT / "ci/vm", "run", "--kernel", "6.1", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == vm.EXIT_LOST
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr
    assert "ci/vm: virtme-ng ended with" in done.stderr


def test_parts_side_by_side_count_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    found = suite.run_together(["no.1", "no.12"])
    assert [(outcome.part, outcome.passed, outcome.failed) for outcome in found] == [
        ("no.1", 0, 1),
        ("no.12", 0, 1),
    ]
    assert "no part 'no.1'" in found[0].failures[0]
    # what they print is not lost
    assert "=== no.12" in capsys.readouterr().out


@pytest.mark.slow
def test_the_suite_takes_its_guest_with_it(tmp_path: Path) -> None:
    def guests() -> list[str]:
        found = subprocess.run(
            ["pgrep", "-f", f"qemu.*{tmp_path}"], capture_output=True, text=True, check=False
        )
        return found.stdout.split()

    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "ci/suite.py", "vm:6.12"], cwd=ROOT, env=environment)
    try:
        wait_for(lambda: bool(guests()), seconds=900)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert not guests()
        assert not list(tmp_path.iterdir())
    finally:
        process.terminate()


def test_reports_of_the_boot_are_the_kernels_own() -> None:
    early = "[    0.003814] BUG: KASAN: wild-memory-access in do_raw_spin_lock+0x122/0x270"
    booted = "[   44.356635] Run /init as init process"
    late = "[   50.1] BUG: KASAN: use-after-free in exmap_ioctl+0x1/0x2 [exmap]"
    assert logscan.complaints([early, booted, late]) == [late]
    assert logscan.complaints([early]) == [early]


@pytest.mark.parametrize("shares", [1, 2, 3])
def test_shares_are_all_of_the_tests_and_each_of_them_once(shares: int) -> None:
    tests = [f"tests/vm/test_{n}.py" for n in range(7)]
    found = [suite.share_of(tests, f"{n}/{shares}") for n in range(1, shares + 1)]
    assert sorted(name for share in found for name in share) == tests == suite.share_of(tests, "")
