"""DMA remapping, legacy mode (spec 3.4): source-id to context entry, context entry to host address."""

from __future__ import annotations

from iommu.engine.caches import CachedContext, Caches, Page
from iommu.engine.capabilities import Capabilities
from iommu.engine.faults import FaultLog
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import INTERRUPT, AddressType, DmaRequest, Outcome, SourceId, blocked
from iommu.engine.second_stage import SecondStage, no_permission
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.registers import TableMode
from iommu.structures import ContextEntry, RootEntry, TranslationType

INTERRUPT_RANGE = 0xFEE  # address bits 31:20; bits 63:32 are 0

# ContextEntry.AW to page-table levels; the other encodings are reserved.
_LEVELS = {1: 3, 2: 4, 3: 5}


class Translation:
    """Takes one request through the tables, using and filling the caches.

    `enabled` is GSTS.TES; `root_table` and `mode` are what the last SRTP latched.
    """

    def __init__(
        self,
        memory: Memory,
        capabilities: Capabilities,
        second_stage: SecondStage,
        faults: FaultLog,
        caches: Caches,
    ) -> None:
        self.memory, self.capabilities = memory, capabilities
        self.second_stage, self.faults, self.caches = second_stage, faults, caches
        self.enabled = False
        self.root_table = 0
        self.mode: int = TableMode.LEGACY
        width = capabilities.host_address_width
        self._root_reserved = RootEntry.reserved_mask(width)
        self._context_reserved = ContextEntry.reserved_mask(width)
        # Domain-id bits the unit does not have are reserved too.
        self._context_reserved |= ContextEntry.DID.mask & ~ContextEntry.make(
            DID=(1 << capabilities.domain_id_bits) - 1
        )

    def translate(self, request: DmaRequest) -> Outcome:
        """Where the request goes, or why it does not; faults are recorded on the way."""
        if request.address >> 20 == INTERRUPT_RANGE and request.pasid is None:
            return INTERRUPT if request.address_type is AddressType.UNTRANSLATED else blocked()
        if not self.enabled:
            plain = request.address_type is AddressType.UNTRANSLATED and request.pasid is None
            return Outcome(request.address) if plain else blocked()
        fpd = 0
        try:
            context = self.context_of(request)
            fpd = context.fpd
            return self.through(context, request)
        except Blocked as condition:
            if condition.reason is FaultReason.LCT_4:
                # An unreadable top table is the context entry's error, and erroneous entries are not cached.
                self.caches.contexts.drop_matching(request.source_id, 0)
            recorded = self.faults.report(condition.reason, request, fpd or condition.fpd)
            return blocked(condition.reason, recorded=recorded)

    def context_of(self, request: DmaRequest) -> CachedContext:
        """The context of the request's device, from the cache or from memory (spec 3.4.2)."""
        if self.mode != TableMode.LEGACY:
            raise Blocked(FaultReason.RTA_1)
        if request.pasid is not None:
            raise Blocked(FaultReason.RTA_2)
        context = self.caches.contexts.find(request.source_id)
        if context is not None:
            self.admit(context.translation_type, request, context.fpd)
            return context
        entry = ContextEntry(self.context_entry(request.source_id))
        translation_type = self.translation_type(entry)
        self.admit(translation_type, request, entry.FPD)
        context = CachedContext(entry.DID, translation_type, self.levels(entry), entry.SSPTPTR, entry.FPD)
        self.caches.contexts.fill(request.source_id, context)
        return context

    def context_entry(self, source_id: SourceId) -> int:
        """The context entry in memory, present and without reserved bits (spec 3.4.2, 9.1, 9.3)."""
        root = self._read_entry(self.root_table + 16 * source_id.bus, FaultReason.LRT_1)
        if not RootEntry.P.get(root):
            raise Blocked(FaultReason.LRT_2)
        if root & self._root_reserved:
            raise Blocked(FaultReason.LRT_3)
        entry = self._read_entry(RootEntry.CTP.get(root) + 16 * source_id.devfn, FaultReason.LCT_1)
        # FPD counts even in an entry that is not present.
        fpd = ContextEntry.FPD.get(entry)
        if not ContextEntry.P.get(entry):
            raise Blocked(FaultReason.LCT_2, fpd)
        if entry & self.reserved_in_context(entry):
            raise Blocked(FaultReason.LCT_3, fpd)
        return entry

    def _read_entry(self, where: int, unreadable: FaultReason) -> int:
        try:
            return int.from_bytes(self.memory.read(where, 16), "little")
        except MemoryAccessError:
            raise Blocked(unreadable) from None

    def reserved_in_context(self, entry: int) -> int:
        """The bits that must be 0 in this entry; only a type that walks has a table pointer."""
        if ContextEntry.TT.get(entry) in (TranslationType.UNTRANSLATED_ONLY, TranslationType.WITH_DEVICE_TLB):
            return self._context_reserved
        return self._context_reserved & ~ContextEntry.SSPTPTR.mask

    def translation_type(self, entry: ContextEntry) -> TranslationType:
        """ContextEntry.TT, if this unit supports it."""
        offered: dict[int, bool] = {
            TranslationType.UNTRANSLATED_ONLY: True,
            TranslationType.WITH_DEVICE_TLB: self.capabilities.device_tlb,
            TranslationType.PASS_THROUGH: self.capabilities.pass_through,
        }
        if not offered.get(entry.TT):
            raise Blocked(FaultReason.LCT_4, entry.FPD)
        return TranslationType(entry.TT)

    def admit(self, translation_type: TranslationType, request: DmaRequest, fpd: int) -> None:
        """Only a context that says so takes translation and translated requests."""
        if request.address_type and translation_type is not TranslationType.WITH_DEVICE_TLB:
            raise Blocked(FaultReason.LCT_5, fpd)

    def levels(self, entry: ContextEntry) -> int:
        """The page-table levels that ContextEntry.AW stands for, if this unit walks so many."""
        levels = _LEVELS.get(entry.AW, 0)
        if levels not in self.capabilities.levels:
            raise Blocked(FaultReason.LCT_4, entry.FPD)
        return levels

    def through(self, context: CachedContext, request: DmaRequest) -> Outcome:
        """From a valid context to the host address."""
        if context.translation_type is TranslationType.PASS_THROUGH:
            return self.pass_through(request)
        if request.address_type is AddressType.TRANSLATED:
            return Outcome(request.address)
        if request.address_type is AddressType.TRANSLATION_REQUEST:
            return self.answer(context, request)
        return self.through_pages(context, request)

    def pass_through(self, request: DmaRequest) -> Outcome:
        """The host address is the address; only the host's width limits it."""
        if request.address >> self.capabilities.host_address_width:
            raise Blocked(FaultReason.LGN_1)
        return Outcome(request.address)

    def answer(self, context: CachedContext, request: DmaRequest) -> Outcome:
        """A translation request (ATS): what is merely not mapped is a successful answer without permissions."""
        try:
            return self.through_pages(context, request)
        except Blocked as condition:
            if condition.reason in (FaultReason.LGN_1, FaultReason.LGN_2, FaultReason.LGN_3):
                return blocked()
            raise

    def through_pages(self, context: CachedContext, request: DmaRequest) -> Outcome:
        """By the IOTLB or the walk; what the walk found is remembered only if the request goes through by it."""
        if request.address >> min(self.capabilities.address_width, 12 + 9 * context.levels):
            raise Blocked(FaultReason.LGN_1)
        cached = self.caches.iotlb.find(context.domain_id, None, request.address)
        page = cached or self.second_stage.walk(context.table, context.levels, request)
        if not self.permits(page, request):
            raise Blocked(no_permission(request))
        outcome = self.outcome(page, request)
        if cached is None:
            self.caches.iotlb.fill(context.domain_id, None, request.address, page)
        return outcome

    def permits(self, page: Page, request: DmaRequest) -> bool:
        """Whether the page's permissions cover the request."""
        return self.second_stage.permits(page.readable, page.writable, request)

    def outcome(self, page: Page, request: DmaRequest) -> Outcome:
        """The host address within the page. No DMA may reach the interrupt range through a translation."""
        size = 1 << page.shift
        host = page.host | request.address & size - 1
        if self.reaches_interrupt_range(page, host):
            raise Blocked(FaultReason.LGN_4)
        return Outcome(host, size, readable=bool(page.readable), writable=bool(page.writable))

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        """Whether the address itself, not just its page, lies in the range (spec 3.14)."""
        return host >> 20 == INTERRUPT_RANGE
