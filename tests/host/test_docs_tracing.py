"""docs/reference/tracing.md and netlink.md say what the headers say."""

import re
from pathlib import Path

import abidoc
import pytest
from exmap_netlink.constants import ATTRIBUTES, Command
from exmapctl.tracing import EVENTS

ROOT = Path(__file__).resolve().parents[2]
TRACING = (ROOT / "docs/reference/tracing.md").read_text()
HEADER = (ROOT / "kmod/trace.h").read_text()
MONITOR = (ROOT / "docs/how-to/monitor.md").read_text()


def printed_fields(event: str) -> list[str]:
    """The fields that an event, or its class, prints."""
    instance = re.search(rf"DEFINE_EVENT\((\w+), exmap_{event},", HEADER)
    name = instance.group(1) if instance else f"exmap_{event}"
    body = re.search(rf"\({name},\n.*?TP_printk\((.*?)\n\);", HEADER, re.DOTALL)
    assert body is not None
    return re.findall(r"(\w+)=%", body.group(1))


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_there_with_its_fields_and_a_line_to_try(event: str) -> None:
    [row] = re.findall(rf"^\| `exmap_{event}` \|.*\| (.*) \|$", TRACING, re.MULTILINE)
    fields = printed_fields(event)
    assert fields
    assert [field for field in fields if not re.search(rf"\b{field}\b", row)] == []
    assert re.search(rf"^    (?:perf|bpftrace) .*exmap:exmap_{event}\b", TRACING, re.MULTILINE)


def test_every_reason_and_kind_is_there() -> None:
    names = re.findall(r"\{ EXMAP_(?:FLUSH|FAULT_KIND)_\w+,\s*\"(\w+)\" \}", HEADER)
    assert len(names) == 12
    assert [name for name in names if f"`{name}`" not in TRACING] == []


def test_one_liners_use_fields_that_there_are() -> None:
    stored = set(re.findall(r"__field\([\w ]+, (\w+)\)", HEADER))
    assert set(re.findall(r"args->(\w+)", TRACING)) <= stored


def test_the_netlink_page_is_fresh_and_complete() -> None:
    assert abidoc.stale() == []
    page = (ROOT / "docs/reference/netlink.md").read_text()
    names = [f"EXMAP_GENL_CMD_{command.name}" for command in Command]
    names += [f"EXMAP_GENL_A_{name}" for name, _ in ATTRIBUTES]
    assert [name for name in names if name not in page] == []


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in abidoc.PAGES:
        for name in (page.header, page.page):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(abidoc, "ROOT", tmp_path)
    assert abidoc.stale() == []
    header = tmp_path / abidoc.PAGES[1].header
    header.write_text(header.read_text().replace("EVENT_INTERVAL	1000", "EVENT_INTERVAL	2000"))
    assert abidoc.stale() == ["docs/reference/netlink.md"]


def test_the_how_to_names_commands_that_there_are() -> None:
    reference = (ROOT / "docs/reference/cli.md").read_text()
    used = set(re.findall(r"^    exmapctl ([a-z]+(?: (?:list|diff))?)", MONITOR, re.MULTILINE))
    assert {"status", "top", "snapshot diff", "trace", "monitor"} <= used
    assert [name for name in used if f"`exmapctl {name}`\n" not in reference] == []
