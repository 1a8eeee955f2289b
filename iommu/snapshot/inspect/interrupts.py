"""The interrupt-remapping table by device (spec 9.9, 9.10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from iommu.dmar import Dmar
from iommu.dmar.scopes import ScopeType
from iommu.engine.interrupts.request import destination
from iommu.engine.present import Entry, Problem, Tables
from iommu.engine.request import SourceId
from iommu.explain.words import delivery_mode_in_words
from iommu.structures import InterruptEntry, PostedInterruptEntry, RemappedInterruptEntry, SourceValidation

# By SQ: the function bits of the source-id that are not compared.
_FUNCTIONS = ("", ", function bit 2 ignored", ", function bits 2:1 ignored", ", function ignored")


@dataclass(frozen=True)
class InterruptRow:
    """One present entry of the interrupt-remapping table.

    Attributes:
        number: its place in the table, the interrupt index.
        address: of the entry.
        raw: its bits.
        requester: who may use it, in words: "00:03.0", "f0:1f.0 (I/O APIC)", "buses 00 to 1f", "any requester".
        source_id: SID if the entry is for the requesters that it names; None otherwise.
        vector: of the interrupt, or the virtual vector.
        destination, delivery_mode, logical, level: of an entry in remapped form; None in posted form.
        descriptor: where the posted-interrupt descriptor is; None in remapped form.
        urgent: URG of an entry in posted form.
        problem: why the unit refuses it; None if it does not.
    """

    number: int
    address: int
    raw: int
    requester: str
    source_id: SourceId | None
    vector: int
    destination: int | None = None
    delivery_mode: str | None = None
    logical: bool | None = None
    level: bool | None = None
    descriptor: int | None = None
    urgent: bool = False
    problem: Problem | None = None

    def __str__(self) -> str:
        if self.descriptor is not None:
            urgent = ", urgent" if self.urgent else ""
            return f"virtual vector {self.vector:#x}, posted to {self.descriptor:#x}{urgent}"
        kind = "logical" if self.logical else "physical"
        trigger = "level" if self.level else "edge"
        return f"vector {self.vector:#x} to {kind} {self.destination or 0:#x}, {self.delivery_mode}, {trigger}"


def names_of(table: Dmar | None, register_base: int) -> dict[int, str]:
    """By source-id, the I/O APICs and HPETs that a DMAR lists for the unit: they are not PCI devices (spec 8.3.1)."""
    kinds = {ScopeType.IOAPIC: "I/O APIC", ScopeType.HPET: "HPET"}
    return {
        scope.bus << 8 | scope.path[0][0] << 3 | scope.path[0][1]: kinds[ScopeType(scope.type)]
        for unit in (() if table is None else table.units)
        if unit.base == register_base
        for scope in unit.scopes
        if scope.type in tuple(kinds) and len(scope.path) == 1
    }


def interrupt_rows(tables: Tables, names: Mapping[int, str]) -> list[InterruptRow]:
    """The present entries, in order; `names` are those of requesters, by source-id."""
    table = tables.interrupts()
    return [] if table is None else [_row(tables, names, entry) for entry in tables.entries(table)]


def _row(tables: Tables, names: Mapping[int, str], entry: Entry) -> InterruptRow:
    raw, posted, remapped = entry.raw, PostedInterruptEntry(entry.raw), RemappedInterruptEntry(entry.raw)
    row = InterruptRow(
        entry.number,
        entry.where,
        raw,
        requester_in_words(tables, names, raw),
        _source_id(tables, raw),
        vector=remapped.V,
        problem=entry.problem,
    )
    if entry.layout is PostedInterruptEntry:
        where = posted.PDAH << 32 | posted.PDAL << 6
        return replace(row, vector=posted.VV, descriptor=where, urgent=bool(posted.URG))
    return replace(
        row,
        destination=destination(remapped.DST, extended=tables.unit.interrupts.extended),
        delivery_mode=delivery_mode_in_words(remapped.DLM),
        logical=bool(remapped.DM),
        level=bool(remapped.TM),
    )


def _source_id(tables: Tables, raw: int) -> SourceId | None:
    is_named = tables.formats.source_validation(raw) is SourceValidation.SOURCE_ID
    return SourceId.of(InterruptEntry.SID.get(raw)) if is_named else None


def requester_in_words(tables: Tables, names: Mapping[int, str], raw: int) -> str:
    """Who may use an entry: SVT, SQ and SID (spec 9.9)."""
    entry = InterruptEntry(raw)
    match tables.formats.source_validation(raw):
        case SourceValidation.NONE:
            return "any requester"
        case SourceValidation.SOURCE_ID:
            name = f" ({names[entry.SID]})" if entry.SID in names else ""
            return f"{SourceId.of(entry.SID)}{name}{_FUNCTIONS[entry.SQ]}"
        case SourceValidation.BUS:
            return f"buses {entry.SID >> 8:02x} to {entry.SID & 0xFF:02x}"
    return f"SVT={entry.SVT}, which is reserved"
