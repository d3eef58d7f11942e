"""exmapctl beside the real module. Runs as root in the guest."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from exmapctl.app import app
from typer.testing import CliRunner, Result

pytestmark = pytest.mark.vm

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs/reference/bench-records.schema.json").read_text())
# of a kernel that watches itself (ci/debug), where each access of the module's costs a call
DEBUG = Path("/proc/lockdep").exists()
SANE = 0 if DEBUG else 3


def exmapctl(*arguments: str) -> Result:
    """Run exmapctl, in this process: to start another one takes seconds in an emulated guest."""
    return CliRunner().invoke(app, list(arguments))


def exmapctl_json(*arguments: str) -> Any:
    """Run exmapctl with --json and parse what it prints."""
    done = exmapctl(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def holder() -> Iterator[int]:
    """A process that has /dev/exmap open."""
    code = "f = open('/dev/exmap', 'r+b', buffering=0); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process.pid
        process.communicate("\n")


def test_doctor_finds_the_module_loaded() -> None:
    checks = {check["check"]: check for check in json.loads(exmapctl("doctor", "--json").stdout)}
    assert [checks[name]["status"] for name in ("kernel", "xen", "loaded", "memlock", "rawio")] == ["ok"] * 5
    assert checks["device"]["status"] != "fail"


def test_status_shows_the_abi() -> None:
    status = exmapctl_json("status")
    assert status["loaded"]
    assert (status["abi"]["abi_version"], status["abi"]["page_size"]) == (1, 4096)
    assert status["users"] == []
    assert "flush_threshold" in status["parameters"]


def test_status_names_users(holder: int) -> None:
    status = exmapctl_json("status")
    assert [(user["pid"], user["descriptors"]) for user in status["users"]] == [(holder, 1)]
    assert status["references"] >= 1


def test_unload_is_refused_while_somebody_uses_it(holder: int) -> None:
    done = exmapctl("unload")
    assert done.exit_code == 1
    assert f"({holder})" in done.stderr
    assert exmapctl_json("status")["loaded"]


def test_a_second_load_is_refused() -> None:
    done = exmapctl("load")
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert "loaded already" in done.stderr


def test_the_module_is_unloaded_and_loaded_again() -> None:
    exmapctl_json("unload")
    try:
        assert not exmapctl_json("status")["loaded"]
    finally:
        # a debug kernel's module is not where exmapctl looks for one
        named = [os.environ["EXMAP_KO"]] if os.environ["EXMAP_KERNEL"].startswith("debug") else []
        loaded = exmapctl_json("load", *named)
    assert loaded["vermagic"].split()[0] == platform.release()
    assert exmapctl_json("status")["loaded"]
    wait_for_device()


def wait_for_device() -> None:
    """Give devtmpfs a moment."""
    for _ in range(50):
        if Path("/dev/exmap").exists():
            return
        time.sleep(0.1)
    pytest.fail("no /dev/exmap")


def test_bench_pages_is_far_above_vanilla() -> None:
    records = exmapctl_json("bench", "pages", "--quick")
    jsonschema.validate(records, SCHEMA, cls=jsonschema.Draft202012Validator)
    speeds = {record["case"]: record for record in records if record["metric"] == "pages_per_s"}
    assert speeds["vector=512,threads=1,free=immediate"]["ratio"] > SANE
    assert speeds["vector=512,threads=1,free=lazy"]["ratio"] > SANE


def test_bench_presence_is_right_and_far_above_vanilla() -> None:
    records = exmapctl_json("bench", "presence", "--seconds", "0.05", "--rounds", "1")
    jsonschema.validate(records, SCHEMA, cls=jsonschema.Draft202012Validator)
    found = {(record["case"], record["metric"]): record for record in records}
    assert found["how=residency", "ns_per_check"]["ratio"] > SANE
    assert found["how=residency", "syscalls_per_check"]["value"] == 0


def test_bench_snapshot_freezes_far_faster_than_fork_and_disturbs_no_writer_unread() -> None:
    options = (
        "--sizes",
        "64MiB",
        "--writers",
        "1",
        "--seconds",
        "0.05",
        "--rounds",
        "1",
        "--share",
        "--unshare",
    )
    records = exmapctl_json("bench", "snapshot", *options)
    jsonschema.validate(records, SCHEMA, cls=jsonschema.Draft202012Validator)
    found = {(record["case"], record["metric"]): record for record in records}
    case = "size=64MiB,writers=1"
    assert found[case, "freeze_us"]["ratio"] > SANE
    assert found[case, "writer_shootdowns"]["value"] == 0
    for way in ("", ",readers=share", ",unshare=64", ",readers=share,unshare=64", ",how=userfaultfd"):
        assert found[case + way, "copies"]["value"] > 0
    # what UNSHARE has copied does not fault
    ahead = f"{case},readers=share,unshare=64"
    assert found[ahead, "writer_faults"]["value"] < found[ahead, "copies"]["value"]
