"""`vtd snapshot`: units and memory of a running machine, or of another snapshot, in one file."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vtd --help` is quick

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iommu.cli.sources import Chosen, takes_snapshot

if TYPE_CHECKING:
    from iommu.snapshot.contents import Contents
    from iommu.snapshot.unit import UnitSnapshot

Out = Annotated[Path, typer.Argument(help="The file to write. Its mode is 0600.", metavar="OUT", show_default=False)]
Tables = Annotated[
    bool, typer.Option("--tables-only", help="Keep only tables and queues of the units, and no other memory.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_BAR_AFTER = 2.0


@takes_snapshot()
def snapshot(out: Out, source: Chosen, tables_only: Tables = False, as_json: Json = False) -> None:
    """Write registers and memory of a machine to one file.

    A running machine stands still while its memory is read. The file holds that memory, secrets included, unless
    --tables-only leaves it out.
    """
    from iommu.cli import output
    from iommu.snapshot.tables import tables_only as reduced
    from iommu.snapshot.writer import packer

    with output.late_status(f"writing {out}", _BAR_AFTER), packer(out) as packing:
        with source.open() as taken:
            started = time.monotonic()
            contents = reduced(taken) if tables_only else taken
            packing.take(contents)
            seconds = time.monotonic() - started
        packing.finish()
    found = to_dict(out, contents) | {"seconds_to_read": round(seconds, 3)}
    if as_json:
        output.print_json(found)
        return
    for line in describe(found):
        output.console().print(line, markup=False)


def to_dict(out: Path, contents: Contents) -> dict[str, Any]:
    """What was written, as plain data."""
    return {
        "file": str(out),
        "bytes": out.stat().st_size,
        "origin": contents.origin,
        "tables_only": contents.tables_only,
        "dmar": contents.dmar is not None,
        "units": [_unit_to_dict(unit) for unit in contents.units],
        "unknown": list(contents.unknown),
    }


def _unit_to_dict(unit: UnitSnapshot) -> dict[str, Any]:
    from iommu.registers import GSTS

    status = GSTS(unit.register(GSTS.offset, 4))
    return {
        "register_base": unit.register_base,
        "translation": bool(status.TES),
        "interrupt_remapping": bool(status.IRES),
        "recorded_faults": len(unit.faults()),
        "whole_state": unit.state is not None,
    }


def describe(found: dict[str, Any]) -> list[str]:
    """The same as lines for people."""
    from iommu.files.text import safe

    what = f"{safe(found['origin'] or 'a snapshot')}{', tables only' if found['tables_only'] else ''}"
    lines = [f"{safe(found['file'])}: {what}, {found['bytes']} bytes; read in {found['seconds_to_read']:.2f} s"]
    for unit in found["units"]:
        on = [name for name in ("translation", "interrupt_remapping") if unit[name]]
        state = " and ".join(name.replace("_", " ") for name in on) + " on" if on else "switched off"
        lines.append(f"  unit at {unit['register_base']:#x}: {state}, {unit['recorded_faults']} faults recorded")
    return lines + [f"  not in it: {safe(text)}" for text in found["unknown"]]
