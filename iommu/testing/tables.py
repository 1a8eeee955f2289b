"""What is wrong in the tables that software has set up: reserved bits and values that this unit does not support.

A fault reports such an entry only when a request meets it. This reads every present entry.
"""

from __future__ import annotations

from collections.abc import Iterator

from iommu.engine.caches.tables import Root
from iommu.engine.entry_format import EntryFormat, PagingFormat
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError
from iommu.fields import Layout
from iommu.registers import GSTS, TableMode
from iommu.structures import (
    ContextEntry,
    InterruptEntry,
    PasidDirectoryEntry,
    PasidEntry,
    PostedInterruptEntry,
    RemappedInterruptEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    TranslationType,
)
from iommu.testing.words import reserved_in_words

PAGE = 1 << 12


def table_problems(unit: RemappingUnit) -> list[str]:
    """The present entries that the unit would refuse (spec chapter 9), a line each, in the order of the tables.

    These are the tables that the last SRTP and SIRTP have latched, with all that they point to. What an entry that is
    refused points to is not read, nor are first-stage tables under a second stage.
    """
    return list(_Tables(unit).problems())


class _Tables:
    """The tables of one unit. A table that many entries point to is read once; one beyond memory is reported last."""

    def __init__(self, unit: RemappingUnit) -> None:
        self.unit, self.formats, self.scalable = unit, unit.formats, unit.translation.scalable
        self._read: set[tuple[int, str]] = set()
        self._absent: list[str] = []

    def problems(self) -> Iterator[str]:
        """See table_problems."""
        status, mode = GSTS(self.unit.registers[GSTS].value), self.unit.translation.mode
        root = self.unit.translation.legacy.root_table
        if status.RTPS and mode == TableMode.LEGACY:
            yield from self.legacy(root)
        if status.RTPS and mode == TableMode.SCALABLE:
            yield from self.scalable_mode(root)
        if status.IRTPS:
            yield from self.interrupts()
        yield from self._absent

    # Legacy mode (9.1, 9.3).

    def legacy(self, root: int) -> Iterator[str]:
        """The root table, and all below it."""
        for where, entry in self.entries(self.formats.root, root, 256):
            if RootEntry.P.get(entry):
                yield from self.reserved(self.formats.root, where, entry) or self.contexts(RootEntry.CTP.get(entry))

    def contexts(self, table: int) -> Iterator[str]:
        """A context table, and all below it."""
        for where, raw in self.entries(self.formats.context, table, 256):
            entry = ContextEntry(raw)
            if entry.P:
                yield from self.reserved(self.formats.context, where, raw) or self.second_stage_of(where, entry)

    def second_stage_of(self, where: int, entry: ContextEntry) -> Iterator[str]:
        """What a context entry selects."""
        kind, levels = self.formats.translation_type(entry.raw), self.formats.second_stage_levels(entry.AW)
        if kind is None:
            yield _unsupported(self.formats.context, where, f"TT={ContextEntry.TT.show(entry.raw)}")
        elif levels is None:
            yield _unsupported(self.formats.context, where, f"AW={entry.AW}")
        elif kind is not TranslationType.PASS_THROUGH:
            paging = self.formats.second_stage(accessed_dirty=False, memory_types=False)
            yield from self.paging(paging, entry.SSPTPTR, levels)

    # Scalable mode (9.2, 9.4 to 9.6).

    def scalable_mode(self, root: int) -> Iterator[str]:
        """The root table, and all below it."""
        own = self.formats.scalable_root
        for where, half in self.entries(own, root, 512):
            if ScalableRootHalf.P.get(half):
                yield from self.reserved(own, where, half) or self.scalable_contexts(ScalableRootHalf.CTP.get(half))

    def scalable_contexts(self, table: int) -> Iterator[str]:
        """A context table, and all below it."""
        own = self.formats.scalable_context
        for where, entry in self.entries(own, table, 128):
            if ScalableContextEntry.P.get(entry):
                yield from self.reserved(own, where, entry) or self.directory(entry)

    def directory(self, entry: int) -> Iterator[str]:
        """The PASID directory of a context entry, and all below it."""
        context, own = self.scalable.decode_context(entry), self.formats.directory
        for where, raw in self.entries(own, context.directory, context.pasids >> 6):
            if PasidDirectoryEntry.P.get(raw):
                table = PasidDirectoryEntry.SMPTBLPTR.get(raw)
                yield from self.reserved(own, where, raw) or self.pasids(table)

    def pasids(self, table: int) -> Iterator[str]:
        """A PASID table, and all below it."""
        own = self.formats.pasid
        for where, entry in self.entries(own, table, 64):
            if PasidEntry.P.get(entry):
                yield from self.reserved(own, where, entry) or self.stages_of(where, PasidEntry(entry))

    def stages_of(self, where: int, entry: PasidEntry) -> Iterator[str]:
        """What a PASID-table entry selects."""
        if self.formats.stages(entry.raw) is None:
            fields = f"PGTT={PasidEntry.PGTT.show(entry.raw)}, AW={entry.AW}, FSPM={entry.FSPM}"
            yield _unsupported(self.formats.pasid, where, fields)
            return
        context = self.scalable.decode_pasid(entry, 0, 0)
        stages: list[Root] = [stage for stage in (context.second, context.first) if stage is not None]
        if len(stages) == 2:  # nested: the first stage is at guest addresses
            stages.pop()
        for stage in stages:
            yield from self.paging(stage.formats, stage.address, stage.levels)

    # Paging and interrupt tables (9.7 to 9.10).

    def paging(self, formats: tuple[PagingFormat, ...], table: int, level: int) -> Iterator[str]:
        """A paging table of a level, and all below it."""
        own = formats[level]
        for where, entry in self.entries(own, table, 512):
            if not entry & own.present:
                continue
            if wrong := self.reserved(own, where, entry):
                yield from wrong
            elif own.rules(entry) is own.table:
                yield from self.paging(formats, own.table.layout.fields["ADDR"].get(entry), level - 1)

    def interrupts(self) -> Iterator[str]:
        """The interrupt-remapping table."""
        own, latched = self.formats.interrupt, self.unit.interrupts
        for where, entry in self.entries(own, latched.table, latched.size):
            if InterruptEntry.P.get(entry):
                mask = self.formats.reserved_in_interrupt(entry, extended=latched.extended)
                layout = PostedInterruptEntry if self.formats.is_posted(entry) else RemappedInterruptEntry
                yield from _reserved(own.name, layout, where, entry & mask)

    # Entries.

    def entries(self, own: EntryFormat, table: int, count: int) -> Iterator[tuple[int, int]]:
        """The entries of a table that are not 0, each with its address, as far as there is memory."""
        if (table, own.name) in self._read:
            return
        self._read.add((table, own.name))
        for start in range(table, table + count * own.size, PAGE):
            try:
                data = self.unit.memory.read(start, min(PAGE, table + count * own.size - start))
            except MemoryAccessError:
                self._absent.append(f"{own.name}: there is no memory at {start:#x}, in the table at {table:#x}")
                return
            for offset in range(0, len(data), own.size):
                if entry := int.from_bytes(data[offset : offset + own.size], "little"):
                    yield start + offset, entry

    def reserved(self, own: EntryFormat, where: int, entry: int) -> list[str]:
        """The line for an entry with reserved bits; empty if it has none."""
        return _reserved(own.name, own.layout_of(entry), where, entry & own.reserved(entry))


def _reserved(name: str, layout: type[Layout], where: int, wrong: int) -> list[str]:
    return [f"{name} at {where:#x}: {reserved_in_words(layout, wrong)} (spec {layout.section})"] if wrong else []


def _unsupported(own: EntryFormat, where: int, fields: str) -> str:
    return f"{own.name} at {where:#x}: {fields}, which this unit does not support (spec {own.layout.section})"
