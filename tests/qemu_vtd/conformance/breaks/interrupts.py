"""Breaks of interrupt remapping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import FaultReason, InterruptRequest, RemappingUnit, SourceId
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.reasons import Blocked
from iommu.registers import IRTA
from iommu.structures import InterruptEntry, RemappableData, RemappedInterruptEntry
from tests.qemu_vtd.conformance.breaks.broken import Break


class CompatibilityAlwaysPasses(Break, Interrupts):
    """The compatibility format always passes."""

    scenario = "ir.compatibility.blocked"

    def check_compatibility_format(self) -> None:
        return None


class SubhandleIgnored(Break, Interrupts):
    """The subhandle is not added."""

    scenario = "ir.index.subhandle"

    def index(self, request: InterruptRequest) -> int:
        return super().index(request._replace(data=0))


class SubhandleAlwaysAdded(Break, Interrupts):
    """The data are added to the handle without SHV too."""

    scenario = "ir.index.data-unused"

    def index(self, request: InterruptRequest) -> int:
        return super().index(request._replace(data=0)) + RemappableData.SUBHANDLE.get(request.data)


class TableUnlimited(Break, Interrupts):
    """An index beyond the table is read."""

    scenario = "ir.index.beyond-the-table"

    def entry(self, index: int) -> int:
        size, self.size = self.size, 1 << 20
        try:
            return super().entry(index)
        finally:
            self.size = size


class TableTooSmall(Break, Interrupts):
    """The table has half the entries that S says."""

    scenario = "ir.index.at-the-end"

    def set_table(self, irta: int) -> None:
        super().set_table(irta)
        self.size //= 2


class SourceUnchecked(Break, Interrupts):
    """Every requester may use every entry."""

    scenario = "ir.source.other-device"

    def validate_source(self, entry: int, source_id: SourceId) -> None:
        return None


class SourceValidatedLast(Break, Interrupts):
    """The reserved bits of an entry are checked before the source."""

    scenario = "ir.order.reserved-source"

    def check_entry(self, entry: int, source_id: SourceId) -> None:
        if InterruptEntry.P.get(entry) and self.reserved(entry):
            raise Blocked(FaultReason.IR_24)
        super().check_entry(entry, source_id)


class QualifierIgnored(Break, Interrupts):
    """SQ is ignored."""

    scenario = "ir.source.sq-1"

    def matches_source_id(self, entry: int, source_id: SourceId) -> bool:
        return RemappedInterruptEntry.SID.get(entry) == source_id


class LastBusExcluded(Break, Interrupts):
    """SVT 2 excludes the last bus of its range."""

    scenario = "ir.source.bus"

    def is_bus_in_range(self, entry: int, bus: int) -> bool:
        return super().is_bus_in_range(entry, bus) and RemappedInterruptEntry.SID.get(entry) & 0xFF != bus


class EntryFpdIgnored(Break, FaultLog):
    """FPD of an interrupt entry is ignored."""

    scenario = "ir.fpd.absent"

    def report_interrupt(self, reason: FaultReason, source_id: int, index: int, fpd: int) -> bool:
        return super().report_interrupt(reason, source_id, index, 0)


class IndexNotRecorded(Break, FaultLog):
    """A record of an interrupt fault has no index."""

    scenario = "ir.entry.not-present"

    def compose_interrupt(self, reason: FaultReason, source_id: int, index: int) -> int:
        return super().compose_interrupt(reason, source_id, 0)


class ReservedEntryBitsUnchecked(Break, Formats):
    """An interrupt entry has no reserved bits."""

    scenario = "ir.reserved.bit-12"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = False) -> int:
        return 0


class TableNotLatched(Break, RemappingUnit):
    """Writing IRTA takes effect at once."""

    scenario = "ir.table.latched"

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        super().mmio_write(offset, value, size)
        if offset == IRTA.offset:
            self.interrupts.set_table(self.registers[IRTA].value)


class EntriesNeverDropped(Break, Invalidation):
    """Nothing drops a cached interrupt entry."""

    scenario = "ir.cache.global"

    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.INTERRUPTS:
            super().invalidate(named)


class BlockOfOne(Break, Invalidation):
    """An invalidation of a block drops its first entry only."""

    scenario = "ir.cache.block"

    def invalidate(self, named: Selector) -> None:
        if named.indices is not None:
            named = replace(named, indices=named.indices[:1])
        super().invalidate(named)


class LevelLost(Break, Interrupts):
    """Every remapped interrupt is an edge."""

    scenario = "ir.entry.level"

    def deliver(self, raw: int) -> Any:
        return super().deliver(raw & ~RemappedInterruptEntry.TM.mask)


class PhysicalAlways(Break, Interrupts):
    """Every destination is physical."""

    scenario = "ir.entry.logical"

    def deliver(self, raw: int) -> Any:
        return super().deliver(raw & ~RemappedInterruptEntry.DM.mask)


BREAKS = (
    CompatibilityAlwaysPasses,
    SubhandleIgnored,
    SubhandleAlwaysAdded,
    TableUnlimited,
    TableTooSmall,
    SourceUnchecked,
    SourceValidatedLast,
    QualifierIgnored,
    LastBusExcluded,
    EntryFpdIgnored,
    IndexNotRecorded,
    ReservedEntryBitsUnchecked,
    TableNotLatched,
    EntriesNeverDropped,
    BlockOfOne,
    LevelLost,
    PhysicalAlways,
)
