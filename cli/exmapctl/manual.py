"""The manual page, made of the help of all commands."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from exmapctl import __version__

__all__ = ["render"]


def escape(text: str) -> str:
    """Keep roff from taking text for requests or hyphens."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.splitlines())


def paragraphs(help_text: str | None) -> str:
    """Lay out the help of a command."""
    return escape(inspect.cleandoc(help_text or "")).replace("\n\n", "\n.PP\n")


def walk(group: TyperGroup, name: str) -> Iterator[tuple[str, Any]]:
    """Yield all commands below a group, with their full names."""
    for key, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from walk(command, f"{name} {key}")
        else:
            yield f"{name} {key}", command


def parameter_lines(command: Any, name: str) -> Iterator[str]:
    """Lay out arguments and options, as --help does."""
    context = typer.Context(command, info_name=name)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record:
            yield f".TP\n.B {escape(record[0])}\n{escape(record[1] or record[0])}"


def render(app: Any) -> str:
    """Write the page."""
    parts = [
        f'.TH EXMAPCTL 8 "" "exmap {__version__}" "System Administration"',
        f".SH NAME\nexmapctl \\- {escape(first_sentence(app.help))}",
        ".SH SYNOPSIS\n.B exmapctl\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]",
        ".SH COMMANDS",
    ]
    for name, command in walk(app, "exmapctl"):
        parts += [f".SS {escape(name)}", paragraphs(command.help), *parameter_lines(command, name)]
    parts += [".SH EXIT STATUS", "0: done. 1: it failed, for the reason on stderr. 2: wrong usage."]
    parts += [".SH SEE ALSO", escape("docs/reference/cli.md, docs/how-to/monitor.md")]
    return "\n".join(parts) + "\n"


def first_sentence(text: str | None) -> str:
    """Take the first sentence, as manual pages want it."""
    return (text or "").split(".")[0]
