"""ci/coverage.py and ci/gcov_dump.py: counters are found in memory, and gcov reads what is made of them."""

import ctypes
import os
import subprocess
from pathlib import Path

import coverage as ci_coverage
import drgn
import gcov_dump
import pytest

SOURCE = """
int twice(int n)
{
	int sum = 0;

	for (int i = 0; i < n; i++)
		sum += 2;
	if (n > 100)
		sum = -1;
	return sum;
}

extern const void *const __start_gcov_info[];
const void *const *const infos = __start_gcov_info;
"""


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """A directory with the notes of a source file, and the counters of three calls out of this process."""
    (tmp_path / "twice.c").write_text(SOURCE)
    flags = ["--coverage", "-fprofile-info-section=gcov_info", "-fprofile-update=atomic", "-fPIC"]
    subprocess.run(["gcc", *flags, "-c", "twice.c"], cwd=tmp_path, check=True)
    link = ["-shared", "-Wl,--defsym=__gcov_merge_add=1", "-o", "twice.so"]
    subprocess.run(["gcc", *link, "twice.o"], cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "twice.so"))
    assert [library.twice(n) for n in (0, 3, 4)] == [0, 6, 8]
    prog = drgn.Program()
    prog.set_pid(os.getpid())
    infos = ctypes.POINTER(ctypes.c_uint64).in_dll(library, "infos")
    found = gcov_dump.Counted(prog, infos[0])
    assert found.path == tmp_path / "twice.gcda"
    data = tmp_path / "data"
    data.mkdir()
    (data / "twice.gcda").write_bytes(found.gcda())
    return tmp_path


def test_counters_in_memory_are_what_gcov_shows(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ci_coverage, "KMOD", counted)
    lines = ci_coverage.read_lines(ci_coverage.run_gcov(counted, counted / "data"))
    found = lines["twice.c"]
    assert (found[4].runs, found[7].runs, found[9].runs) == (3, 7, 0)
    assert "| `twice.c` | 7 | 85.7 % | twice (1) |" in ci_coverage.table(lines)


def test_functions_with_lines_that_were_missed_are_named() -> None:
    line = ci_coverage.Line
    lines = {1: line(1, "one"), 2: line(0, "one"), 3: line(0, "one"), 7: line(0, "two"), 9: line(5, "three")}
    assert ci_coverage.missed(lines) == "one (2), two (all 1)"
    assert ci_coverage.percentage(lines.values()) == 40


def test_the_table_of_a_document_is_replaced_and_nothing_else() -> None:
    document = f"# Coverage\n{ci_coverage.BEGIN}old\n{ci_coverage.END}rest\n"
    new = ci_coverage.replace_table(document, "new\n")
    assert new == f"# Coverage\n{ci_coverage.BEGIN}new\n{ci_coverage.END}rest\n"
