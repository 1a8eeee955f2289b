"""Engines broken on purpose, each in one rule that the tables of a Linux guest use: a guest test must notice each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import DmaRequest, FaultReason, Outcome, RemappingUnit, SourceId
from iommu.engine.caches.entries import CachedContext, PasidContext, ScalableContext
from iommu.engine.caches.page import Intent, Page
from iommu.engine.caches.tables import FirstStageRoot, Root, SecondStageRoot
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.interrupts.request import InterruptOutcome, InterruptRequest
from iommu.engine.reasons import Blocked
from iommu.engine.translation.first_stage import FirstStage
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.paging import Leaf
from iommu.engine.translation.scalable import ScalableMode
from iommu.engine.translation.second_stage import SecondStage
from iommu.engine.translation.translation import Translation
from iommu.structures import RemappedInterruptEntry
from qemu.vtd.quirks import PARTS

_NEXT_BUS = 0x100
_OTHER = SourceId(0, 4, 0)
DST = RemappedInterruptEntry.DST


def _shifted(address: int) -> int:
    """The index of level 2 is taken one bit too high."""
    return address & ~(0x1FF << 21) | (address >> 22 & 0x1FF) << 21


class SecondStageShifted(SecondStage):
    """The index into a level-2 table is taken one bit too high."""

    def find(self, tables: SecondStageRoot, address: int, intent: Intent) -> Leaf:
        return super().find(tables, _shifted(address), intent)


class FirstStageShifted(FirstStage):
    """The index into a level-2 table is taken one bit too high."""

    def walk(self, tables: FirstStageRoot, address: int, intent: Intent) -> Leaf:
        return super().walk(tables, _shifted(address), intent)


class WritesAlwaysAllowed(LegacyMode):
    """A write needs no write permission."""

    def intent(self, request: DmaRequest) -> Intent:
        return super().intent(request)._replace(write=False)


class WritesAlwaysAllowedWithPasids(ScalableMode):
    """A write needs no write permission."""

    def intent(self, context: Any, request: DmaRequest) -> Intent:
        return super().intent(context, request)._replace(write=False)


class OtherBus(LegacyMode):
    """The context table of the next bus is used."""

    def context_entry(self, source_id: SourceId) -> int:
        return super().context_entry(SourceId.of(source_id + _NEXT_BUS))


class OtherBusWithPasids(ScalableMode):
    """The context table of the next bus is used."""

    def context_entry(self, source_id: SourceId) -> int:
        return super().context_entry(SourceId.of(source_id + _NEXT_BUS))


class OneContext(LegacyMode):
    """All devices use the context entry of one."""

    def context_of(self, request: DmaRequest) -> CachedContext:
        return super().context_of(replace(request, source_id=_OTHER))


class OtherPasid(ScalableMode):
    """The entry of the next PASID is used."""

    def pasid_context_of(self, context: ScalableContext, source_id: SourceId, pasid: int) -> PasidContext:
        return super().pasid_context_of(context, source_id, pasid ^ 1)


class SmallPages(LegacyMode):
    """A large page counts as its first 4 KiB: higher bits of the offset are lost."""

    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        kept = request.address & ~(page.kind.size - 0x1000)
        return super().outcome(tables, page, intent, replace(request, address=kept))


class ShortHostAddresses(LegacyMode):
    """A page's host address keeps 24 bits only."""

    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        return super().outcome(tables, Page(page.host & 0xFF_FFFF, page.kind), intent, request)


class RootNotLatched(Translation):
    """SRTP latches the mode, but no root table."""

    def set_root_table(self, address: int, mode: int) -> None:
        super().set_root_table(0, mode)


class ReasonsSwapped(ScalableMode):
    """A missing permission is reported as a missing page."""

    def translate(self, request: DmaRequest) -> Outcome:
        try:
            return super().translate(request)
        except Blocked as condition:
            if condition.reason is FaultReason.SGN_6:
                raise Blocked(FaultReason.SFS_2, condition.fpd) from None
            raise


class IndexOffByOne(Interrupts):
    """The next entry of the interrupt table is used."""

    def index(self, request: InterruptRequest) -> int:
        return super().index(request) + 1


class AnySource(Interrupts):
    """Every device may use every entry."""

    def validate_source(self, entry: int, source_id: SourceId) -> None:
        return None


class DestinationShifted(Interrupts):
    """The destination is taken from the bits below its own."""

    def deliver(self, raw: int) -> InterruptOutcome:
        return super().deliver(DST.put(raw, DST.get(raw) << 8 & 0xFFFF_FFFF))


class VectorOff(Interrupts):
    """The lowest bit of the vector is lost or made up."""

    def deliver(self, raw: int) -> InterruptOutcome:
        return super().deliver(raw ^ RemappedInterruptEntry.V.mask & 1 << RemappedInterruptEntry.V.lsb)


class AlwaysPhysical(Interrupts):
    """A logical destination is taken as a physical one."""

    def deliver(self, raw: int) -> InterruptOutcome:
        return super().deliver(raw & ~RemappedInterruptEntry.DM.mask)


BREAKS: dict[str, tuple[type[Any], ...]] = {
    "legacy-4-level": (
        SecondStageShifted,
        WritesAlwaysAllowed,
        OtherBus,
        OneContext,
        SmallPages,
        ShortHostAddresses,
        RootNotLatched,
        IndexOffByOne,
        AnySource,
        DestinationShifted,
        VectorOff,
        AlwaysPhysical,
    ),
    "first-stage": (
        FirstStageShifted,
        WritesAlwaysAllowedWithPasids,
        OtherBusWithPasids,
        OtherPasid,
        ReasonsSwapped,
    ),
}
"""By the variant whose guest notices them."""


def broken(unit: type[RemappingUnit], rule: type[Any]) -> type[RemappingUnit]:
    """This kind of unit with one rule broken."""
    part = next(name for name in PARTS if issubclass(rule, getattr(RemappingUnit, name)))
    return type("Broken", (unit,), {part: type(part, (rule, getattr(unit, part)), {})})
