"""docs/reference/libexmap.md: its examples run, and it leaves nothing of the API out."""

import doctest
import errno
import inspect
import os
import re
import subprocess
from pathlib import Path

import pytest
from libexmap.errors import _BY_ERRNO, _OF_QUEUE, _OF_SNAPSHOT

import libexmap

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reference/libexmap.md").read_text()
HEADERS = [ROOT / "libexmap/include" / name for name in ("exmap_user.h", "exmap_nvme.h")]
HEADER = "".join(header.read_text() for header in HEADERS)
METHODS = [
    (kind, name)
    for kind in (libexmap.Region, libexmap.Interface, libexmap.Snapshot, libexmap.NvmeQueue)
    for name in vars(kind)
    if not name.startswith("_")
]
VALUES = (libexmap.Info, libexmap.Counters, libexmap.Results, libexmap.Scan, libexmap.SnapshotInfo)


STRUCTS = [
    ("exmap_config", 7),
    ("exmap", 7),
    ("exmap_snapshot", 5),
    ("exmap_nvme_config", 5),
    ("exmap_nvme_queue", 32),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def test_python_examples_give_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = doctest.DocTestParser().get_doctest("".join(blocks("pycon")), {}, "libexmap.md", None, 0)
    assert len(session.examples) > 20
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(session, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_c_examples_compile_and_hold(tmp_path: Path) -> None:
    parts = blocks("c")
    assert len(parts) > 5
    headers = ("assert.h", "errno.h", "exmap_user.h", "fcntl.h", "string.h", "unistd.h")
    includes = "".join(f"#include <{name}>\n" for name in headers)
    (tmp_path / "parts.c").write_text(f"{includes}int main(void)\n{{\n{''.join(parts)}return 0;\n}}\n")
    prefix = tmp_path / "usr"
    options = [f"PREFIX={prefix}", f"OUT={tmp_path}/out"]
    subprocess.run(["make", "-s", "-C", str(ROOT / "libexmap"), "install", *options], check=True)
    paths = [f"-I{prefix}/include", f"-L{prefix}/lib"]
    flags = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", *paths]
    program = tmp_path / "parts"
    # -UNDEBUG: the asserts are the test
    subprocess.run(
        ["gcc", "-UNDEBUG", *flags, str(tmp_path / "parts.c"), "-lexmap", "-o", str(program)], check=True
    )
    done = subprocess.run(
        [str(program)],
        cwd=tmp_path,
        env=os.environ | {"LD_LIBRARY_PATH": f"{prefix}/lib"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_function_of_the_header_is_there_as_it_is_declared() -> None:
    declared = re.findall(r"^(?:int|void|long|uint64_t) exmap_\w+\([^;{]*\);", HEADER, re.MULTILINE)
    declared += re.findall(r"^static inline [^;{]*\bexmap_\w+\([^;{]*\)$", HEADER, re.MULTILINE)
    assert len(declared) == 39
    text = squeezed("\n".join(blocks("text")))
    assert [function for function in declared if squeezed(function) not in text] == []


@pytest.mark.parametrize(("struct", "count"), STRUCTS)
def test_every_field_of_the_structs_is_there(struct: str, count: int) -> None:
    match = re.search(rf"^struct {struct} \{{\n(.*?)^\}};", HEADER, re.DOTALL | re.MULTILINE)
    assert match is not None
    section = PAGE.split(f"# struct {struct}\n")[1].split("\n#")[0]
    fields = re.findall(r"(\w+);$", match.group(1), re.MULTILINE)
    assert len(fields) == count
    assert [name for name in fields if f"`{name}`" not in section] == []


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda item: getattr(item, "__name__", str(item)))
def test_every_method_is_there_with_its_arguments(kind: type, name: str) -> None:
    headings = " ".join(re.findall(r"^### (.*)$", PAGE, re.MULTILINE))
    member = inspect.getattr_static(kind, name)
    if isinstance(member, property):
        assert f"`{kind.__name__}.{name}`" in headings
        return
    signature = inspect.signature(getattr(kind, name))
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    bare = str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))
    assert f"`{kind.__name__}.{name}{bare}`" in headings


def test_every_public_name_and_field_is_there() -> None:
    assert [name for name in libexmap.__all__ if f"`{name}`" not in PAGE and f"## {name}\n" not in PAGE] == []
    for kind in VALUES:
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind.__name__}` |"))
        public = [name for name in kind.__dataclass_fields__ if f"`{name}`" not in row]
        assert public == []


def test_every_error_is_there_with_its_errno() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (E\w+)", PAGE, re.MULTILINE))
    for number, kind in [*_BY_ERRNO.items(), *_OF_SNAPSHOT.items(), *_OF_QUEUE.items()]:
        assert errno.errorcode[number] == rows.pop(kind.__name__)
    assert sorted(rows) == [
        "DeviceUnavailable",
        "NoController",
        "QueueClosed",
        "RegionClosed",
        "SnapshotClosed",
        "SnapshotsDisabled",
    ]
