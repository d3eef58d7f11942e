"""Where things are: the project, and what outlives a run."""

import os
from pathlib import Path

__all__ = ["ROOT", "cache_dir"]

ROOT = Path(__file__).resolve().parents[1]


def cache_dir() -> Path:
    """Return, and make, the directory for what outlives a run, outside of the tree."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exmap"
    path.mkdir(parents=True, exist_ok=True)
    return path
