"""Breaks of translation in legacy mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import DmaRequest, FaultReason, Outcome, SourceId
from iommu.engine.caches.entries import CachedContext
from iommu.engine.caches.page import Intent, Page
from iommu.engine.caches.tables import Root
from iommu.engine.entry_format import PagingFormat
from iommu.engine.formats import Formats
from iommu.engine.reasons import Blocked
from iommu.engine.request import identity
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.paging import Stage
from iommu.engine.translation.second_stage import SecondStage
from iommu.engine.translation.translation import Translation
from iommu.structures import TranslationType
from tests.qemu_vtd.conformance.breaks.broken import Break


class WritePermissionSkipped(Break, LegacyMode):
    """A write needs no write permission."""

    scenario = "legacy.permission.read-only-level-1"

    def intent(self, request: DmaRequest) -> Intent:
        return super().intent(request)._replace(write=False)


class ReadPermissionSkipped(Break, LegacyMode):
    """A read needs no read permission."""

    scenario = "legacy.permission.write-only-level-1"

    def intent(self, request: DmaRequest) -> Intent:
        return super().intent(request)._replace(read=False)


class UpperPermissionsIgnored(Break, SecondStage):
    """Only the permissions of the page's own entry count."""

    scenario = "legacy.permission.read-only-level-4"

    def check_entry(
        self, tables: Any, entry_format: PagingFormat, rules: Any, rights: int, entry: int, intent: Intent
    ) -> int:
        super().check_entry(tables, entry_format, rules, 3, entry, intent)
        return entry & 3


class NeighbouringPage(Break, LegacyMode):
    """The host address is in the page beside the right one."""

    scenario = "legacy.pages.4k-4-levels"

    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        right = super().outcome(tables, page, intent, request)
        return right if right.host_address is None else replace(right, host_address=right.host_address ^ 0x1000)


class OffsetLost(Break, LegacyMode):
    """The offset in the page is lost."""

    scenario = "legacy.pages.4k-4-levels"

    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        return super().outcome(tables, page, intent, replace(request, address=request.address & ~0xFFF))


class WidthUnchecked(Break, LegacyMode):
    """Address bits beyond the levels are ignored."""

    scenario = "legacy.width.beyond-levels"

    def translate_stage(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        narrow = request.address & (1 << 12 + 9 * tables.levels) - 1
        return super().translate_stage(stage, tables, intent, replace(request, address=narrow))


class InterruptRangeOpen(Break, LegacyMode):
    """A host address may lie in the interrupt range."""

    scenario = "legacy.interrupt-range.output"

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        return False


class InterruptRangeByPage(Break, LegacyMode):
    """A large page that touches the interrupt range faults as a whole."""

    scenario = "legacy.interrupt-range.same-superpage"

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        return page.host <= 0xFEEF_FFFF and page.host + page.kind.size > 0xFEE0_0000


class AnyLevels(Break, Formats):
    """Every address width of a context entry is taken."""

    scenario = "legacy.context.width-57"

    def second_stage_levels(self, address_width: int) -> int:
        return min(address_width + 2, 5)


class ReservedContextBitsUnchecked(Break, Formats):
    """A context entry has no reserved bits."""

    scenario = "legacy.context.reserved-bits"

    def reserved_in_context(self, entry: int) -> int:
        return 0


class ReservedTableBitsUnchecked(Break, Formats):
    """A second-stage entry that points to a table has no reserved bits."""

    scenario = "legacy.reserved.snoop-in-table-3"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) if page else 0


class ReservedPageBitsUnchecked(Break, Formats):
    """A second-stage entry that maps a page has no reserved bits."""

    scenario = "legacy.reserved.page-beyond-host-width"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return 0 if page else super().reserved_in_second_stage(level, page=page)


class OneContextForAll(Break, LegacyMode):
    """All devices use the context entry of one."""

    scenario = "legacy.devices.functions-apart"

    def context_of(self, request: DmaRequest) -> CachedContext:
        return super().context_of(replace(request, source_id=type(request.source_id)(0, 4, 0)))


class BusIgnored(Break, LegacyMode):
    """The root entry of bus 0 serves every bus."""

    scenario = "source.port.own"

    def context_entry(self, source_id: SourceId) -> int:
        return super().context_entry(SourceId.of(source_id & 0xFF))


class DeviceBitLost(Break, LegacyMode):
    """The highest bit of a device number does not select a context entry."""

    scenario = "source.high-devfn.own"

    def context_entry(self, source_id: SourceId) -> int:
        return super().context_entry(SourceId.of(source_id & 0xFF7F))


class TopTableLikeOthers(Break, SecondStage):
    """A top table that cannot be read is reported as any other table."""

    scenario = "legacy.table.unreadable-top"

    def unreadable(self, tables: Root, level: int) -> FaultReason:
        return tables.codes.unreadable


class PassThroughWalked(Break, LegacyMode):
    """Pass-through reads the second-stage tables."""

    scenario = "legacy.pass-through"

    def translate_by(self, context: CachedContext, request: DmaRequest) -> Outcome:
        if context.translation_type is TranslationType.PASS_THROUGH:
            return self.translate_stage(self.second_stage, context.tables, self.intent(request), request)
        return super().translate_by(context, request)


class PassThroughUnlimited(Break, LegacyMode):
    """Pass-through has no limit."""

    scenario = "legacy.pass-through.beyond-host-width"

    def pass_through(self, request: DmaRequest) -> Outcome:
        return identity(request.address)


class DeviceTlbRequestsPass(Break, LegacyMode):
    """Translated requests are served whatever the translation type."""

    scenario = "legacy.requests.translated-blocked"

    def check_request_type(self, translation_type: TranslationType, request: DmaRequest, fpd: int) -> None:
        return None


class TranslationStaysOn(Break, Translation):
    """Translation cannot be turned off."""

    scenario = "registers.translation.off-again"

    def switch(self, enabled: int) -> None:
        super().switch(enabled or self.enabled)


class AbsentRootUnreadable(Break, LegacyMode):
    """An absent root entry is reported as one that cannot be read."""

    scenario = "legacy.root.not-present"

    def translate(self, request: DmaRequest) -> Outcome:
        try:
            return super().translate(request)
        except Blocked as condition:
            if condition.reason is FaultReason.LRT_2:
                raise Blocked(FaultReason.LRT_1) from None
            raise


BREAKS = (
    WritePermissionSkipped,
    ReadPermissionSkipped,
    UpperPermissionsIgnored,
    NeighbouringPage,
    OffsetLost,
    WidthUnchecked,
    InterruptRangeOpen,
    InterruptRangeByPage,
    AnyLevels,
    ReservedContextBitsUnchecked,
    ReservedTableBitsUnchecked,
    ReservedPageBitsUnchecked,
    OneContextForAll,
    BusIgnored,
    DeviceBitLost,
    TopTableLikeOthers,
    PassThroughWalked,
    PassThroughUnlimited,
    DeviceTlbRequestsPass,
    TranslationStaysOn,
    AbsentRootUnreadable,
)
