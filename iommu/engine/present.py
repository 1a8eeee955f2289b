"""The tables of a unit as they are in memory: every present entry, what it points to, and what the unit refuses.

A fault reports a wrong entry only when a request meets it. This reads them all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from iommu.engine.caches.tables import FirstStageRoot, Root
from iommu.engine.entry_format import EntryFormat, PagingFormat
from iommu.engine.quiet import quiet_copy
from iommu.engine.reasons import Blocked
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError
from iommu.fields import Layout
from iommu.registers import GSTS, TableMode
from iommu.structures import (
    ContextEntry,
    PasidDirectoryEntry,
    PasidEntry,
    PostedInterruptEntry,
    RemappedInterruptEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    TranslationType,
)

PAGE = 1 << 12


class Problem(NamedTuple):
    """Something in the tables that the unit refuses.

    Attributes:
        name: of the kind of entry.
        where: the host address of the entry, or one where there is no memory.
        raw: the entry; None if there is no memory.
        bits: its bits that are reserved on this unit; 0 if it is refused for a value.
        what: the problem in words.
        section: where the specification describes the entry.
    """

    name: str
    where: int
    raw: int | None
    bits: int
    what: str
    section: str

    def __str__(self) -> str:
        if self.raw is None:
            return f"{self.name}: {self.what}"
        return f"{self.name} at {self.where:#x}: {self.what} (spec {self.section})"


class Table(NamedTuple):
    """A table in memory.

    Attributes:
        kind: the attribute of Formats that describes its entries; "paging" for tables of a stage.
        address: of its first entry: a host address, except in a nested first stage, where it is a guest address.
        length: how many entries it has.
        stage, level: of a paging table.
    """

    kind: str
    address: int
    length: int
    stage: Root | None = None
    level: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for tables with the same contents, read in the same way."""
        stage = self.stage
        if isinstance(stage, FirstStageRoot):
            return "first", self.level, self.address, stage.second and stage.second[:2]
        return self.kind, self.level, self.address


class Entry(NamedTuple):
    """A present entry.

    Attributes:
        number: its place in the table.
        where: its host address.
        raw: its bits.
        layout: their declaration.
        problem: why the unit refuses it; None if it does not.
        below: the tables that it points to, as far as they can be told: none for a page.
    """

    number: int
    where: int
    raw: int
    layout: type[Layout]
    problem: Problem | None = None
    below: tuple[Table, ...] = ()


class Tables:
    """Reads the tables that the last SRTP and SIRTP of a unit have latched, with all that they point to.

    Nothing is cached or changed. First-stage tables under a second stage are read as far as that one maps them.

    Args:
        follow_refused: read what refused entries point to as well, where their fields say what that is.

    Attributes:
        absent: the tables, or parts of them, at addresses where there is no memory.
    """

    def __init__(self, unit: RemappingUnit, *, follow_refused: bool = False) -> None:
        self.unit, self.formats, self.follow_refused = unit, unit.formats, follow_refused
        self.absent: list[Problem] = []
        self._scalable, self._quiet = unit.translation.scalable, quiet_copy(unit.translation)

    def roots(self) -> list[Table]:
        """The root table and the interrupt-remapping table, if they are set."""
        return [table for table in (self.root(), self.interrupts()) if table is not None]

    def root(self) -> Table | None:
        """The root table of the latched mode; None if no SRTP has set one, and in modes without tables."""
        translation, status = self.unit.translation, GSTS(self.unit.registers[GSTS].value)
        if not status.RTPS:
            return None
        if translation.mode == TableMode.LEGACY:
            return Table("root", translation.legacy.root_table, 256)
        if translation.mode == TableMode.SCALABLE:
            return Table("scalable_root", translation.legacy.root_table, 512)
        return None

    def interrupts(self) -> Table | None:
        """The interrupt-remapping table; None if no SIRTP has set one."""
        if not GSTS.IRTPS.get(self.unit.registers[GSTS].value):
            return None
        return Table("interrupt", self.unit.interrupts.table, self.unit.interrupts.size)

    def problems(self) -> Iterator[Problem]:
        """What the unit refuses, table by table, each once; the addresses without memory come last."""
        for _, entries in self.reachable(self.roots(), set()):
            yield from (entry.problem for entry in entries if entry.problem is not None)
        yield from self.absent

    def reachable(self, tops: Iterable[Table], read: set[object]) -> Iterator[tuple[Table, list[Entry]]]:
        """Tables and all below them, each before those that it points to.

        Those whose keys are in `read` are left out; the keys of the others are added to it.
        """
        waiting = list(tops)[::-1]
        while waiting:
            table = waiting.pop()
            if table.key in read:
                continue
            read.add(table.key)
            entries = self.entries(table)
            yield table, entries
            if table.kind != "paging" or table.level > 1:
                waiting += (below for entry in reversed(entries) for below in reversed(entry.below))

    def format_of(self, table: Table) -> EntryFormat:
        """The format of its entries."""
        own: EntryFormat = (
            getattr(self.formats, table.kind) if table.stage is None else table.stage.formats[table.level]
        )
        return own

    def entries(self, table: Table) -> list[Entry]:
        """The present entries of a table, as far as there is memory."""
        own = self.format_of(table)
        if isinstance(own, PagingFormat):
            return [self._paging_entry(table, own, *each) for each in self._raw(table, own, own.present)]
        return [self._entry(table, own, *each) for each in self._raw(table, own, 1)]

    def _raw(self, table: Table, own: EntryFormat, present: int) -> Iterator[tuple[int, int, int]]:
        """Index, address and bits of the entries that have one of the `present` bits."""
        size, end = own.size, table.address + table.length * own.size
        for start in range(table.address, end, PAGE):
            try:
                place = self._place(table, start)
                data = self.unit.memory.read(place, min(PAGE, end - start))
            except Blocked:  # the second stage does not map this first-stage table
                continue
            except MemoryAccessError:
                what = f"there is no memory at {start:#x}, in the table at {table.address:#x}"
                self.absent.append(Problem(own.name, start, None, 0, what, own.layout.section))
                return
            first = (start - table.address) // size
            if size == 8:
                words = struct.unpack(f"<{len(data) // 8}Q", data)
                yield from ((first + n, place + 8 * n, raw) for n, raw in enumerate(words) if raw & present)
                continue
            for at in range(0, len(data), size):
                if (raw := int.from_bytes(data[at : at + size], "little")) & present:
                    yield first + at // size, place + at, raw

    def _place(self, table: Table, address: int) -> int:
        """The host address of a page of a table. Raises Blocked for one that a second stage does not map."""
        if not isinstance(table.stage, FirstStageRoot):
            return address
        place: int = self._quiet.scalable.first_stage.locate_entry(table.stage, address, table.level)[0]
        return place

    # Paging tables (9.7, 9.8).

    def _paging_entry(self, table: Table, own: PagingFormat, index: int, where: int, raw: int) -> Entry:
        rules = own.rules(raw)
        problem = None
        if wrong := raw & rules.reserved:
            problem = _reserved(own.name, rules.layout, where, raw, wrong)
        below: tuple[Table, ...] = ()
        if rules is own.table and table.level > 1 and (problem is None or self.follow_refused):
            address = raw & own.table.layout.fields["ADDR"].mask
            below = (Table("paging", address, 512, table.stage, table.level - 1),)
        return Entry(index, where, raw, rules.layout, problem, below)

    # All others.

    def _entry(self, table: Table, own: EntryFormat, index: int, where: int, raw: int) -> Entry:
        layout, reserved = own.layout, own.reserved(raw)
        if table.kind == "interrupt":
            reserved = self.formats.reserved_in_interrupt(raw, extended=self.unit.interrupts.extended)
            layout = PostedInterruptEntry if self.formats.is_posted(raw) else RemappedInterruptEntry
        problem = None
        if wrong := raw & reserved:
            problem = _reserved(own.name, layout, where, raw, wrong)
        elif value := self._unsupported(table.kind, raw):
            what = f"{value}, which this unit does not support"
            problem = Problem(own.name, where, raw, 0, what, layout.section)
        below = self._below(table.kind, raw) if problem is None or self.follow_refused else ()
        return Entry(index, where, raw, layout, problem, below)

    def _unsupported(self, kind: str, raw: int) -> str:
        """The fields whose values the unit does not support; empty if it supports them all."""
        if kind == "context":
            if self.formats.translation_type(raw) is None:
                return f"TT={ContextEntry.TT.show(raw)}"
            if self.formats.second_stage_levels(ContextEntry.AW.get(raw)) is None:
                return f"AW={ContextEntry.AW.get(raw)}"
        if kind == "pasid" and self.formats.stages(raw) is None:
            entry = PasidEntry(raw)
            return f"PGTT={PasidEntry.PGTT.show(raw)}, AW={entry.AW}, FSPM={entry.FSPM}"
        return ""

    def _below(self, kind: str, raw: int) -> tuple[Table, ...]:
        match kind:
            case "root":
                return (Table("context", RootEntry.CTP.get(raw), 256),)
            case "scalable_root":
                return (Table("scalable_context", ScalableRootHalf.CTP.get(raw), 128),)
            case "scalable_context":
                context = self._scalable.decode_context(raw)
                return (Table("directory", ScalableContextEntry.PASIDDIRPTR.get(raw), context.pasids >> 6),)
            case "directory":
                return (Table("pasid", PasidDirectoryEntry.SMPTBLPTR.get(raw), 64),)
        return tuple(Table("paging", stage.address, 512, stage, stage.levels) for stage in self.stages(kind, raw))

    def stages(self, kind: str, raw: int) -> list[Root]:
        """The stages that a context entry or a PASID-table entry selects: the second before the first.

        Empty if it passes addresses through, or selects what the unit does not support.
        """
        if kind == "context":
            entry, supported = ContextEntry(raw), self.formats.translation_type(raw)
            levels = self.formats.second_stage_levels(entry.AW)
            if supported is None or levels is None or supported is TranslationType.PASS_THROUGH:
                return []
            legacy = self.unit.translation.legacy
            return [legacy.context(entry.DID, supported, entry.SSPTPTR, levels, entry.FPD).tables]
        if kind == "pasid":
            context = self._scalable.decode_pasid(PasidEntry(raw), 0, 0)
            return [stage for stage in (context.second, context.first) if stage is not None]
        return []


def reserved_in_words(layout: type[Layout], bits: int) -> str:
    """Reserved bits of an entry, with the fields that are reserved only on some units."""
    names = ", ".join(part.name for part in layout.fields.values() if part.mask & bits)
    return f"reserved bits {bits:#x}" + (f" ({names})" if names else "")


def _reserved(name: str, layout: type[Layout], where: int, raw: int, wrong: int) -> Problem:
    return Problem(name, where, raw, wrong, reserved_in_words(layout, wrong), layout.section)
