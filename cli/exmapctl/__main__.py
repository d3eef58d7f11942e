"""Run exmapctl, as `exmapctl` or `python -m exmapctl`."""

import sys

__all__ = ["main"]

QUICK = ({"status"}, {"status", "--json"})


def main() -> None:
    """Run the command line."""
    if set(sys.argv[1:]) in QUICK and len(sys.argv) <= 3:
        run_status("--json" in sys.argv)
    else:
        from exmapctl.app import app

        app(prog_name="exmapctl")


def run_status(as_json: bool) -> None:
    """Do what the command does, without the imports of all commands, which take longer."""
    from exmapctl import status
    from exmapctl.errors import ExmapctlError, complain

    try:
        status.run(as_json)
    except ExmapctlError as error:
        complain(str(error), error.exit_code)


if __name__ == "__main__":
    main()
