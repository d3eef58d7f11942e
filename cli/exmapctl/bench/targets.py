"""Targets: what a figure has to reach."""

from dataclasses import dataclass

__all__ = ["COLUMNS", "Target", "rows"]

COLUMNS = ("target", "measured", "wanted", "verdict")


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound; `measured` is None, and the target missed, if it was not measured."""

    name: str
    measured: float | None
    wanted: str
    passed: bool

    @classmethod
    def at_least(cls, name: str, measured: float | None, bound: float) -> "Target":
        """Want `bound` or more."""
        return cls(name, measured, f">= {bound:g}", measured is not None and measured >= bound)

    @classmethod
    def more_than(cls, name: str, measured: float | None, bound: float) -> "Target":
        """Want more than `bound`."""
        return cls(name, measured, f"> {bound:g}", measured is not None and measured > bound)

    @classmethod
    def at_most(cls, name: str, measured: float | None, bound: float) -> "Target":
        """Want `bound` or less."""
        return cls(name, measured, f"<= {bound:g}", measured is not None and measured <= bound)


def rows(targets: list[Target]) -> list[tuple[object, ...]]:
    """Lay targets out as rows below COLUMNS."""
    return [
        (
            target.name,
            "not measured" if target.measured is None else target.measured,
            target.wanted,
            "pass" if target.passed else "fail",
        )
        for target in targets
    ]
