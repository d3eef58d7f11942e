"""Tables that are dropped and renamed, on the posix backend; and the command."""

import json
from pathlib import Path

import exmapdb
import pytest
from drop_behaviour import *  # noqa: F403
from exmapdb.cli import app
from typer.testing import CliRunner


@pytest.fixture
def filled(tmp_path: Path) -> str:
    with exmapdb.open(tmp_path / "cli.exdb", backend="posix") as db:
        db.create_table("t", {"k": "int64"}, key="k").insert_many({"k": range(5000)})
        db.create_table("u", {"k": "int64"}, key="k")
    return str(tmp_path / "cli.exdb")


def tables(path: str) -> list[str]:
    with exmapdb.open(path, backend="posix") as db:
        return db.tables()


def test_the_command_asks_and_drops_only_after_a_yes(filled: str) -> None:
    done = CliRunner().invoke(app, ["drop", filled, "t", "--backend", "posix"], input="n\n")
    assert done.exit_code == 1
    assert tables(filled) == ["t", "u"]
    done = CliRunner().invoke(app, ["drop", filled, "t", "--backend", "posix"], input="y\n")
    assert done.exit_code == 0
    assert tables(filled) == ["u"]


def test_the_command_drops_without_a_question_and_says_what_it_freed(filled: str) -> None:
    done = CliRunner().invoke(app, ["drop", filled, "t", "--yes", "--json", "--backend", "posix"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["freed_pages"] > 10
    done = CliRunner().invoke(app, ["drop", filled, "t", "--yes", "--backend", "posix"])
    assert done.exit_code == 1
    assert done.stderr == "exmapdb: no table 't'; there is u\n"
