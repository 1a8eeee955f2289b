"""Breaks of the first stage, and of what is cached and invalidated in scalable mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import DmaRequest, Outcome
from iommu.engine.caches.page import Intent, Page
from iommu.engine.caches.tables import FirstStageRoot, Root
from iommu.engine.entry_format import PagingFormat, Rules
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.reasons import FaultReason
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.scalable import ScalableMode
from iommu.structures import PasidCacheDescriptor, PasidIotlbDescriptor
from tests.qemu_vtd.conformance.breaks.broken import Break


class NotCanonical(Break, FirstStage):
    """An address need not be canonical."""

    scenario = "scalable.canonical.bit-63"

    def check_address(self, tables: FirstStageRoot, address: int) -> None:
        return None


class SupervisorPagesOpen(Break, FirstStage):
    """A user's request may use a supervisor's page."""

    scenario = "scalable.first.supervisor-1"

    def check_entry(
        self,
        tables: FirstStageRoot,
        entry_format: PagingFormat,
        rules: Rules,
        rights: int,
        entry: int,
        intent: Intent,
    ) -> int:
        return super().check_entry(tables, entry_format, rules, rights, entry | 1 << 2, intent) | 1 << 2


class ReadOnlyIgnored(Break, ScalableMode):
    """A write needs no write permission."""

    scenario = "scalable.first.no-write-1"

    def intent(self, context: Any, request: DmaRequest) -> Intent:
        return super().intent(context, request)._replace(write=False)


class FirstStageBitsUnchecked(Break, Formats):
    """A first-stage entry has no reserved bits."""

    scenario = "scalable.first.1g-not-offered"

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        return 0


class FirstStageIntoInterruptRange(Break, ScalableMode):
    """A host address may lie in the interrupt range."""

    scenario = "scalable.first.interrupt-range"

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        return False


class EntryFpdDropped(Break, FaultLog):
    """FPD is ignored."""

    scenario = "scalable.fpd.entry.79"

    def is_qualified(self, reason: FaultReason) -> bool:
        return False


class PasidTagLost(Break, ScalableMode):
    """Translations of all domains share one tag."""

    scenario = "scalable.cache.entry.new-domain-same-page"

    def translate_stage(self, stage: Any, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        moved: Root = replace(tables, domain_id=0)  # type: ignore[type-var]  # a union of two dataclasses
        return super().translate_stage(stage, moved, intent, request)


class PasidCacheKept(Break, Invalidation):
    """Nothing drops a PASID-table entry."""

    scenario = "scalable.cache.entry.global"

    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.PASIDS:
            super().invalidate(named)


class PasidTranslationsKept(Break, Queue):
    """A PASID-based IOTLB invalidation drops nothing."""

    scenario = "scalable.cache.first.by-pasid"

    def invalidate_pasid_translations(self, command: PasidIotlbDescriptor) -> None:
        return None


class PasidCacheOfDomainKept(Break, Queue):
    """A domain-selective invalidation of the PASID cache drops nothing."""

    scenario = "scalable.cache.entry.domain"

    def invalidate_pasids(self, command: PasidCacheDescriptor) -> None:
        if command.G:
            super().invalidate_pasids(command)


BREAKS = (
    NotCanonical,
    SupervisorPagesOpen,
    ReadOnlyIgnored,
    FirstStageBitsUnchecked,
    FirstStageIntoInterruptRange,
    EntryFpdDropped,
    PasidTagLost,
    PasidCacheKept,
    PasidTranslationsKept,
    PasidCacheOfDomainKept,
)
