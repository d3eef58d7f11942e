"""The netlink client says what kmod/uapi/exmap_netlink.h says."""

import re
import subprocess
import sys
from pathlib import Path

import exmap_netlink
import pytest
from exmap_netlink import constants
from exmap_netlink.message import ExmapMessage, decode

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "kmod/uapi/exmap_netlink.h").read_text()


def enumerators(prefix: str) -> dict[str, int]:
    found = re.findall(rf"^\t{prefix}(\w+)\s*= (\d+),", HEADER, re.MULTILINE)
    return {name: int(value) for name, value in found}


def test_commands_are_the_headers() -> None:
    assert enumerators("EXMAP_GENL_CMD_") == {command.name: command.value for command in constants.Command}


@pytest.mark.parametrize("event", [c.name.lower() for c in constants.Command if "_" in c.name and c > 7])
def test_every_event_is_documented_and_awaited_by_a_test(event: str) -> None:
    assert event in (exmap_netlink.Event.__doc__ or "")
    assert re.search(rf"^ \*\t(\w+, )*{event.upper()}\b", HEADER, re.MULTILINE)
    tests = [path.read_text() for path in (ROOT / "tests/vm").glob("test_netlink*.py")]
    assert any(f'"{event}"' in text for text in tests)


def test_attributes_are_the_headers() -> None:
    names = [name for name, _ in constants.ATTRIBUTES]
    assert enumerators("EXMAP_GENL_A_") == {name: number for number, name in enumerate(names)}


def test_attributes_have_the_types_that_the_header_says() -> None:
    types = dict(constants.ATTRIBUTES)
    said = re.findall(r"^\tEXMAP_GENL_A_(\w+)\s*= \d+,\s*/\* (u32|u64|flag)", HEADER, re.MULTILINE)
    assert len(said) > 25
    assert {name: {"u32": "uint32", "u64": "uint64", "flag": "flag"}[kind] for name, kind in said} == {
        name: types[name] for name, _ in said
    }
    silent = set(types) - {name for name, _ in said} - {"UNSPEC", "PAD"}
    assert {types[name] for name in silent} == {"uint64"}


def test_other_constants_are_the_headers() -> None:
    found = dict(re.findall(r'^#define EXMAP_GENL_(\w+)[ \t]+"?(\w+?)u?"?$', HEADER, re.MULTILINE))
    assert {name: text if text.isalpha() else int(text, 0) for name, text in found.items()} == {
        "NAME": constants.FAMILY,
        "VERSION": constants.VERSION,
        "GROUP_EVENTS": constants.GROUP_EVENTS,
        "INTERFACE_CONTROL": constants.INTERFACE_CONTROL,
        "EVENT_INTERVAL": constants.EVENT_INTERVAL,
        "EVENT_INTERVAL_MIN": constants.EVENT_INTERVAL_MIN,
        "EVENT_INTERVAL_MAX": constants.EVENT_INTERVAL_MAX,
    }


@pytest.mark.parametrize("kind", [exmap_netlink.Region, exmap_netlink.Interface, exmap_netlink.Pool])
def test_every_field_of_a_value_is_an_attribute(kind: type) -> None:
    attributes = {name.lower() for name, _ in constants.ATTRIBUTES}
    assert set(kind.__annotations__) <= attributes


def test_a_message_survives_encoding_and_decoding() -> None:
    sent = ExmapMessage()
    fields = {"REGION": 7, "SNAPSHOT": 9, "START": 1 << 40, "COUNT": 512, "RESERVE": 3, "FRAMES": 4}
    sent["attrs"] = [(f"EXMAP_GENL_A_{name}", value) for name, value in fields.items()]
    sent.encode()
    received = ExmapMessage(sent.data)
    received.decode()
    assert decode(exmap_netlink.Snapshot, received) == exmap_netlink.Snapshot(
        region=7, snapshot=9, start=1 << 40, count=512, reserve=3, frames=4, broken=False
    )


@pytest.mark.skipif(Path("/sys/module/exmap").exists(), reason="the module is loaded")
def test_without_the_module_there_is_no_family() -> None:
    for opened in (exmap_netlink.Reader, exmap_netlink.Client, exmap_netlink.Events):
        with pytest.raises(exmap_netlink.FamilyAbsent):
            opened()


def test_the_reader_and_the_values_do_not_need_pyroute2() -> None:
    """It takes longer to import than all that exmapctl status does."""
    code = "import sys, exmap_netlink, exmapctl.status; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "exmap_netlink.reader" in loaded
    assert not loaded & {"pyroute2", "typer", "rich", "asyncio", "dataclasses", "subprocess", "cffi"}
