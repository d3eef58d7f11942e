"""What exmapctl trace makes of lines of a trace."""

import re
from pathlib import Path

import pytest
from exmapctl import tracing
from exmapctl.trace_cli import histogram_rows, show

HEADER = (Path(__file__).resolve().parents[2] / "kmod/trace.h").read_text()

TRACE = """\
# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
          python-100   [000] .....   12.000010: exmap_op_begin: region=1 interface=0 op=alloc iovs=8 failed=0
       a b: c-d-101   [001] d..2.   12.000012: exmap_op_begin: region=1 interface=1 op=free iovs=4 failed=0
          python-100   [000] .....   12.000014: exmap_fault: region=1 page=7 kind=alloc write ret=1
          python-100   [000] .....   12.000019: exmap_op_end: region=1 interface=0 op=alloc iovs=8 failed=2
           other-9       [000] .....   12.000020: sched_switch: prev=1
       a b: c-d-101   [001] d..2.   12.000030: exmap_flush: region=1 reason=free pages=4 ipis=1 ns=3000
       a b: c-d-101   [001] d..2.   12.000031: exmap_flush: region=1 reason=free pages=0 ipis=2 ns=1000
       a b: c-d-101   [001] d..2.   12.000040: exmap_op_end: region=1 interface=1 op=free iovs=4 failed=-4
          python-100   [000] .....   13.000000: exmap_op_end: region=1 interface=0 op=read iovs=1 failed=0
          python-100   [000] .....   13.000001: exmap_drain: region=1 retired=30 left=2
          python-100   [000] .....   13.000002: exmap_freeze: region=1 snapshot=3 start=0 pages=512 ns=9000
"""


def summary() -> tracing.Summary:
    return tracing.summarise(list(tracing.parse(TRACE.splitlines())), 1.5, 7)


def test_the_names_are_the_headers() -> None:
    events = re.findall(r"^(?:TRACE_EVENT(?:_CONDITION)?\(|DEFINE_EVENT\(\w+, )exmap_(\w+),", HEADER, re.M)
    assert sorted(events) == sorted(tracing.EVENTS)


def test_calls_are_matched_by_thread_and_half_seen_ones_left_out() -> None:
    alloc, free = summary().ops
    assert (alloc.op, alloc.calls, alloc.iovs, alloc.failed_iovs, alloc.errors) == ("alloc", 1, 8, 2, 0)
    assert (alloc.p50_us, alloc.max_us, alloc.histogram) == (9, 9, [0, 0, 0, 0, 1])
    assert (free.failed_iovs, free.errors, free.max_us) == (0, 1, 28)


def test_flushes_are_counted_by_reason() -> None:
    [flush] = summary().flushes
    assert (flush.reason, flush.full, flush.ranged, flush.pages, flush.ipis) == ("free", 1, 1, 4, 3)
    assert flush.mean_us == 2.0


def test_the_rest_is_counted() -> None:
    found = summary()
    assert (found.events, found.lost, found.faults, found.retired) == (10, 7, {"alloc": 1}, 30)
    assert found.longest_freeze_us == 9.0
    assert found.counts["op_end"] == 3
    assert found.counts["keep"] == 0


def test_a_histogram_begins_where_there_are_calls() -> None:
    assert histogram_rows(summary().ops[0]) == [("8 to 15", 1, "#" * 40)]


def test_people_are_told_what_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    show(summary())
    told = capsys.readouterr().out
    assert "7 older ones were lost" in told
    assert "latency of alloc" in told
