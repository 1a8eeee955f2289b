"""Breaks of the caches and of invalidation by register."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import RemappingUnit
from iommu.engine.attributes import PLAIN
from iommu.engine.caches.page import Intent, Page, kind_of
from iommu.engine.caches.tables import Root
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.translation.legacy import LegacyMode
from iommu.registers import Granularity
from tests.qemu_vtd.conformance.breaks.broken import Break


class ContextInvalidationIgnored(Break, Invalidation):
    """Nothing drops a context entry."""

    scenario = "cache.context.global"

    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.CONTEXTS:
            super().invalidate(named)


class ContextDomainIgnored(Break, Invalidation):
    """A domain-selective invalidation of the context cache drops nothing."""

    scenario = "cache.context.domain"

    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.CONTEXTS or named.domain_id is None or named.source_id is not None:
            super().invalidate(named)


class FunctionMaskIgnored(Break, Invalidation):
    """The function mask is ignored."""

    scenario = "cache.context.function-mask-3"

    def select_contexts(self, asked: int, domain_id: int, source_id: int, function_mask: int) -> Selector | None:
        return super().select_contexts(asked, domain_id, source_id, 0)


class FunctionMaskOff(Break, Invalidation):
    """Function mask 2 ignores bit 2 only."""

    scenario = "cache.context.function-mask-2"

    def select_contexts(self, asked: int, domain_id: int, source_id: int, function_mask: int) -> Selector | None:
        return super().select_contexts(asked, domain_id, source_id, 1 if function_mask == 2 else function_mask)


class PageInvalidationIgnored(Break, Invalidation):
    """A page-selective invalidation drops nothing."""

    scenario = "cache.iotlb.page"

    def invalidate(self, named: Selector) -> None:
        if named.addresses is None:
            super().invalidate(named)


class DomainInvalidationIgnored(Break, Invalidation):
    """A domain-selective invalidation of the IOTLB drops nothing."""

    scenario = "cache.iotlb.domain"

    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.TRANSLATIONS or named.domain_id is None or named.addresses is not None:
            super().invalidate(named)


class AddressMaskIgnored(Break, Invalidation):
    """The address mask is ignored: one page is dropped."""

    scenario = "cache.iotlb.page-mask"

    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        return super().select_translations(asked, domain_id, address, 0, leaf_only)


class LastPageKept(Break, Invalidation):
    """The last page of an address mask is kept."""

    scenario = "queue.iotlb.every-page-of-the-mask"

    def invalidate(self, named: Selector) -> None:
        if named.addresses is not None and len(named.addresses) > 0x1000:
            named = replace(named, addresses=named.addresses[:-0x1000])
        super().invalidate(named)


class MaskUnlimited(Break, Invalidation):
    """An address mask beyond CAP.MAMV is carried out."""

    scenario = "cache.iotlb.mask-too-large"

    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        return super().select_translations(asked, domain_id, address, min(mask, 18), leaf_only)


class LargePagesKept(Break, Invalidation):
    """A page-selective invalidation keeps large pages."""

    scenario = "cache.large.2m-exact"

    def invalidate(self, named: Selector) -> None:
        if named.addresses is not None and len(named.addresses) <= 0x20_0000:
            kept = [(pages.large, dict(pages.large)) for pages in self.caches.iotlb._tags.values()]
            super().invalidate(named)
            for large, before in kept:
                large.update(before)
        else:
            super().invalidate(named)


class WrongGranularityReported(Break, Invalidation):
    """A global command reports that it was domain-selective."""

    scenario = "registers.ccmd.completes"

    def _carry_out(self, named: Selector | None, asked: int) -> Granularity:
        done = super()._carry_out(named, asked)
        return Granularity.DOMAIN if done is Granularity.GLOBAL else done


class ReservedGranularityDone(Break, Invalidation):
    """The reserved granularity of the IOTLB command counts as global."""

    scenario = "registers.iotlb.reserved-granularity"

    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        return super().select_translations(asked or 1, domain_id, address, mask, leaf_only)

    def _carry_out(self, named: Selector | None, asked: int) -> Granularity:
        return super()._carry_out(named, asked or 1)


class DomainTagLost(Break, LegacyMode):
    """Translations of all domains share one tag."""

    scenario = "queue.context.new-domain"

    def translate_stage(self, stage: Any, tables: Any, intent: Intent, request: Any) -> Any:
        return super().translate_stage(stage, tables._replace(domain_id=0), intent, request)


class CachedPermissionsUnchecked(Break, LegacyMode):
    """A cached translation is used without a look at its permissions."""

    scenario = "cache.iotlb.write-after-read"

    def cached_page(self, tables: Root, intent: Intent, address: int) -> Page | None:
        page = super().cached_page(tables, intent, address)
        if page is None:
            return None
        return Page(page.host, kind_of(page.kind.size, True, True, True, True, True, True, PLAIN))


class AbsentContextsCached(Break, LegacyMode):
    """An absent context entry is cached without caching mode."""

    scenario = "cache.context.not-present-is-not-cached"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cache_faulty = True


class PointerDropsNothing(Break, RemappingUnit):
    """SRTP drops nothing even with ESRTPS."""

    scenario = "cache.root.srtp-invalidates"

    def _set_root_table(self) -> None:
        dropping = self.caches.invalidate_dma
        self.caches.invalidate_dma = lambda: None  # type: ignore[method-assign]
        super()._set_root_table()
        self.caches.invalidate_dma = dropping  # type: ignore[method-assign]


BREAKS = (
    ContextInvalidationIgnored,
    ContextDomainIgnored,
    FunctionMaskIgnored,
    FunctionMaskOff,
    PageInvalidationIgnored,
    DomainInvalidationIgnored,
    AddressMaskIgnored,
    LastPageKept,
    MaskUnlimited,
    LargePagesKept,
    WrongGranularityReported,
    ReservedGranularityDone,
    DomainTagLost,
    CachedPermissionsUnchecked,
    AbsentContextsCached,
    PointerDropsNothing,
)
