"""Breaks of what further capabilities offer in scalable mode, and of commands that depend on the table mode."""

from __future__ import annotations

from iommu import FaultReason
from iommu.engine.attributes import PLAIN
from iommu.engine.caches.page import PageKind, kind_of
from iommu.engine.caches.tables import FirstStageRoot, Root
from iommu.engine.formats import Formats
from iommu.engine.invalidation.errors import QueueError
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import Selector
from iommu.engine.register_file import RegisterFile
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.scalable import ScalableMode
from iommu.registers import QueueFault
from iommu.structures import (
    DescriptorType,
    PageResponseDescriptor,
    PasidEntry,
    PasidIotlbDescriptor,
    ScalableContextEntry,
)
from tests.qemu_vtd.conformance.breaks.broken import Break


class LowerHalfForBoth(Break, RegisterFile):
    """A write of 64 bits to two registers writes its lower half to both."""

    scenario = "registers.access.pair-feaddr"

    def write(self, offset: int, value: int, size: int) -> None:
        lower = value & 0xFFFF_FFFF
        super().write(offset, lower | lower << 32 if size == 8 else value, size)


class CommandsInEveryMode(Break, Invalidation):
    """Commands by register are carried out in scalable mode too."""

    scenario = "scalable.command.contexts-global"

    def registers_serve_mode(self) -> bool:
        return True


class QueueInEveryMode(Break, Queue):
    """The queue does not look at the table mode."""

    scenario = "queue.error.mode-reserved"

    def check_mode(self) -> None:
        return None


class HintKeepsThePage(Break, Queue):
    """A PASID-based IOTLB invalidation with IH = 1 drops nothing."""

    scenario = "scalable.cache.first.hint-page"

    def invalidate_pasid_translations(self, command: PasidIotlbDescriptor) -> None:
        if not command.IH:
            super().invalidate_pasid_translations(command)


class HintAlwaysSet(Break, Queue):
    """A PASID-based IOTLB invalidation keeps the tables above the page with IH = 0 too."""

    scenario = "scalable.cache.first.hint-0-level-3"

    def select_pasid_translations(self, command: PasidIotlbDescriptor) -> Selector | None:
        return super().select_pasid_translations(PasidIotlbDescriptor(PasidIotlbDescriptor.IH.put(command.raw, 1)))


class PasidDeviceTlbUnchecked(Break, Queue):
    """A PASID-based device-TLB descriptor has no reserved bits."""

    scenario = "scalable.device-tlb.reserved"

    def carry_out(self, raw: int, bits: int) -> None:
        self._reserved[DescriptorType.PASID_DEVICE_TLB] = 0
        super().carry_out(raw, bits)


class FirstStageFaultsCached(Break, FirstStage):
    """Caching mode caches what is not present in a first stage."""

    scenario = "scalable.caching.first-absent-level-1"

    def faulty_kind(self, tables: FirstStageRoot, reason: FaultReason) -> PageKind | None:
        return kind_of(4096, False, False, False, False, False, True, PLAIN, False, reason)


class CachedBeforeMarked(Break, ScalableMode):
    """A first-stage page is cached before its accessed bit is set."""

    scenario = "scalable.first-dirty.not-cached"

    def caches_early(self, tables: Root) -> bool:
        return True


class DeviceTlbNeverEnabled(Break, Formats):
    """DTE is reserved on a unit with device-TLBs too."""

    scenario = "scalable.offers.device-tlb.second-dte"

    def reserved_in_scalable_context(self, entry: int) -> int:
        return super().reserved_in_scalable_context(entry) | ScalableContextEntry.DTE.mask


class PagesNeverSnooped(Break, Formats):
    """PGSNP is reserved on a unit with snoop control too."""

    scenario = "scalable.offers.snooping.first-pgsnp"

    def reserved_in_pasid(self, entry: int) -> int:
        return super().reserved_in_pasid(entry) | PasidEntry.PGSNP.mask


class PageRequestsNeverEnabled(Break, Formats):
    """PRE is reserved on a unit with page requests too."""

    scenario = "scalable.offers.page-requests.first-enabled"

    def reserved_in_scalable_context(self, entry: int) -> int:
        return super().reserved_in_scalable_context(entry) | ScalableContextEntry.PRE.mask


class LevelsUnchecked(Break, Formats):
    """Four levels are walked on every unit."""

    scenario = "setup.no-translation.4-levels"

    def second_stage_levels(self, address_width: int) -> int | None:
        return 4 if address_width == 2 else super().second_stage_levels(address_width)


class TranslationNeedsLevels(Break, Formats):
    """A first stage needs a number of second-stage levels too."""

    scenario = "setup.no-translation.first-stage"

    def first_stage_levels(self, mode: int) -> int | None:
        return super().first_stage_levels(mode) if self.capabilities.levels else None


class ResponsesRefused(Break, Queue):
    """A page response without PASID is refused."""

    scenario = "setup.page-requests.response-plain"

    def respond(self, command: PageResponseDescriptor) -> None:
        if not command.PP:
            raise QueueError(QueueFault.RESERVED)
        super().respond(command)


BREAKS = (
    LevelsUnchecked,
    TranslationNeedsLevels,
    ResponsesRefused,
    LowerHalfForBoth,
    CommandsInEveryMode,
    QueueInEveryMode,
    HintKeepsThePage,
    HintAlwaysSet,
    PasidDeviceTlbUnchecked,
    FirstStageFaultsCached,
    CachedBeforeMarked,
    DeviceTlbNeverEnabled,
    PagesNeverSnooped,
    PageRequestsNeverEnabled,
)
