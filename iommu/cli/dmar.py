"""`vtd dmar`: read, judge and draw ACPI DMAR tables."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="ACPI DMAR tables: show them.", no_args_is_help=True, rich_markup_mode=None)

SYSFS_TABLE = Path("/sys/firmware/acpi/tables/DMAR")

File = Annotated[Path, typer.Argument(help="A DMAR table.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.callback()
def _group() -> None:
    """ACPI DMAR tables."""


@app.command()
def show(file: File = SYSFS_TABLE, as_json: Json = False) -> None:
    """Print a table, every field of it."""
    from iommu.cli import dmar_show, output
    from iommu.dmar import Dmar
    from iommu.dmar.inputs import read_file

    table = Dmar.parse(read_file(file))
    if as_json:
        output.print_json(table.to_dict())
    else:
        dmar_show.print_table(table)
