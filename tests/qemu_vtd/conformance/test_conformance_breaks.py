"""The catalogue on deliberately broken engines: each defect must make at least one scenario fail."""

from dataclasses import replace

import pytest

from iommu import DmaRequest, FaultReason, Outcome, RemappingUnit
from iommu.engine.caches.entries import CachedContext
from iommu.engine.caches.page import Intent, Page
from iommu.engine.caches.tables import Root
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.paging import Stage
from iommu.registers import FRCD
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.platform import ModelPlatform


class WritePermissionSkipped(LegacyMode):
    def intent(self, request: DmaRequest) -> Intent:
        return super().intent(request)._replace(write=False)


class NeighbouringPage(LegacyMode):
    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        right = super().outcome(tables, page, intent, request)
        return right if right.host_address is None else replace(right, host_address=right.host_address ^ 0x1000)


class OffsetLost(LegacyMode):
    def outcome(self, tables: Root, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        return super().outcome(tables, page, intent, replace(request, address=request.address & ~0xFFF))


class WidthUnchecked(LegacyMode):
    def translate_stage(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        narrow = request.address & (1 << 12 + 9 * tables.levels) - 1
        return super().translate_stage(stage, tables, intent, replace(request, address=narrow))


class InterruptRangeOpen(LegacyMode):
    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        return False


class AnyLevels(Formats):
    def second_stage_levels(self, address_width: int) -> int:
        return min(address_width + 2, 5)


class ReservedContextBitsUnchecked(Formats):
    def reserved_in_context(self, entry: int) -> int:
        return 0


class OneContextForAll(LegacyMode):
    def context_of(self, request: DmaRequest) -> CachedContext:
        return super().context_of(replace(request, source_id=type(request.source_id)(0, 4, 0)))


class ReservedTableBitsUnchecked(Formats):
    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) if page else 0


class ReservedPageBitsUnchecked(Formats):
    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return 0 if page else super().reserved_in_second_stage(level, page=page)


class FpdDropped(FaultLog):
    def is_qualified(self, reason: FaultReason) -> bool:
        return False


class FpdAlways(FaultLog):
    def report(self, reason: FaultReason, request: DmaRequest, fpd: int) -> bool:
        return super().report(reason, request, 1)


class TypeInverted(FaultLog):
    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        return super().compose(reason, request) ^ FRCD.T1.mask


class WrongSourceId(FaultLog):
    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        return super().compose(reason, request) ^ FRCD.SID.mask & 1 << 64


class NeverOverflows(FaultLog):
    def _record(self, record: int) -> bool:
        self._records[0].value &= ~FRCD.F.mask
        return super()._record(record)


class ContextInvalidationIgnored(Invalidation):
    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.CONTEXTS:
            super().invalidate(named)


class PageInvalidationIgnored(Invalidation):
    def invalidate(self, named: Selector) -> None:
        if named.addresses is None:
            super().invalidate(named)


class AddressMaskIgnored(Invalidation):
    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        return super().select_translations(asked, domain_id, address, 0, leaf_only)


BREAKS = [
    WritePermissionSkipped,
    NeighbouringPage,
    OffsetLost,
    WidthUnchecked,
    InterruptRangeOpen,
    AnyLevels,
    ReservedContextBitsUnchecked,
    OneContextForAll,
    ReservedTableBitsUnchecked,
    ReservedPageBitsUnchecked,
    FpdDropped,
    FpdAlways,
    TypeInverted,
    WrongSourceId,
    NeverOverflows,
    ContextInvalidationIgnored,
    PageInvalidationIgnored,
    AddressMaskIgnored,
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
def test_a_broken_engine_is_caught(broken: type) -> None:
    part = next(name for name in ("FaultLog", "Formats", "LegacyMode", "Invalidation") if _is(broken, name))
    unit = type("Broken", (RemappingUnit,), {part: broken})
    failing = []
    for scenario in catalogue():
        platform = ModelPlatform(scenario.setup.capabilities, unit=unit, topology=scenario.setup.topology)
        seen = scenario.run(platform)
        if seen != scenario.expect and all(seen != allowed.lines for allowed in scenario.allowed):
            failing.append(scenario.id)
    print(f"{broken.__name__}: {len(failing)} scenarios fail, the first {failing[:1]}")
    assert failing


def _is(broken: type, part: str) -> bool:
    return issubclass(broken, getattr(RemappingUnit, part))
