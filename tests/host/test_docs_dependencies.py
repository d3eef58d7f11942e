"""docs/reference/dependencies.md has every dependency, and no other."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/reference/dependencies.md").read_text()


def names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {match[0] for match in found if match} - {"exmap"}


def section(title: str) -> set[str]:
    """What the first column of a section's table names."""
    body = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert body is not None
    cells = re.findall(r"^\| (?!package|---)([^|]*) \|", body[1], re.MULTILINE)
    return {name for cell in cells for name in cell.split(", ")}


def test_python_packages_are_those_of_pyproject() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run_time = names(data["project"]["dependencies"])
    extras = data["project"]["optional-dependencies"]
    extra = names([item for extra, items in extras.items() if extra != "dev" for item in items])
    development = names([*extras["dev"], *data["build-system"]["requires"]])
    assert section("At run time") == run_time
    assert section("Extras") == extra
    assert section("Development and tests") == development - run_time - extra


def test_debian_packages_are_those_of_setup() -> None:
    listed = re.search(r"PACKAGES=\((.*?)\)", (ROOT / "ci/setup").read_text(), re.DOTALL)
    assert listed is not None
    named = {
        name for name in section("Debian's packages") if not re.match("linux-(image|headers|source)", name)
    }
    assert named == set(listed[1].split())
