"""Run exmapctl, as `exmapctl` or `python -m exmapctl`."""

from exmapctl.app import app

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    app(prog_name="exmapctl")


if __name__ == "__main__":
    main()
