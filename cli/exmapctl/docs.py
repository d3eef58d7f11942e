"""Write the reference of the command line: `python -m exmapctl.docs`, or with --check compare it."""

import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from exmapctl.app import app
from exmapctl.module import PROJECT

__all__ = ["REFERENCE", "main", "render"]

REFERENCE = PROJECT / "docs" / "reference" / "cli.md"
NOTE = "<!-- made by `python -m exmapctl.docs`: change the commands, not this file -->\n\n"


def render() -> str:
    """Render the reference as Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="exmapctl")
    text = get_docs_for_click(obj=command, ctx=context, name="exmapctl")
    return NOTE + "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def main(arguments: list[str], reference: Path = REFERENCE) -> int:
    """Write the reference; with --check return 1 if it is stale."""
    text = render()
    if "--check" in arguments:
        fresh = reference.exists() and reference.read_text() == text
        if not fresh:
            print(f"{reference} is stale: run python -m exmapctl.docs", file=sys.stderr)
        return int(not fresh)
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
