"""Breaks of translation in scalable mode."""

from __future__ import annotations

from iommu import FaultReason, SourceId
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.formats import Formats, Stages
from iommu.engine.reasons import Blocked
from iommu.engine.translation.scalable import ScalableMode
from iommu.structures import PasidEntry
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


BREAKS = (
    WrongHalf,
    RootCodesOfLegacyMode,
    RootBitsUnchecked,
    ContextBitsUnchecked,
    DirectoryBitsUnchecked,
    EntryBitsUnchecked,
    AnyType,
    AbsentEntryUsed,
    NextPasid,
)
