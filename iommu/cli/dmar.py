"""`vtd dmar`: read, check and draw ACPI DMAR tables."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="ACPI DMAR tables: show, check, draw, compare, count, build.", no_args_is_help=True, rich_markup_mode=None
)

SYSFS_TABLE = Path("/sys/firmware/acpi/tables/DMAR")

File = Annotated[Path, typer.Argument(help="A table, dump, folder or image; - is standard input.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback()
def _group() -> None:
    """ACPI DMAR tables."""


@app.command()
def show(file: File = SYSFS_TABLE, as_json: Json = False) -> None:
    """Print a table with all its fields."""
    from iommu.cli import dmar_show, output
    from iommu.dmar import Dmar
    from iommu.dmar.inputs import read_table

    table = Dmar.parse(read_table(file))
    if as_json:
        output.print_json(table.to_dict())
    else:
        dmar_show.print_table(table)


@app.command()
def lint(
    file: File = SYSFS_TABLE,
    as_json: Json = False,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules instead of reading a table.")] = False,
) -> None:
    """Check a table: findings with advice, and what Linux and Xen would do. Exit status 1 if a warning or error."""
    from iommu.cli import dmar_lint

    if rules:
        dmar_lint.print_rules(as_json)
        return
    from iommu.dmar import Dmar, Severity
    from iommu.dmar.inputs import read_table

    data = read_table(file)
    table = Dmar.parse(data, strict=False)
    found = table.lint()
    dmar_lint.print_report(found, data, as_json)
    if any(finding.severity >= Severity.WARNING for finding in found):
        raise typer.Exit(1)


@app.command()
def topology(
    file: File = SYSFS_TABLE,
    pci: Annotated[
        Path | None,
        typer.Option(help="PCI tree: a (copied) sysfs folder, a file from --save, or QEMU's answer to query-pci."),
    ] = None,
    as_json: Json = False,
    svg: Annotated[Path | None, typer.Option(help="Draw a picture in this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Save the PCI tree in this file, for later or for another machine.")
    ] = None,
) -> None:
    """Show which unit remaps each device, its IOMMU group and RMRRs, and whether it can be assigned to a guest."""
    import json

    from iommu.cli import dmar_topology
    from iommu.dmar import Dmar
    from iommu.dmar.inputs import read_pci, read_table
    from iommu.errors import MisuseError
    from iommu.files.writing import write_file

    table = Dmar.parse(read_table(file))
    if pci is None and file == SYSFS_TABLE:
        pci = Path("/sys")
    if pci is None:
        if as_json or svg or html or save:
            raise MisuseError("--json, --svg, --html and --save need the machine's PCI tree: give --pci")
        dmar_topology.print_scopes(table)
        return
    tree = read_pci(pci)
    if save is not None:
        write_file(save, json.dumps(tree.to_plain(), indent=1).encode())
    dmar_topology.print_topology(table, tree, as_json, svg, html)


@app.command()
def survey(
    paths: Annotated[list[Path], typer.Argument(help="Files, and folders with everything below them.")],
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One line for each table.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
) -> None:
    """Count structures, flags, widths, findings and vendors over many tables. Exit status 1 if one cannot be read."""
    from iommu.cli import dmar_survey

    if any(row.error for row in dmar_survey.run(paths, as_json, as_csv, html)):
        raise typer.Exit(1)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The table before.")],
    new: Annotated[Path, typer.Argument(help="The table after.")],
    as_json: Json = False,
) -> None:
    """Show what changed from one table to another, by meaning. Exit status 1 if anything did."""
    from dataclasses import asdict

    from iommu.cli import output
    from iommu.dmar import Dmar
    from iommu.dmar.difference import difference
    from iommu.dmar.inputs import read_table
    from iommu.files.text import safe

    before, after = (Dmar.parse(read_table(path), strict=False) for path in (old, new))
    changes = difference(before, after)
    if as_json:
        output.print_json([asdict(change) for change in changes])
    else:
        for change in changes:
            print(safe(str(change)))
    if changes:
        raise typer.Exit(1)


@app.command()
def build(
    file: Annotated[Path, typer.Argument(help="JSON as printed by show --json; - is standard input.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Write the table to this file; - is standard output.")
    ],
    exact: Annotated[bool, typer.Option(help="Keep lengths and checksum as the JSON states them.")] = False,
) -> None:
    """Build a table from JSON, with lengths and checksum filled in."""
    from iommu.dmar import Dmar
    from iommu.files.documents import read_json
    from iommu.files.writing import write_file

    table = Dmar.from_dict(read_json(file))
    if not exact:
        table.seal()
    write_file(output, table.build())
