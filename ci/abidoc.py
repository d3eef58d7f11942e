"""Make pages of docs/reference from the headers of kmod/uapi, which stay the only specification."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "Page", "main", "stale"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Page:
    """A page, the header that it is made from, and the first word of what is shown as it stands."""

    title: str
    header: str
    first: str
    page: str

    def render(self) -> str:
        """Return the page's text."""
        text = (ROOT / self.header).read_text()
        note = f"*Generated from [`{self.header}`](../../{self.header}) by `make docs`; do not edit.*"
        return f"# {self.title}\n\n{note}\n\n{_specification(text)}\n\n{_definitions(text, self.first)}"


PAGES = (
    Page("The ABI of /dev/exmap", "kmod/uapi/exmap.h", "#define EXMAP_ABI_VERSION", "docs/reference/abi.md"),
    Page(
        "The generic netlink family",
        "kmod/uapi/exmap_netlink.h",
        "#define EXMAP_GENL_NAME",
        "docs/reference/netlink.md",
    ),
    Page(
        "The ABI of NVMe queues and backings",
        "kmod/uapi/exmap_nvme_abi.h",
        "#define EXMAP_NVME_MAX_DEPTH",
        "docs/reference/abi-nvme.md",
    ),
)


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


def _definitions(text: str, first: str) -> str:
    """Return what follows the specification, as it stands."""
    body = text[text.index(first) : text.rindex("#endif")]
    return f"## Definitions\n\n```c\n{body.strip()}\n```\n"


def stale() -> list[str]:
    """Name the pages that are not what their headers say."""
    return [
        page.page
        for page in PAGES
        if not (ROOT / page.page).exists() or (ROOT / page.page).read_text() != page.render()
    ]


def main() -> int:
    """Write the pages; with --check, return 1 if one is stale."""
    if "--check" in sys.argv[1:]:
        return int(bool(stale()))
    for page in PAGES:
        (ROOT / page.page).write_text(page.render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
