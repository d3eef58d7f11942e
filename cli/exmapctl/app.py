"""The commands of exmapctl."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from exmapctl import __version__, doctor, module, status
from exmapctl.bench.cli import bench_app
from exmapctl.bench.nvme_cli import nvme_command
from exmapctl.bench.snapshot_cli import snapshot_command
from exmapctl.errors import ExmapctlError, complain
from exmapctl.inspect_cli import inspect_app
from exmapctl.introspect_cli import monitor_command, snapshot_app, tune_command
from exmapctl.machine import Machine
from exmapctl.nvme_cli import nvme_app
from exmapctl.options import JsonOption
from exmapctl.output import emit
from exmapctl.trace_cli import trace_command
from exmapctl.watch_cli import stats_command, top_command

__all__ = ["app"]

ModuleArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODULE",
        help="Module to load; else the one that fits the running kernel.",
        show_default=False,
    ),
]
RuleOption = Annotated[
    bool, typer.Option("--install-rule", help="First create the group exmap and install the udev rule.")
]
ParameterOption = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Module parameter; may be repeated.")
]


class OneLineGroup(TyperGroup):
    """A group of commands whose errors are one line on stderr: exit code 2 for usage, 1 for the rest."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; without `standalone_mode` errors are the caller's."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            code = run()
        except ExmapctlError as error:
            complain(str(error), error.exit_code)
        except typer.Abort:
            complain("aborted", 1)
        except Exception as error:
            # usage errors have no public base class
            if not hasattr(error, "format_message"):
                raise
            complain(error.format_message(), getattr(error, "exit_code", 1))
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=OneLineGroup,
    help="Look after the exmap kernel module, and measure it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
bench_app.command("snapshot")(snapshot_command)
bench_app.command("nvme")(nvme_command)
app.add_typer(bench_app, name="bench")
app.add_typer(nvme_app, name="nvme")


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Look after the exmap kernel module, and measure it."""


@app.command("doctor")
def doctor_command(as_json: JsonOption = False) -> None:
    """Check this machine.

    Says what mends whatever is not well. Exit code 1 if a check fails.
    """
    checks = doctor.examine(Machine.here())
    rows = [(check.check, check.status, check.detail, check.fix) for check in checks]
    emit(as_json, checks, "exmap on this machine", ("check", "status", "detail", "fix"), rows)
    raise typer.Exit(int(any(check.status == "fail" for check in checks)))


@app.command("man")
def man_command() -> None:
    """Print the manual page, in roff.

    exmapctl man | man -l - shows it; exmapctl man >/usr/local/share/man/man8/exmapctl.8 installs it.
    """
    from exmapctl import manual

    typer.echo(manual.render(typer.main.get_command(app)), nl=False)


@app.command("load")
def load_command(
    path: ModuleArgument = None,
    install_rule: RuleOption = False,
    param: ParameterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load the module.

    Checks first that it is exmap, and built for the running kernel.
    """
    loaded = module.load(Machine.here(), path, param or (), install_rule)
    row = (loaded.path, loaded.vermagic, loaded.rule or "-")
    emit(as_json, loaded, "loaded", ("module", "vermagic", "udev rule"), [row])


@app.command("unload")
def unload_command(as_json: JsonOption = False) -> None:
    """Unload the module.

    Refuses, and names the processes, while somebody uses it.
    """
    module.unload(Machine.here())
    emit(as_json, {"unloaded": True}, "unloaded", ("module",), [("exmap",)])


@app.command("status")
def status_command(as_json: JsonOption = False) -> None:
    """Show the module, its users, and the regions.

    Version, parameters, references, ABI, the processes that hold /dev/exmap (root sees all of them), and of
    the regions that this user may see: pools, how many pages were mapped again out of quarantine (rescued),
    freed pages for each full TLB flush, snapshots.
    """
    status.run(as_json)


app.command("monitor")(monitor_command)
app.command("stats")(stats_command)
app.command("top")(top_command)
app.command("tune")(tune_command)
app.command("trace")(trace_command)
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(inspect_app, name="inspect")
