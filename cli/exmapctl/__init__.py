"""exmapctl: look after the exmap module and measure it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
