"""Draw records."""

from collections.abc import Sequence
from pathlib import Path

from exmapctl.bench.record import Record
from exmapctl.errors import BenchFailedError, MissingExtraError

__all__ = ["draw", "require_matplotlib"]


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
    try:
        figure.savefig(path)
    except OSError as error:
        raise BenchFailedError(f"cannot write {path}: {error.strerror}") from error
