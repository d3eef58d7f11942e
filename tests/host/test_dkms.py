"""kmod/dkms.conf, by really running dkms: add, build, install, status, remove, in trees of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import kernels
import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME, VERSION = "exmap", "0.1.0"
MODULE = f"{NAME}/{VERSION}"
KERNEL = "6.12"


class Dkms:
    """dkms with every tree below one directory."""

    def __init__(self, top: Path, release: str) -> None:
        self.release = release
        self.install_tree = top / "modules"
        # dkms installs for no kernel that has no directory here
        (self.install_tree / release).mkdir(parents=True)
        self._trees = []
        for option in ("dkmstree", "sourcetree"):
            (top / option).mkdir()
            self._trees += [f"--{option}", str(top / option)]
        self._trees += ["--installtree", str(self.install_tree)]
        # it would make a key in /var/lib/dkms otherwise
        self._environment = os.environ | {
            "mok_signing_key": str(top / "mok.key"),
            "mok_certificate": str(top / "mok.pub"),
            "LC_ALL": "C.UTF-8",
        }

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            ["dkms", *self._trees, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def modules(self) -> list[Path]:
        return [path for path in self.install_tree.rglob("*") if path.is_file()]


@pytest.fixture
def dkms(tmp_path: Path) -> Dkms:
    if shutil.which("dkms") is None:
        pytest.skip("dkms is not installed (Debian's package dkms)")
    try:
        release = kernels.find(KERNEL).release
    except kernels.KernelMissing as error:
        pytest.skip(str(error))
    return Dkms(tmp_path, release)


def modinfo(module: Path, name: str) -> str:
    command = ["modinfo", "-F", name, str(module)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_dkms_builds_installs_and_removes_the_module(dkms: Dkms, tmp_path: Path) -> None:
    source = tmp_path / "kmod"
    shutil.copytree(
        ROOT / "kmod", source, ignore=shutil.ignore_patterns("*.o", "*.ko", "*.mod*", ".*", "Module.symvers")
    )
    files = {path.relative_to(source) for path in source.rglob("*")}

    dkms("add", str(source))
    assert dkms("status") == f"{MODULE}: added\n"
    dkms("build", MODULE, "-k", dkms.release)
    assert dkms("status") == f"{MODULE}, {dkms.release}, x86_64: built\n"
    dkms("install", MODULE, "-k", dkms.release, "--no-depmod")
    assert dkms("status") == f"{MODULE}, {dkms.release}, x86_64: installed\n"

    [module] = dkms.modules()
    # Debian's dkms puts everything there, whatever DEST_MODULE_LOCATION says
    assert module.relative_to(dkms.install_tree / dkms.release).parts[:2] == ("updates", "dkms")
    assert module.name.split(".")[0] == NAME
    assert modinfo(module, "version") == f"{VERSION}\n"
    assert modinfo(module, "vermagic").split()[0] == dkms.release

    dkms("remove", MODULE, "--all")
    assert dkms("status") == ""
    assert dkms.modules() == []
    # the build took place elsewhere
    assert {path.relative_to(source) for path in source.rglob("*")} == files


def test_dkms_names_the_version_of_the_module_and_of_the_package() -> None:
    conf = (ROOT / "kmod/dkms.conf").read_text()
    assert f'PACKAGE_NAME="{NAME}"' in conf
    assert f'PACKAGE_VERSION="{VERSION}"' in conf
    assert f'MODULE_VERSION("{VERSION}")' in (ROOT / "kmod/main.c").read_text()
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
