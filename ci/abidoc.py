"""Make docs/reference/abi.md from kmod/uapi/exmap.h: the header stays the only specification."""

import re
import sys
from pathlib import Path

__all__ = ["main", "render"]

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT / "kmod/uapi/exmap.h"
PAGE = ROOT / "docs/reference/abi.md"
HEAD = """# The ABI of /dev/exmap

*Generated from [`kmod/uapi/exmap.h`](../../kmod/uapi/exmap.h) by `make docs`; do not edit.*

"""


def _specification(text: str) -> str:
    """Turn the header's opening comment into sections."""
    comment = re.search(r"/\*\n(.*?)\n \*/\n#ifndef", text, re.DOTALL)
    if comment is None:
        raise ValueError("the header has no opening comment")
    lines = [line[3:] if line.startswith(" * ") else line[2:] for line in comment.group(1).splitlines()]
    out = []
    for line in lines:
        if re.fullmatch(r"[A-Z][A-Z ,-]+", line):
            out.append(f"## {line.capitalize()}")
        elif line.startswith("\t"):
            out.append("    " + line.expandtabs(8))
        else:
            out.append(line)
    return "\n".join(out)


def _definitions(text: str) -> str:
    """Return what follows the specification, as it stands."""
    body = text[text.index("#define EXMAP_ABI_VERSION") : text.rindex("#endif")]
    return f"## Definitions\n\n```c\n{body.strip()}\n```\n"


def render(text: str) -> str:
    """Return the page for a header's text."""
    return HEAD + _specification(text) + "\n\n" + _definitions(text)


def main() -> int:
    """Write the page; with --check, return 1 if it is stale."""
    page = render(HEADER.read_text())
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.exists() and PAGE.read_text() == page else 1
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
