"""A wheel made of the source distribution, in an empty environment, used away from the tree."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import pathlib, sys
import exmapdb, exmap_kmod, libexmap

assert all(sys.prefix in module.__path__[0] for module in (exmapdb, exmap_kmod, libexmap))
with exmapdb.open("stars.exdb", memory="256KiB", backend="posix") as db:
    stars = db.create_table("stars", {"id": "int64", "name": "text?"}, key="id")
    assert stars.insert_many({"id": [1, 2], "name": ["Sirius", None]}) == 2
with exmapdb.open("stars.exdb", memory="256KiB", backend="posix") as db:
    stars = db.table("stars")
    with db.snapshot() as snapshot:
        stars.upsert({"id": 1, "name": "Vega"})
        assert snapshot.table("stars").get(1) == {"id": 1, "name": "Sirius"}
    assert stars.get(1) == {"id": 1, "name": "Vega"}
    db.check()
pathlib.Path("data.bin").write_bytes(b"x" * 4096)
with libexmap.Region.open(pages=512, pool=16, backing="data.bin", backend="posix") as region:
    region[0].read([0])
    assert bytes(region.page(0)[:2]) == b"xx" and region.counters.conserved
"""


def run(*command: str | Path, cwd: Path, ok: tuple[int, ...] = (0,), **environment: str) -> str:
    """Run a program that may know nothing of this tree; return what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode in ok, done.stdout
    return done.stdout


def tracked_files() -> list[str]:
    """Return what is, or would be, in the repository."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def copy_tree(target: Path) -> Path:
    for name in tracked_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made of a source distribution, as `pip install exmap-0.1.0.tar.gz` makes it."""
    top = tmp_path_factory.mktemp("wheel")
    tree = copy_tree(top / "tree")
    backend = f"import setuptools.build_meta as backend; backend.build_sdist({str(top)!r})"
    run(sys.executable, "-c", backend, cwd=tree)
    [sdist] = top.glob("*.tar.gz")
    # the three extensions side by side
    (top / "parallel.cfg").write_text("[build_ext]\nparallel = 3\n")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", top, sdist, cwd=top, DIST_EXTRA_CONFIG=str(top / "parallel.cfg"))
    [wheel] = top.glob("*.whl")
    return wheel


def requirements(name: str) -> set[str]:
    """Return the distributions that one needs, and those that they need."""
    found = set()
    for text in importlib.metadata.requires(name) or []:
        requirement, _, marker = text.partition(";")
        match = re.match(r"[\w.-]+", requirement)
        if match and "extra" not in marker:
            try:
                importlib.metadata.distribution(match[0])
            except importlib.metadata.PackageNotFoundError:
                continue  # of another platform
            found |= {match[0]} | requirements(match[0])
    return found


def make_environment(path: Path, wheel: Path) -> Path:
    """Install a wheel, with what it says it needs and nothing else; return the environment's programs."""
    run(sys.executable, "-m", "venv", "--without-pip", path, cwd=path.parent)
    python = path / "bin/python"
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=path).strip()
    )
    for name in requirements("exmap"):
        distribution = importlib.metadata.distribution(name)
        # programs, which are outside, are not needed
        tops = {
            file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")
        }
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "-q", "--no-index", wheel, cwd=path)
    run(*pip, "check", cwd=path)
    return path / "bin"


def test_an_installed_package_works_away_from_the_tree(wheel: Path, tmp_path: Path) -> None:
    programs = make_environment(tmp_path / "environment", wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(programs / "python", "-c", PROGRAM, cwd=elsewhere)
    assert "doctor" in run(programs / "exmapctl", "--help", cwd=elsewhere)
    assert "demo" in run(programs / "exmapdb", "--help", cwd=elsewhere)
    checks = json.loads(run(programs / "exmapctl", "doctor", "--json", cwd=elsewhere, ok=(0, 1)))
    [built] = [check for check in checks if check["check"] == "built"]
    # the command that builds the module takes the sources that came with the package
    assert f"dkms add {tmp_path}" in built["fix"]
    assert "exmap_kmod" in built["fix"]


def test_the_wheel_has_all_that_python_and_dkms_want(wheel: Path) -> None:
    packages = {"kmod": "exmap_kmod", "cli": "", "dbms": "", "libexmap/libexmap": "libexmap"}
    expected = set()
    for name in tracked_files():
        for folder, package in packages.items():
            if name.startswith(f"{folder}/") and not name.endswith("_build.py") and "/native/" not in name:
                expected.add(f"{package}/{name.removeprefix(f'{folder}/')}".lstrip("/"))
    assert "exmap_kmod/nvme/pci.c" in expected
    assert expected - set(zipfile.ZipFile(wheel).namelist()) == set()
