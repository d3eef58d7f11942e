"""The commands: one line and an exit code for errors, JSON that can be parsed."""

import json
import os
import platform
from pathlib import Path

import pytest
from exmapctl.app import app
from exmapctl.bench import cli as bench_cli
from exmapctl.bench import plot
from exmapctl.bench.record import Record
from typer.testing import CliRunner, Result

pytestmark = pytest.mark.skipif(
    Path("/sys/module/exmap/initstate").exists(), reason="the module is loaded on this machine"
)


def run(*arguments: str) -> Result:
    """Run exmapctl."""
    return CliRunner().invoke(app, list(arguments))


def assert_one_line(result: Result, code: int, *words: str) -> None:
    """An error: nothing on stdout, one line on stderr."""
    assert result.exit_code == code
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("exmapctl: ")
    assert [word for word in words if word not in result.stderr] == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nonsense",), "nonsense"),
        (("status", "--nonsense"), "--nonsense"),
        (("bench", "pages", "--backend", "windows"), "windows"),
        (("bench", "pages", "--seconds", "0"), "--seconds"),
        (("bench", "pages", "--rounds", "many"), "--rounds"),
        (("bench", "presence", "--region-pages", "1"), "--region-pages"),
        (("bench", "presence", "--plot", "figure.txt"), "figure.txt"),
        (("bench", "presence", "--plot", "/nonexistent/figure.svg"), "/nonexistent/figure.svg"),
        (("bench", "snapshot", "--sizes", "3MiB"), "3MiB"),
        (("bench", "snapshot", "--writers", "none"), "none"),
        (("bench", "snapshot", "--reader", "eyes"), "--reader"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...], word: str) -> None:
    assert_one_line(run(*arguments), 2, word)


def test_version() -> None:
    assert run("--version").stdout == "0.1.0\n"


def test_doctor_json_and_exit_code() -> None:
    result = run("doctor", "--json")
    checks = json.loads(result.stdout)
    assert {"check", "status", "detail", "fix"} == set(checks[0])
    assert next(check for check in checks if check["check"] == "loaded")["status"] == "fail"
    assert result.exit_code == 1


def test_doctor_table_shows_every_check() -> None:
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert [
        name for name in ("kernel", "xen", "device", "memlock", "iommu") if name not in result.stdout
    ] == []


def test_status_json_without_the_module() -> None:
    result = run("status", "--json")
    assert result.exit_code == 0
    status = json.loads(result.stdout)
    assert (status["loaded"], status["references"], status["users"]) == (False, 0, [])


def test_status_for_people_without_the_module() -> None:
    assert "no" in run("status").stdout.split()


def test_unload_without_the_module() -> None:
    assert_one_line(run("unload", "--json"), 1, "not loaded", "exmapctl load")


def test_load_of_a_file_that_is_not_there() -> None:
    assert_one_line(run("load", "/nonexistent/exmap.ko"), 1, "/nonexistent/exmap.ko")


def test_load_of_a_file_that_is_no_module(tmp_path: Path) -> None:
    path = tmp_path / "exmap.ko"
    path.write_text("no module")
    assert_one_line(run("load", str(path), "--json"), 1, str(path))


def test_load_of_another_kernels_module() -> None:
    built = Path(__file__).resolve().parents[2] / "build"
    others = [path for path in built.glob("kmod-*/exmap.ko") if platform.release() not in str(path)]
    if not others:
        pytest.skip("no module has been built")
    assert_one_line(run("load", str(others[0])), 1, "was built for kernel")


@pytest.mark.parametrize("bench", ["pages", "presence"])
def test_bench_without_the_module_says_how_to_load_it(bench: str) -> None:
    assert not os.path.exists("/dev/exmap")
    assert_one_line(run("bench", bench, "--quick"), 1, "exmapctl load")


def test_plot_without_matplotlib_fails_before_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setattr(bench_cli, "Presence", None)
    assert_one_line(run("bench", "presence", "--plot", "x.svg"), 1, "matplotlib", "exmap[plot]")


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_plot_draws(tmp_path: Path, suffix: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"figure{suffix}"
    records = [Record("presence", f"how={how}", "ns_per_check", "ns", 10.0, "pagemap", 2.0) for how in "ab"]
    plot.draw(records, "ns_per_check", path)
    assert path.read_bytes().startswith(magic)
