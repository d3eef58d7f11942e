"""The trace command."""

from typing import Annotated

import typer

from exmapctl import tracing
from exmapctl.options import JsonOption
from exmapctl.output import print_json, print_table

__all__ = ["trace_command"]

BAR = 40


def trace_command(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to record; Ctrl-C ends it.")] = 3.0,
    region: Annotated[
        int | None, typer.Option(metavar="ID", help="Only this region.", show_default=False)
    ] = None,
    buffer: Annotated[int, typer.Option(min=64, metavar="KIB", help="Buffer of each CPU.")] = 8192,
    as_json: JsonOption = False,
) -> None:
    """Record the module's tracepoints, and sum them up.

    Latencies of calls, reasons of TLB flushes, kinds of faults, what happened to snapshots. Uses a trace
    buffer of its own, so that other users of tracefs are not disturbed. When more happens than the buffer
    holds, the oldest events are lost, and the summary says how many. Needs root.
    """
    summary = tracing.record(seconds, region, buffer)
    if as_json:
        print_json(summary)
    else:
        show(summary)


def show(summary: tracing.Summary) -> None:
    """Print a summary for people."""
    title = f"{summary.events} events in {summary.seconds:.1f} s"
    if summary.lost:
        title += f"; {summary.lost} older ones were lost: record for less time, or with a larger --buffer"
    counts = [(name, count) for name, count in summary.counts.items() if count]
    counts += [(f"fault: {kind}", count) for kind, count in summary.faults.items()]
    counts += [("frames retired", summary.retired)] if summary.retired else []
    print_table(title, ("event", "count"), counts)
    if summary.ops:
        columns = ("op", "calls", "iovs", "failed", "errors", "p50 us", "p99 us", "max us")
        rows = [
            (op.op, op.calls, op.iovs, op.failed_iovs, op.errors, op.p50_us, op.p99_us, op.max_us)
            for op in summary.ops
        ]
        print_table("calls", columns, rows)
    for op in summary.ops:
        print_table(f"latency of {op.op}", ("us", "calls", ""), histogram_rows(op))
    if summary.flushes:
        reasons = ("reason", "full", "ranged", "pages", "IPIs", "mean us")
        flushes = [(f.reason, f.full, f.ranged, f.pages, f.ipis, f.mean_us) for f in summary.flushes]
        print_table("TLB flushes", reasons, flushes)


def histogram_rows(op: tracing.OpSummary) -> list[tuple[object, ...]]:
    """Lay a histogram out, from the first bucket that has anything."""
    rows: list[tuple[object, ...]] = []
    for bucket, count in enumerate(op.histogram):
        if count or rows:
            low, high = (1 << bucket) >> 1, (1 << bucket) - 1
            rows.append((f"{low} to {high}", count, "#" * -(-BAR * count // max(op.histogram))))
    return rows
