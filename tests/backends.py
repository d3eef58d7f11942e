"""The backends that can run here."""

import os

__all__ = ["BACKENDS"]

BACKENDS = ["posix", "kernel"] if os.environ.get("EXMAP_VM") == "1" else ["posix"]
