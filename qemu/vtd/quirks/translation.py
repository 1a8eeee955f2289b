"""Departures in translation (spec 3)."""

from __future__ import annotations

from typing import Any

from iommu import DmaRequest, FaultReason, MemoryAccessError, Outcome, SourceId
from iommu.engine.caches.caches import Iotlb
from iommu.engine.caches.entries import CachedContext
from iommu.engine.caches.page import PLAIN_INTENTS, Intent, Page
from iommu.engine.caches.tables import Root
from iommu.engine.entry_format import PagingFormat
from iommu.engine.formats import Formats
from iommu.engine.invalidation.selector import Selector
from iommu.engine.reasons import Blocked
from iommu.engine.request import INTERRUPT_RANGE, identity
from iommu.engine.translation.legacy import LegacyMode
from iommu.engine.translation.paging import Paging, Stage, StageWalk
from iommu.structures import ContextEntry, TranslationType
from qemu.vtd.quirks.quirk import Quirk, Severity

_ALL_ONES = (1 << 64) - 1


class SilentOnHit(Quirk, Paging):
    """A missing permission found in the IOTLB blocks the request and records no fault.

    An IOTLB hit skips the permission check. QEMU's memory core refuses the access later, where the unit can no longer
    record a fault.
    """

    id = "Q01"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 LGN.2, LGN.3"
    hardware = "Every blocked access is recorded, whether its translation was cached or not."
    driver = "In QEMU a device can be blocked by a missing permission and leave no fault record."
    function = "vtd_do_iommu_translate"
    scenarios = (
        "cache.iotlb.write-after-read",
        "cache.iotlb.read-after-write",
        "cache.iotlb.other-level-permission",
        "scalable.cache.second.write-after-read",
        "scalable.cache.first.write-after-read",
    )

    def translate_stage(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        """A cached page without the permission blocks the request as if FPD were set."""
        page = self.cached_page(tables, intent, request.address)
        if page is not None and (missing := intent.lacks(page.kind)) is not None:
            raise Blocked(tables.codes.missing[missing], fpd=1)
        return super().translate_stage(stage, tables, intent, request)


class AllOnesUnreadable(Quirk, StageWalk):
    """A paging entry of all ones is reported as unreadable.

    The function that reads an entry returns all ones when the read fails, and its caller cannot tell the two apart.
    """

    id = "Q02"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 LSL.2"
    hardware = "An entry of all ones is present and has reserved bits set: LSL.2, code 0xc."
    driver = "A table overwritten with ones shows as code 7, unreadable memory, in QEMU."
    function = "vtd_get_pte (vtd_get_slpte in 7.2), vtd_iova_to_slpte"
    scenarios = ("legacy.reserved.all-ones", "scalable.second.all-ones", "scalable.first.all-ones")

    def read_entry(self, entry_format: PagingFormat, where: int, snooped: int) -> int:
        """All ones is a read error."""
        entry = super().read_entry(entry_format, where, snooped)
        if entry == _ALL_ONES:
            raise MemoryAccessError(where, 8)
        return entry


class InterruptRangeByPage(Quirk, Paging):
    """A large page that overlaps the interrupt address range blocks accesses anywhere in it.

    The check at the end of the walk uses the first and last byte of the page instead of the address.
    """

    id = "Q03"
    severity = Severity.FAILS_IN_QEMU
    section = "3.14"
    hardware = (
        "Only the translated address counts. A large page may overlap the range, and accesses to the rest of it work."
    )
    driver = "An identity map of all memory with large pages loses the 2 MiB or 1 GiB around 0xfee00000 in QEMU."
    function = "vtd_do_iommu_translate (vtd_iova_to_slpte in 7.2)"
    scenarios = ("legacy.interrupt-range.same-superpage", "scalable.second.beside-interrupt-range")

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        """Whether the page overlaps the range."""
        last = page.host + page.kind.size - 1
        return page.host >> 20 <= INTERRUPT_RANGE <= last >> 20


class ScalableCodeForInterruptRange(Quirk, LegacyMode):
    """On a unit with scalable mode, an output in the interrupt range is reported as 0x87 in legacy mode too.

    The code is chosen by what the unit offers, not by the mode it is in.
    """

    id = "Q21"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 LGN.4"
    hardware = "In legacy mode the code is 0xe, whatever else the unit offers."
    driver = "On a QEMU with scalable mode, code 0x87 does not mean that the unit is in that mode."
    function = "vtd_do_iommu_translate (vtd_iova_to_slpte in 7.2)"
    scenarios = (
        "legacy-on-scalable.interrupt-range",
        "legacy-on-scalable.interrupt-range-read",
        "legacy-on-scalable.interrupt-range-record",
    )

    def translate_stage(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        """See Paging."""
        try:
            return super().translate_stage(stage, tables, intent, request)
        except Blocked as condition:
            if condition.reason is FaultReason.LGN_4 and self.capabilities.scalable_mode:
                raise Blocked(FaultReason.SGN_8, condition.fpd) from None
            raise


class PassThroughUnlimited(Quirk, LegacyMode):
    """Pass-through does not check the address against the host address width.

    A device in pass-through is switched to the system address space, where no width is checked.
    """

    id = "Q04"
    severity = Severity.FAILS_ON_HARDWARE
    section = "7.1.3 LGN.1"
    hardware = "An address above the host address width is blocked in pass-through too: LGN.1, code 4."
    driver = "A DMA address too wide for the machine is not noticed in QEMU while the device is in pass-through."
    function = "vtd_switch_address_space"
    scenarios = ("legacy.pass-through.beyond-host-width",)

    def pass_through(self, request: DmaRequest) -> Outcome:
        """Accept any address."""
        return identity(request.address)


class PassThroughPointerChecked(Quirk, Formats):
    """Pass-through checks the reserved bits of a table pointer that it does not use.

    The check of reserved bits does not look at the translation type.
    """

    id = "Q05"
    severity = Severity.FAILS_IN_QEMU
    section = "9.3"
    hardware = "SSPTPTR is ignored when the translation type is pass-through, its reserved bits included."
    driver = "A context entry for pass-through with a leftover SSPTPTR may fault in QEMU; leave it 0."
    function = "vtd_context_entry_rsvd_bits_check"
    scenarios = ("legacy.pass-through.table-ignored",)

    def reserved_in_context(self, entry: int) -> int:
        """The same reserved bits for every translation type."""
        return super().reserved_in_context(entry & ~ContextEntry.TT.mask)


class ContextsByDevice(Quirk, LegacyMode):
    """A cached context entry stays with the device when the number of its bus changes.

    `VTDAddressSpace` belongs to a bus and a devfn, and holds the context entry last used. The number of the bus is
    looked up only when the entry is read again.
    """

    id = "Q22"
    severity = Severity.FAILS_IN_QEMU
    section = "6.2.2"
    hardware = "Cached context entries are found by source-id: a request with another source-id cannot match them."
    driver = "A device whose bus gets another number uses its old context entry in QEMU until that is invalidated."
    function = "vtd_find_add_as, vtd_do_iommu_translate"
    scenarios = (
        "source.renumbered.translated",
        "source.renumbered.function",
        "source.renumbered.blocked",
    )

    def follow(self, old: SourceId, new: SourceId) -> None:
        """The entry is cached for the new source-id now."""
        context = self.caches.contexts.find(old)
        if context is not None:
            self.caches.contexts.remove(old)
            self.caches.contexts.fill(new, context)


class TranslationsByRequester(Quirk, Paging):
    """Translations are found by requester and address: the domain-id is a tag for invalidations only.

    A device whose context entry names another domain goes on using the translations of the old one, until they are
    invalidated; two devices of a domain share none.
    """

    id = "Q13"
    severity = Severity.FAILS_IN_QEMU
    section = "6.2.4"
    hardware = (
        "Cached translations are tagged by domain-id: a request uses those of the domain its context entry names."
    )
    driver = (
        "A device moved to another domain uses stale translations in QEMU until the IOTLB of the old domain is "
        "invalidated too."
    )
    function = "vtd_lookup_iotlb"
    scenarios = ("queue.context.new-domain", "scalable.cache.entry.new-domain-same-page")
    # It notes whose request it is: others look at what is cached.
    comes_first = True

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        # Both modes of a unit share its caches. While a request is traced, others stand before them.
        if not isinstance(self.caches.iotlb, RequesterIotlb):
            self.caches.iotlb = RequesterIotlb()
        self.by_requester = self.caches.iotlb

    def translate_stage(self, stage: Stage, tables: Root, intent: Intent, request: DmaRequest) -> Outcome:
        """See Paging."""
        self.by_requester.begin(request.source_id, tables)
        return super().translate_stage(stage, tables, intent, request)


class TranslationsBeforeContexts(Quirk, LegacyMode):
    """In legacy mode a cached translation is used before the context entry is looked at.

    `vtd_do_iommu_translate` searches the IOTLB by requester and address first. Whether the requester still has a
    context entry does not count then.
    """

    id = "Q82"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.1.1"
    hardware = (
        "Once a context entry is cleared and the context cache is invalidated, the requester is blocked: its cached "
        "translations cannot be found without the domain-id."
    )
    driver = (
        "A device whose context entry was cleared goes on reaching memory in QEMU until the IOTLB is invalidated: "
        "invalidate it before memory is given away, as 6.5.3.3 has it."
    )
    function = "vtd_do_iommu_translate"
    scenarios = ("cache.iotlb.outlives-context-entry", "cache.iotlb.outlives-root-entry")

    def translate(self, request: DmaRequest) -> Outcome:
        """The IOTLB comes first, unless the device is in pass-through, where QEMU does not translate at all."""
        context = self.caches.contexts.find(request.source_id)
        in_pass_through = (
            isinstance(context, CachedContext) and context.translation_type is TranslationType.PASS_THROUGH
        )
        tables = None if in_pass_through else cached_tables(self, request)
        if tables is None:
            return super().translate(request)
        return self.translate_stage(self.second_stage, tables, PLAIN_INTENTS[request.access], request)


class UnreadableTopKept(Quirk, LegacyMode):
    """A context entry whose top table cannot be read is cached.

    `vtd_do_iommu_translate` caches the entry before the walk, whatever comes of that.
    """

    id = "Q84"
    severity = Severity.FAILS_IN_QEMU
    section = "6.2.2, 7.1.3 LCT.4"
    hardware = (
        "Such an entry is invalid, and no invalid entry is cached without caching mode: once corrected it is used."
    )
    driver = "A context entry that pointed beyond memory has to be invalidated in QEMU after it was corrected."
    function = "vtd_do_iommu_translate"
    scenarios = ("cache.context.unreadable-top",)
    _used: CachedContext | None = None

    def context_of(self, request: DmaRequest) -> CachedContext:
        """The entry is noted."""
        self._used = super().context_of(request)
        return self._used

    def translate(self, request: DmaRequest) -> Outcome:
        """Put it back into the cache."""
        self._used = None
        try:
            return super().translate(request)
        except Blocked as condition:
            if condition.reason is FaultReason.LCT_4 and self._used is not None:
                self.caches.contexts.fill(request.source_id, self._used)
            raise


def cached_tables(mode: Paging, request: DmaRequest) -> Root | None:
    """The tables that a requester's cached translation for an address is from; None if there is none (Q13)."""
    iotlb: RequesterIotlb | None = getattr(mode, "by_requester", None)
    found = None if iotlb is None else iotlb.of(request.source_id, request.address)
    return None if found is None else found[1]


class RequesterIotlb(Iotlb):
    """Translations by requester and page. The tag that an Iotlb finds them by serves invalidations only."""

    def __init__(self) -> None:
        super().__init__(1)
        self._own: dict[int, Iotlb] = {}
        self._roots: dict[tuple[int, int], Root] = {}
        self._requester = 0

    def begin(self, requester: int, tables: Root) -> None:
        """A request is translated: by whom and through which tables."""
        self._requester = requester
        self._roots[requester, tables.domain_id] = tables

    def of(self, requester: int, address: int) -> tuple[Page, Root] | None:
        """The translation that a requester has used for an address, and the tables that it is from."""
        own = self._own.get(requester)
        for shift in (12, 21, 30):
            for (domain_id, _), pages in own.tags() if own is not None else ():
                page = pages[(shift - 12) // 9].get(address >> shift)
                if page is not None:
                    return page, self._roots[requester, domain_id]
        return None

    def find(self, domain_id: int, pasid: int | None, address: int) -> Page | None:
        """See Iotlb. Whatever its domain."""
        found = self.of(self._requester, address)
        return None if found is None else found[0]

    def fill(self, domain_id: int, pasid: int | None, address: int, page: Page) -> None:
        """See Iotlb. It replaces that of another domain for the same page."""
        own = self._own.setdefault(self._requester, Iotlb(_CAPACITY))
        shift = page.kind.size.bit_length() - 1
        for _, pages in own.tags():
            pages[(shift - 12) // 9].pop(address >> shift, None)
        own.fill(domain_id, pasid, address, page)

    def invalidate(self, named: Selector) -> None:
        """See Iotlb."""
        for own in self._own.values():
            own.invalidate(named)


_CAPACITY = 1 << 20
