"""Breaks of scalable mode: its tables, its stages, and what it caches."""

from __future__ import annotations

from dataclasses import replace

from iommu import DmaRequest, FaultReason, Outcome, SourceId
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.caches.page import Intent
from iommu.engine.caches.tables import FirstStageRoot, SecondStageRoot
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats, Stages
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.reasons import Blocked
from iommu.engine.request import identity
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.translation.translation import Translation
from iommu.registers import TableMode
from iommu.structures import PasidDirectoryEntry, PasidEntry, PasidIotlbDescriptor, ScalableContextEntry
from tests.qemu_vtd.conformance.breaks.broken import Break


class WrongHalf(Break, ScalableMode):
    """The halves of a root entry are exchanged."""

    scenario = "scalable.tables.works"

    def context_entry(self, source_id: SourceId) -> int:
        return super().context_entry(SourceId.of(source_id ^ 0x80))


class RootCodesOfLegacyMode(Break, ScalableMode):
    """An absent root entry has the code of legacy mode."""

    scenario = "scalable.root.not-present"

    def context_entry(self, source_id: SourceId) -> int:
        try:
            return super().context_entry(source_id)
        except Blocked as condition:
            if condition.reason is FaultReason.SRT_2:
                raise Blocked(FaultReason.LRT_2) from None
            raise


class RootBitsUnchecked(Break, Formats):
    """A root entry has no reserved bits."""

    scenario = "scalable.reserved.root-entry.low"

    def reserved_in_scalable_root(self, entry: int) -> int:
        return 0


class ContextBitsUnchecked(Break, Formats):
    """A context entry has no reserved bits."""

    scenario = "scalable.reserved.context-entry.low"

    def reserved_in_scalable_context(self, entry: int) -> int:
        return 0


class DirectoryBitsUnchecked(Break, Formats):
    """A PASID directory entry has no reserved bits."""

    scenario = "scalable.reserved.directory-entry.low"

    def reserved_in_directory(self, entry: int) -> int:
        return 0


class EntryBitsUnchecked(Break, Formats):
    """A PASID-table entry has no reserved bits."""

    scenario = "scalable.reserved.pasid-entry.low"

    def reserved_in_pasid(self, entry: int) -> int:
        return 0


class AnyType(Break, Formats):
    """A reserved type of a PASID-table entry is taken as pass-through."""

    scenario = "scalable.entry.type-0"

    def stages(self, entry: int) -> Stages | None:
        return super().stages(entry if PasidEntry.PGTT.get(entry) in (1, 2, 3, 4) else PasidEntry.PGTT.put(entry, 4))


class AbsentEntryUsed(Break, ScalableMode):
    """A PASID-table entry is used without being present."""

    scenario = "scalable.entry.not-present"

    def check_pasid_entry(self, entry: int, fpd: int) -> None:
        super().check_pasid_entry(entry | PasidEntry.P.mask, fpd)


class NextPasid(Break, ScalableMode):
    """The entry of the next PASID is used."""

    scenario = "scalable.tables.works"

    def pasid_entry(self, context: ScalableContext, pasid: int) -> PasidContext:
        return super().pasid_entry(context, pasid + 1)


class LowerHalfForAll(Break, ScalableMode):
    """Every device is served by the lower half of its root entry."""

    scenario = "scalable.root.both-halves"

    def read_root(self, where: int) -> int:
        return super().read_root(where & ~8)


class ContextsOfHalfTheSize(Break, ScalableMode):
    """Context entries are taken to have 128 bits, as in legacy mode."""

    scenario = "scalable.tables.works"

    def read_context(self, where: int) -> int:
        offset = where & 0xFFF
        return super().read_context(where - offset // 2)


class DirectoryIndexDropped(Break, ScalableMode):
    """Every PASID uses the first entry of its directory."""

    scenario = "scalable.rid-pasid.used"

    def read_directory(self, where: int) -> int:
        return super().read_directory(where & ~0xFFF)


class RidPasidIgnored(Break, ScalableMode):
    """Requests without PASID use PASID 0 with ECAP.RPS too."""

    scenario = "scalable.rid-pasid.used"

    def decode_context(self, raw: int) -> ScalableContext:
        return replace(super().decode_context(raw), rid_pasid=0)


class RidPasidUnlimited(Break, ScalableMode):
    """RID_PASID may lie beyond the PASID directory."""

    scenario = "scalable.rid-pasid.beyond-directory"

    def check_context_entry(self, entry: int, fpd: int) -> None:
        super().check_context_entry(entry & ~ScalableContextEntry.RID_PASID.mask, fpd)


class DirectoryPresenceUnchecked(Break, ScalableMode):
    """A PASID directory entry counts as present whatever its P."""

    scenario = "scalable.directory.not-present"

    def read_directory(self, where: int) -> int:
        return super().read_directory(where) | PasidDirectoryEntry.P.mask


class DirectoryFpdDropped(Break, ScalableMode):
    """FPD of a PASID directory entry does not count."""

    scenario = "scalable.fpd.directory.79"

    def read_directory(self, where: int) -> int:
        return super().read_directory(where) & ~PasidDirectoryEntry.FPD.mask


class EntryFpdDropped(Break, ScalableMode):
    """FPD of a PASID-table entry does not count."""

    scenario = "scalable.fpd.entry.5b"

    def read_pasid(self, where: int) -> int:
        return super().read_pasid(where) & ~PasidEntry.FPD.mask


class UnreadableIsQualified(Break, FaultLog):
    """FPD suppresses the fault of a PASID directory that cannot be read."""

    scenario = "scalable.fpd.context.not-50"

    def is_qualified(self, reason: FaultReason) -> bool:
        return reason is FaultReason.SPD_1 or super().is_qualified(reason)


class SecondStageWithLegacyLevels(Break, ScalableMode):
    """A second stage always has 4 levels."""

    scenario = "scalable.second.4k-3-levels"

    def second_root(self, entry: PasidEntry, levels: int) -> SecondStageRoot:
        return super().second_root(entry, 4)


class PassThroughWithoutLimit(Break, ScalableMode):
    """Pass-through of scalable mode takes any address."""

    scenario = "scalable.pass-through.beyond-host-width"

    def pass_through(self, request: DmaRequest, pasid_context: PasidContext) -> Outcome:
        return identity(request.address)


class NotCanonicalAccepted(Break, FirstStage):
    """Any address is canonical."""

    scenario = "scalable.canonical.bit-47"

    def check_address(self, tables: FirstStageRoot, address: int) -> None:
        pass


class UpperHalfRefused(Break, FirstStage):
    """Only the lower half of the canonical addresses is accepted."""

    scenario = "scalable.canonical.upper-half-end"

    def check_address(self, tables: FirstStageRoot, address: int) -> None:
        super().check_address(tables, address)
        if address >> 63:
            raise Blocked(FaultReason.SGN_1)


class EveryoneIsSupervisor(Break, ScalableMode):
    """A request without PASID is privileged."""

    scenario = "scalable.first.supervisor-1"

    def intent(self, context: ScalableContext, request: DmaRequest) -> Intent:
        return super().intent(context, request)._replace(user=False)

    def check_request_flags(self, pasid_context: PasidContext, intent: Intent) -> None:
        pass


class WritesNeedNoPermission(Break, ScalableMode):
    """A write needs no write permission in either stage."""

    scenario = "scalable.first.no-write-1"

    def intent(self, context: ScalableContext, request: DmaRequest) -> Intent:
        return super().intent(context, request)._replace(write=False)


class AnyModeIsScalable(Break, Translation):
    """A reserved table mode is taken for scalable mode."""

    scenario = "scalable.mode.reserved"

    def set_root_table(self, address: int, mode: int) -> None:
        super().set_root_table(address, mode and TableMode.SCALABLE)


class PasidCacheKept(Break, Invalidation):
    """No invalidation drops a PASID-table entry."""

    scenario = "scalable.cache.entry.global"

    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.PASIDS:
            super().invalidate(named)


class PasidCacheOfDomainOnly(Break, Invalidation):
    """A PASID-cache invalidation of one PASID is carried out for the next PASID."""

    scenario = "scalable.cache.entry.pasid"

    def invalidate(self, named: Selector) -> None:
        wrong = named.cache is CacheName.PASIDS and named.pasid is not None
        super().invalidate(replace(named, pasid=named.pasid + 1) if wrong and named.pasid is not None else named)


class FirstStageKeptByPages(Break, Invalidation):
    """An IOTLB invalidation of pages drops those pages only, also of what a first stage has translated."""

    scenario = "scalable.cache.first.page"

    def invalidate(self, named: Selector) -> None:
        by_page = named.cache is CacheName.TRANSLATIONS and named.addresses is not None and named.pasid is None
        super().invalidate(replace(named, pasid=0) if by_page else named)


class PasidMaskDropped(Break, Queue):
    """A PASID-based IOTLB invalidation of pages drops the first page only."""

    scenario = "scalable.cache.first.range-2-8000"

    def select_pasid_translations(self, command: PasidIotlbDescriptor) -> Selector | None:
        return super().select_pasid_translations(PasidIotlbDescriptor(PasidIotlbDescriptor.AM.put(command.raw, 0)))


class NarrowDescriptorsTaken(Break, Queue):
    """The width of descriptors is not held to the table mode."""

    scenario = "scalable.queue.narrow"

    def check_mode(self) -> None:
        pass


class UpperHalfUnchecked(Break, Queue):
    """The upper half of a 256-bit descriptor may be anything."""

    scenario = "scalable.queue.reserved.pasid-cache.upper"

    def carry_out(self, raw: int, bits: int) -> None:
        super().carry_out(raw & (1 << 128) - 1, bits)


class ContextsByBusOnly(Break, ScalableMode):
    """The context cache does not tell devices apart."""

    scenario = "scalable.domain.two-devices"

    def context_of(self, source_id: SourceId) -> ScalableContext:
        return super().context_of(SourceId(source_id.bus, 4, 0))


class NothingMarked(Break, FirstStage):
    """A first stage sets neither accessed nor dirty bits."""

    scenario = "scalable.first-dirty.write-snooped"

    def bits_to_set(self, tables: FirstStageRoot, entry: int, *, dirty: bool) -> int:
        return 0


class ReadsMarkDirty(Break, FirstStage):
    """A read sets the dirty bit too."""

    scenario = "scalable.first-dirty.read-snooped"

    def bits_to_set(self, tables: FirstStageRoot, entry: int, *, dirty: bool) -> int:
        return super().bits_to_set(tables, entry, dirty=True)


class AlwaysSnooped(Break, ScalableMode):
    """Every walk counts as snooped, and may update entries."""

    scenario = "scalable.first-dirty.read-not-snooped"

    def is_snooped(self, entry: PasidEntry) -> int:
        return 1


BREAKS: tuple[type[Break], ...] = (
    WrongHalf,
    RootCodesOfLegacyMode,
    RootBitsUnchecked,
    ContextBitsUnchecked,
    DirectoryBitsUnchecked,
    EntryBitsUnchecked,
    AnyType,
    AbsentEntryUsed,
    NextPasid,
    LowerHalfForAll,
    ContextsOfHalfTheSize,
    DirectoryIndexDropped,
    RidPasidIgnored,
    RidPasidUnlimited,
    DirectoryPresenceUnchecked,
    DirectoryFpdDropped,
    EntryFpdDropped,
    UnreadableIsQualified,
    SecondStageWithLegacyLevels,
    PassThroughWithoutLimit,
    NotCanonicalAccepted,
    UpperHalfRefused,
    EveryoneIsSupervisor,
    WritesNeedNoPermission,
    AnyModeIsScalable,
    PasidCacheKept,
    PasidCacheOfDomainOnly,
    FirstStageKeptByPages,
    PasidMaskDropped,
    NarrowDescriptorsTaken,
    UpperHalfUnchecked,
    ContextsByBusOnly,
    NothingMarked,
    ReadsMarkDirty,
    AlwaysSnooped,
)
