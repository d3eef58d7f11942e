"""Draw records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exmapctl.bench.record import Record
from exmapctl.errors import BenchFailedError, MissingExtraError

__all__ = ["Line", "draw", "draw_timelines", "require_matplotlib"]

COLOURS = ("tab:blue", "tab:gray", "tab:green")


@dataclass(frozen=True, slots=True)
class Line:
    """A rate over time, a point each `step_ms`, and moments to mark, in ms."""

    rates: Sequence[float]
    step_ms: float
    marks: Mapping[str, float]


def require_matplotlib() -> None:
    """Raise MissingExtraError unless matplotlib can be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error


def draw(records: Sequence[Record], metric: str, path: Path) -> None:
    """Draw one metric as bars on a logarithmic axis; the suffix of `path` chooses the format.

    Raises MissingExtraError, and BenchFailedError if the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    chosen = [record for record in records if record.metric == metric]
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    cases = [record.case for record in chosen]
    colours = ["tab:gray" if record.ratio <= 1 else "tab:blue" for record in chosen]
    bars = axes.barh(cases, [record.value for record in chosen], color=colours)
    axes.bar_label(bars, labels=[f"{record.ratio:.3g}x" for record in chosen], padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric} ({chosen[0].unit}); labels: times the baseline")
    axes.set_title(f"exmapctl bench {chosen[0].bench}")
    save(figure, path)


def draw_timelines(title: str, panels: Mapping[str, Mapping[str, Line]], path: Path) -> None:
    """Draw rates over time: a panel for each case, a line for each way, each with its own marks.

    Raises MissingExtraError, and BenchFailedError if the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.8 + 2.6 * len(panels)), layout="constrained")
    for axes, (case, lines) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
    ):
        for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
            times = [(i + 0.5) * line.step_ms for i in range(len(line.rates))]
            axes.plot(times, line.rates, color=colour, label=name)
            for style, (mark, moment) in zip(("--", ":"), line.marks.items(), strict=False):
                axes.axvline(moment, color=colour, linestyle=style, label=f"{name}: {mark}")
        axes.set_title(case)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("ms")
        axes.set_ylabel("transactions/s")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure."""
    try:
        figure.savefig(path)
    except OSError as error:
        raise BenchFailedError(f"cannot write {path}: {error.strerror}") from error
