"""The reference of the command line is complete and fresh."""

from pathlib import Path

import pytest
import typer
from exmapctl import docs
from exmapctl.app import app


def commands(group: typer.core.TyperGroup, prefix: str) -> list[str]:
    """Name all commands below a group."""
    names = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        names.append(full)
        if isinstance(command, typer.core.TyperGroup):
            names += commands(command, full)
    return names


def all_commands() -> list[str]:
    """Name all commands of exmapctl."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return commands(group, "exmapctl")


def test_there_are_commands() -> None:
    assert {"exmapctl doctor", "exmapctl bench pages"} <= set(all_commands())


@pytest.mark.parametrize("command", all_commands())
def test_every_command_is_documented(command: str) -> None:
    assert f" `{command}`\n" in docs.REFERENCE.read_text()


def test_the_reference_is_fresh() -> None:
    assert docs.main(["--check"]) == 0, "run python -m exmapctl.docs"


def test_a_stale_reference_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "cli.md"
    stale.write_text("old")
    assert docs.main(["--check"], stale) == 1
    assert "python -m exmapctl.docs" in capsys.readouterr().err


def test_the_reference_is_written(tmp_path: Path) -> None:
    fresh = tmp_path / "reference" / "cli.md"
    assert docs.main([], fresh) == 0
    assert docs.main(["--check"], fresh) == 0
