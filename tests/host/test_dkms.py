"""The module by dkms, for real: installed, built for a new kernel, loaded at boot, taken out again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kernels
import pytest
import vm

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NAME, VERSION = "exmap", "0.1.0"
MODULE = f"{NAME}/{VERSION}"
# what a machine has, and what it is upgraded to
KERNELS = ("6.1", "6.12")


@dataclass(frozen=True, slots=True)
class Installation:
    """What dkms_install.sh left behind."""

    stage: Path
    releases: tuple[str, str]

    def text(self, name: str) -> str:
        return (self.stage / name).read_text()

    def module(self, release: str) -> Path:
        # Debian's dkms puts everything there, whatever DEST_MODULE_LOCATION says
        [path] = (self.stage / "installed/usr/lib/modules" / release / "updates/dkms").iterdir()
        return path


def modinfo(module: Path, name: str) -> str:
    command = ["modinfo", "-F", name, str(module)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    if shutil.which("dkms") is None:
        pytest.skip("dkms is not installed: run 'make setup'")
    if os.geteuid():
        pytest.skip("a mount namespace with overlays of /usr, /etc and /var needs root")
    try:
        first, second = (kernels.find(name).release for name in KERNELS)
    except kernels.KernelMissing as error:
        pytest.skip(str(error))
    # below the project, where guests see it, and no overlay covers it
    stage = ROOT / "build/dkms"
    shutil.rmtree(stage, ignore_errors=True)
    sources = stage / "kmod"
    shutil.copytree(
        ROOT / "kmod", sources, ignore=shutil.ignore_patterns("*.o", "*.ko", "*.mod*", ".*", "Module.symvers")
    )
    before = sorted(sources.rglob("*"))
    script = [str(HERE / "dkms_install.sh"), str(sources), str(stage), first, second]
    done = subprocess.run(
        ["unshare", "--mount", "sh", *script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    # dkms builds in a copy
    assert sorted(sources.rglob("*")) == before
    yield Installation(stage, (first, second))
    shutil.rmtree(stage)


def test_dkms_builds_for_the_kernel_and_again_for_the_next_one(installation: Installation) -> None:
    first, second = installation.releases
    line = f"{MODULE}, {{}}, x86_64: installed\n"
    assert installation.text("status-first") == line.format(first)
    assert installation.text("status-second") == line.format(first) + line.format(second)
    for release in installation.releases:
        module = installation.module(release)
        assert module.name.split(".")[0] == NAME
        assert modinfo(module, "version") == VERSION
        assert modinfo(module, "vermagic").split()[0] == release


def test_dkms_signs_the_module_with_the_key_of_the_machine(installation: Installation) -> None:
    signers = [modinfo(installation.module(release), "signer") for release in installation.releases]
    assert signers == ["DKMS module signing key"] * 2


def test_nothing_is_left_once_dkms_has_removed_it(installation: Installation) -> None:
    assert installation.text("status-removed") == ""
    assert installation.text("left") == ""


def test_the_installed_module_is_loaded_at_boot_for_its_group(installation: Installation) -> None:
    # under emulation a second CPU may trip over code that the kernel changes while it boots
    guest = vm.Guest(kernel=KERNELS[1], smp=1, timeout=900.0)
    command = ["sh", str(HERE / "dkms_boot.sh"), str(installation.stage)]
    with vm.results_directory() as out:
        result = vm.run(guest, command, out=out, lock=False)
        said = (out / "stderr").read_text()
    assert result.returncode == 0, said
    assert result.complaints == []


def test_dkms_names_the_version_of_the_module_and_of_the_package() -> None:
    conf = (ROOT / "kmod/dkms.conf").read_text()
    assert f'PACKAGE_NAME="{NAME}"' in conf
    assert f'PACKAGE_VERSION="{VERSION}"' in conf
    assert f'MODULE_VERSION("{VERSION}")' in (ROOT / "kmod/main.c").read_text()
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
