"""`vtd inspect`: what a running system has set up."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from typing import Annotated

import typer

from iommu.cli.sources import Chosen, takes_snapshot

All = Annotated[
    bool,
    typer.Option("--all", help="Read all tables, however long that takes, and print all of every list."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@takes_snapshot()
def inspect(source: Chosen, everything: All = False, as_json: Json = False) -> None:
    """Show what software has set up on a remapping unit: devices, page tables, interrupts, queue, faults.

    Entries that hardware would refuse are listed with the bits that are wrong: an emulator may not check them.
    """
    from iommu.cli import output
    from iommu.cli.inspection.plain import as_dict
    from iommu.cli.inspection.show import show
    from iommu.snapshot.inspect import Limits
    from iommu.snapshot.inspect import inspect as inspect_snapshot

    limits = Limits.none() if everything else Limits()
    with source.open() as snapshot:
        found = inspect_snapshot(snapshot, limits)
    if as_json:
        output.print_json(as_dict(found))
    else:
        show(output.console(), found, everything=everything)
