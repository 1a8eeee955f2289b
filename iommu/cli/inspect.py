"""`vtd inspect`: what a running system has set up."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[Path, typer.Argument(help="A snapshot: a directory or a zip file.", metavar="SNAPSHOT")]
All = Annotated[
    bool,
    typer.Option(
        "--all", help="Print every range, interrupt and descriptor, and read all tables, however long it takes."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def inspect(snapshot: Place, everything: All = False, as_json: Json = False) -> None:
    """Show what software has set up on a remapping unit: devices, page tables, interrupts, queue, faults.

    Entries that a unit would refuse are listed with the bits that are wrong: an emulator may not check them.
    """
    from iommu.cli import output
    from iommu.cli.inspect_json import as_dict
    from iommu.cli.inspect_show import show
    from iommu.snapshot import load
    from iommu.snapshot.inspect import Limits
    from iommu.snapshot.inspect import inspect as inspect_snapshot

    taken = load(snapshot)
    found = inspect_snapshot(taken, Limits(*[None] * len(Limits.__dataclass_fields__)) if everything else Limits())
    if as_json:
        output.print_json(as_dict(found))
    else:
        show(output.console(), found, everything=everything)
