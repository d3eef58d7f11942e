"""The commands `nvme`."""

import dataclasses
from typing import Annotated

import typer

from exmapctl.controllers import list_controllers
from exmapctl.machine import Machine
from exmapctl.nvme_admin import identify, smart
from exmapctl.nvme_take import release, take
from exmapctl.options import JsonOption
from exmapctl.output import emit

__all__ = ["nvme_app"]

DeviceArgument = Annotated[
    str, typer.Argument(metavar="DEVICE", help="PCI address, nvme0, or /dev/nvme0n1.", show_default=False)
]

nvme_app = typer.Typer(help="Look after NVMe controllers.", no_args_is_help=True, rich_markup_mode=None)


@nvme_app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List controllers.

    Who drives each: nvme (the stock driver), exmap-nvme (regions may open queues) or another; and whether
    an IOMMU stands before it.
    """
    found = list_controllers(Machine.here())
    columns = ("address", "driver", "disks", "model", "serial", "iommu")
    rows = [
        (c.address, c.driver or "-", " ".join(c.disks) or "-", c.model or "-", c.serial or "-", c.iommu)
        for c in found
    ]
    emit(as_json, found, "NVMe controllers", columns, rows)


@nvme_app.command("take")
def take_command(
    device: DeviceArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Whatever it holds, and whoever uses it: it is lost to them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a controller to exmap-nvme.

    Refuses one whose disk is mounted, in use, or holds a partition table or a file system, and says what
    was found. Needs root, the module, and an IOMMU (or the module's parameter unsafe_noiommu).
    """
    change = take(Machine.here(), device, force)
    row = (change.address, change.driver, "; ".join(change.overridden) or "-")
    emit(as_json, change, "taken", ("address", "driver", "overridden"), [row])


@nvme_app.command("release")
def release_command(device: DeviceArgument, as_json: JsonOption = False) -> None:
    """Give a controller back.

    The stock driver gets it, with all that was written. Queues that are open die. Needs root.
    """
    change = release(Machine.here(), device)
    row = (change.address, change.driver, " ".join(change.disks))
    emit(as_json, change, "released", ("address", "driver", "disks"), [row])


@nvme_app.command("identify")
def identify_command(device: DeviceArgument, as_json: JsonOption = False) -> None:
    """Show what a controller is.

    Model, blocks, optional commands. Asks the stock driver: before take, or after release. Needs root.
    """
    found = identify(Machine.here(), device)
    emit(as_json, found, "controller", ("what", "value"), list(dataclasses.asdict(found).items()))


@nvme_app.command("smart")
def smart_command(device: DeviceArgument, as_json: JsonOption = False) -> None:
    """Show a controller's health.

    Temperature, wear, media errors. Asks the stock driver: before take, or after release. Needs root.
    """
    found = smart(Machine.here(), device)
    emit(as_json, found, "health", ("what", "value"), list(dataclasses.asdict(found).items()))
