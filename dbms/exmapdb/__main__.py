"""Run exmapdb, as `exmapdb` or `python -m exmapdb`."""

from exmapdb.cli import app

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    app(prog_name="exmapdb")


if __name__ == "__main__":
    main()
