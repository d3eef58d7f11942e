"""How debug kernels are found, and what they are configured with."""

from pathlib import Path

import debug_kernel
import kernels
import pytest
import suite


@pytest.fixture
def fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and fragments that may be changed."""
    folder = tmp_path / "fragments"
    folder.mkdir()
    for path in debug_kernel.FRAGMENTS.glob("*.config"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.setattr(debug_kernel, "FRAGMENTS", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EXMAP_DEBUG_KERNEL", raising=False)
    return folder


def make(variant: str, version: str) -> debug_kernel.Build:
    build = debug_kernel.describe(variant, version)
    build.image.parent.mkdir(parents=True)
    build.image.touch()
    (build.tree / "complete").write_text(version + "\n")
    return build


def test_both_variants_look_for_different_things() -> None:
    assert debug_kernel.variants() == ["kasan", "kcsan"]
    assert debug_kernel.describe("kasan", "1").tree != debug_kernel.describe("kcsan", "1").tree


def test_a_comment_does_not_make_another_kernel_and_an_option_does(fragments: Path) -> None:
    before = debug_kernel.describe("kasan", "1").tree
    base = fragments / "base.config"
    base.write_text("# a comment\n" + base.read_text())
    assert debug_kernel.describe("kasan", "1").tree == before
    base.write_text(base.read_text() + "# CONFIG_PROVE_NUMA is not set\n")
    assert debug_kernel.describe("kasan", "1").tree != before
    assert debug_kernel.describe("kasan", "2").tree != before


def test_options_that_kconfig_dropped_are_named() -> None:
    wanted = "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\nCONFIG_E=17\n"
    assert debug_kernel.dropped_options(wanted, "CONFIG_A=y\nCONFIG_D=m\nCONFIG_E=15\n") == [
        "CONFIG_B",
        "CONFIG_D",
        "CONFIG_E",
    ]


def test_a_kernel_is_found_when_it_is_complete_and_made_with_these_fragments(fragments: Path) -> None:
    assert debug_kernel.find_built("kasan") is None
    built = make("kasan", "6.12.1")
    assert debug_kernel.find_built("kasan") == built
    assert debug_kernel.find_built("kcsan") is None
    (fragments / "kasan.config").write_text("CONFIG_KASAN=y\n")
    assert debug_kernel.find_built("kasan") is None


def test_own_kernel_comes_before_a_prebuilt_one(fragments: Path) -> None:
    built = make("kasan", "6.12.1")
    assert kernels.find("debug").image == built.image


def test_without_a_debug_kernel_the_command_that_makes_one_is_named(
    fragments: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(kernels.KernelMissing, match="ci/debug-kernel build --variant kcsan"):
        kernels.find("debug-kcsan")
    monkeypatch.setenv("EXMAP_DEBUG_KERNEL", str(tmp_path))
    with pytest.raises(kernels.KernelMissing, match="EXMAP_DEBUG_KERNEL"):
        kernels.find("debug")


def test_the_short_part_is_skipped_aloud_without_its_kernel(
    fragments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = suite.run_part("vm-short:debug-kcsan")
    assert (outcome.passed, outcome.failed, outcome.skipped) == (0, 0, 1)
    assert outcome.note.startswith("skipped: no debug kernel")
