"""A bench as one HTML file: figures drawn, targets, and every record."""

from __future__ import annotations

import html
import io
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Final

from exmapctl.bench import record, targets
from exmapctl.bench.plot import require_matplotlib
from exmapctl.bench.record import Record
from exmapctl.bench.targets import Target

__all__ = ["require_report", "write_report"]

# of these less is better
COSTS: Final = ("_us", "_ms")
COLOURS: Final = {"exmapdb": "tab:blue", "sqlite": "tab:gray", "lmdb": "tab:orange", "fork": "tab:olive"}
OTHER: Final = "tab:green"
BAR: Final = 0.22

PAGE: Final = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>exmapdb bench</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px }
th, td { text-align: left; padding: 2px 10px; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.fail { color: #b00 } .pass { color: #070 }
svg { max-width: 100%; height: auto }
</style>
<h1>exmapdb bench</h1>
<p><code>$command</code></p>
<p>$machine</p>
$targets
$figures
<h2>Records</h2>
<p>Medians of all rounds. A ratio above 1 says that exmapdb is better than the baseline.</p>
$records
</html>
""")


def require_report(path: Path) -> None:
    """Find out before the measurement whether a report can be written. OSError, MissingExtraError."""
    require_matplotlib()
    with path.open("a"):
        pass


def write_report(found: Sequence[Record], wanted: Sequence[Target], path: Path) -> None:
    """Write a report. OSError."""
    metrics = dict.fromkeys((each.metric, each.unit) for each in found)
    figures = (f"<h2>{metric}</h2>\n{draw(found, metric, unit)}" for metric, unit in metrics)
    verdicts = table(targets.COLUMNS, targets.rows(list(wanted)))
    path.write_text(
        PAGE.substitute(
            command=html.escape(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
            machine=html.escape(f"{platform.release()}, {os.cpu_count()} processors, {platform.processor()}"),
            targets=f"<h2>Targets</h2>\n{verdicts}" if wanted else "",
            figures="\n".join(figures),
            records=table(record.COLUMNS, record.rows(found)),
        )
    )


def table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay rows out in HTML."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def cell(value: object) -> str:
    """Lay one value out."""
    if isinstance(value, float):
        return (
            f'<td class="number">{value:,.4g}</td>'
            if value < 1000
            else f'<td class="number">{value:,.0f}</td>'
        )
    verdict = f' class="{value}"' if value in ("pass", "fail") else ""
    return f"<td{verdict}>{html.escape(str(value))}</td>"


def number(value: float) -> str:
    """Write a value with four digits, or all before the point."""
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def values(found: Sequence[Record], metric: str) -> dict[str, dict[str, float]]:
    """Return one metric of each case, of exmapdb and of whom it was compared with."""
    cases: dict[str, dict[str, float]] = {}
    for each in found:
        if each.metric != metric:
            continue
        engines = cases.setdefault(each.case.replace(",engine=exmapdb", ""), {})
        engines["exmapdb"] = each.value
        cost = metric.endswith(COSTS)
        engines[each.baseline] = each.value * each.ratio if cost else each.value / each.ratio
    return cases


def draw(found: Sequence[Record], metric: str, unit: str) -> str:
    """Draw a metric as SVG: a group of bars for each case, on a logarithmic axis."""
    from matplotlib.figure import Figure

    cases = values(found, metric)
    bars = sum(map(len, cases.values()))
    figure = Figure(figsize=(10, 1.2 + BAR * bars + 0.2 * len(cases)), layout="constrained")
    axes = figure.subplots()
    at, ticks, named = 0.0, [], set()
    for engines in cases.values():
        ticks.append(at + (len(engines) - 1) / 2)
        for name, value in engines.items():
            label = "_" if name in named else name
            named.add(name)
            drawn = axes.barh(at, value, color=COLOURS.get(name, OTHER), label=label)
            axes.bar_label(drawn, labels=[number(value)], padding=3, fontsize=8)
            at += 1
        at += 0.8
    axes.set_yticks(ticks, list(cases), fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(unit + (", less is better" if metric.endswith(COSTS) else ""))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]
