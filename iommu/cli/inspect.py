"""`vtd inspect`: what a running system has set up."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iommu.cli.sources import Chosen, takes_snapshot

All = Annotated[
    bool,
    typer.Option("--all", help="Read all tables, however long that takes, and print all of every list."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page with the tables as a picture instead.", dir_okay=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@takes_snapshot()
def inspect(source: Chosen, everything: All = False, html: Html = None, as_json: Json = False) -> None:
    """Show what software has set up on a remapping unit: devices, page tables, interrupts, queue, faults.

    Entries that hardware would refuse are listed with the bits that are wrong: an emulator may not check them.
    """
    from iommu.cli import output
    from iommu.cli.inspection.page import as_html
    from iommu.cli.inspection.plain import as_dict
    from iommu.cli.inspection.show import show
    from iommu.files.writing import write_file
    from iommu.snapshot.inspect import Limits
    from iommu.snapshot.inspect import inspect as inspect_snapshot
    from iommu.snapshot.inspect.picture import picture

    output.check_writable(("--html", html))
    limits = Limits.none() if everything else Limits()
    with source.open() as snapshot:
        found = inspect_snapshot(snapshot, limits)
        pictures = [] if html is None else [picture(unit) for unit in snapshot.units]
    if html is not None:
        write_file(html, as_html(found, pictures))
    if as_json:
        output.print_json(as_dict(found))
    elif html is None:
        show(output.console(), found, everything=everything)
