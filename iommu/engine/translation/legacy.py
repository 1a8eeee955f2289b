"""DMA remapping, legacy mode (spec 3.4.2): source-id to context entry, context entry to host address."""

from __future__ import annotations

from iommu.engine.attributes import of_second_stage
from iommu.engine.caches.caches import Caches
from iommu.engine.caches.page import CachedContext, FaultyEntry, Page
from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import Access, AddressType, DmaRequest, Outcome, SourceId, blocked, unmapped
from iommu.engine.translation.fast_path import Shortcuts
from iommu.engine.translation.paging import Intent, as_translated, in_interrupt_range, intent_of, through
from iommu.engine.translation.second_stage import LEGACY, SecondStage, Tables
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.structures import ContextEntry, RootEntry, TranslationType

# ContextEntry.AW to page-table levels; the other encodings are reserved.
LEVELS = {1: 3, 2: 4, 3: 5}

# What requests need that are neither of length 0 nor sent by a device-TLB: nearly all.
_PLAIN = {
    Access.READ: Intent(read=True, write=False),
    Access.WRITE: Intent(read=False, write=True, dirties=True),
    Access.ATOMIC: Intent(read=True, write=True, dirties=True),
}

# What a translation request is answered with instead of a fault: nothing is mapped, as far as the device can tell.
_MERELY_NOT_MAPPED = (FaultReason.LGN_1, FaultReason.LGN_2, FaultReason.LGN_3)

# What makes a root or context entry faulty as such, whoever asks; one that cannot be read is none.
_FAULTY_CONTEXTS = (
    FaultReason.LRT_2,
    FaultReason.LRT_3,
    FaultReason.LCT_2,
    FaultReason.LCT_3,
    FaultReason.LCT_4,
)


class LegacyMode:
    """Takes a request through root table, context table and second stage. `root_table` is what SRTP latched."""

    def __init__(
        self,
        memory: Memory,
        capabilities: Capabilities,
        policy: Policy,
        second_stage: SecondStage,
        caches: Caches,
        shortcuts: Shortcuts,
    ) -> None:
        self._shortcuts = shortcuts
        self.memory, self.capabilities, self.policy = memory, capabilities, policy
        self.caches_faulting = capabilities.caching_mode and policy.cache_faulting
        self.second_stage, self.caches = second_stage, caches
        self.root_table = 0
        self.find_context = caches.contexts.find
        self._attributes = of_second_stage()
        width = capabilities.host_address_width
        self._root_reserved = RootEntry.reserved_mask(width)
        self._context_reserved = ContextEntry.reserved_mask(width)
        # Domain-id bits the unit does not have are reserved too.
        domain_ids = (1 << capabilities.domain_id_bits) - 1
        self._context_reserved |= ContextEntry.DID.mask & ~ContextEntry.make(DID=domain_ids)

    def translate(self, request: DmaRequest) -> Outcome:
        """The outcome of a request without PASID. Raises Blocked with the FPD that applies."""
        if request.pasid is not None:
            raise Blocked(FaultReason.RTA_2)
        context = self.context_of(request)
        try:
            return self.through(context, request)
        except Blocked as condition:
            if condition.reason is FaultReason.LCT_4 and not self.caches_faulting:
                # An unreadable top table is the context entry's error, and erroneous entries are not cached.
                self.caches.contexts.drop_matching(request.source_id, 0)
            raise Blocked(condition.reason, condition.fpd | context.fpd) from None

    def context_of(self, request: DmaRequest) -> CachedContext:
        """The context of the request's device, from the cache or from memory."""
        context = self.caches.contexts.find(request.source_id)
        if isinstance(context, FaultyEntry):
            raise Blocked(context.reason, context.fpd)
        if context is not None:
            self.admit(context.translation_type, request, context.fpd)
            return context
        try:
            context = self.read_context_of(request)
        except Blocked as condition:
            if self.caches_faulting and condition.reason in _FAULTY_CONTEXTS:
                self.caches.contexts.fill(request.source_id, FaultyEntry(condition.reason, condition.fpd))
            raise
        self.caches.contexts.fill(request.source_id, context)
        return context

    def read_context_of(self, request: DmaRequest) -> CachedContext:
        """The context of the request's device, from memory."""
        entry = ContextEntry(self.context_entry(request.source_id))
        translation_type = self.translation_type(entry)
        if self.policy.depth_before_type:
            self.levels(entry)
        self.admit(translation_type, request, entry.FPD)
        tables = Tables(
            entry.SSPTPTR,
            self.levels(entry),
            entry.DID,
            LEGACY,
            self._attributes,
            snooped=int(self.capabilities.coherent),
        )
        shortcut = None
        if translation_type is not TranslationType.PASS_THROUGH:
            shortcut = self._shortcuts.by_second_stage(tables)
        return CachedContext(entry.DID, translation_type, tables, entry.FPD, shortcut)

    def context_entry(self, source_id: SourceId) -> int:
        """The context entry in memory, present and without reserved bits (spec 9.1, 9.3)."""
        root = self.read_root(self.root_table + 16 * source_id.bus)
        if not RootEntry.P.get(root):
            raise Blocked(FaultReason.LRT_2)
        if root & self._root_reserved:
            raise Blocked(FaultReason.LRT_3)
        entry = self.read_context(RootEntry.CTP.get(root) + 16 * source_id.devfn)
        # FPD counts even in an entry that is not present.
        fpd = ContextEntry.FPD.get(entry)
        if not ContextEntry.P.get(entry):
            raise Blocked(FaultReason.LCT_2, fpd)
        if entry & self.reserved_in_context(entry):
            raise Blocked(FaultReason.LCT_3, fpd)
        return entry

    def read_root(self, where: int) -> int:
        """A root entry, 128 bits. Raises Blocked."""
        try:
            return int.from_bytes(self.memory.read(where, 16), "little")
        except MemoryAccessError:
            raise Blocked(FaultReason.LRT_1) from None

    def read_context(self, where: int) -> int:
        """A context entry, 128 bits. Raises Blocked."""
        try:
            return int.from_bytes(self.memory.read(where, 16), "little")
        except MemoryAccessError:
            raise Blocked(FaultReason.LCT_1) from None

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
        levels = LEVELS.get(entry.AW, 0)
        if levels not in self.capabilities.levels:
            raise Blocked(FaultReason.LCT_4, entry.FPD)
        return levels

    def through(self, context: CachedContext, request: DmaRequest) -> Outcome:
        """From a valid context to the host address."""
        if context.translation_type is TranslationType.PASS_THROUGH:
            if self.policy.pass_through_by_deepest and context.tables.levels != max(self.capabilities.levels):
                raise Blocked(FaultReason.LGN_1)
            return self.pass_through(request)
        if request.address_type is AddressType.TRANSLATED:
            return as_translated(request, self.capabilities.host_address_width)
        if request.address_type is AddressType.UNTRANSLATED:
            return self.through_pages(context, request)
        try:
            return self.through_pages(context, request)
        except Blocked as condition:
            # A translation request for what is merely not mapped is answered, without permissions.
            if condition.reason in _MERELY_NOT_MAPPED:
                return blocked()
            raise

    def pass_through(self, request: DmaRequest) -> Outcome:
        """The host address is the address; only the host's width limits it (spec 3.9)."""
        if request.address >> self.capabilities.host_address_width:
            raise Blocked(FaultReason.LGN_1)
        return unmapped(request.address)

    def through_pages(self, context: CachedContext, request: DmaRequest) -> Outcome:
        """By the IOTLB or the walk; what the walk found is remembered only if the request goes through by it."""
        if not self.second_stage.covers(context.tables, request.address):
            raise Blocked(FaultReason.LGN_1)
        intent = self.intent(request)
        cached = self.caches.iotlb.find(context.domain_id, None, request.address)
        if cached is not None and cached.kind.fault is not None:
            raise Blocked(cached.kind.fault)
        page = cached or self.walk(context, request, intent)
        if intent.lacks(page.kind.readable, page.kind.writable):
            raise Blocked(LEGACY.permission_of(intent, page.kind.readable, page.kind.writable))
        outcome = self.outcome(page, request)
        if cached is None and not self.caches_faulting:
            self.caches.iotlb.fill(context.domain_id, None, request.address, page)
        return outcome

    def walk(self, context: CachedContext, request: DmaRequest, intent: Intent) -> Page:
        """The page, from the tables; caching mode remembers it before it is known whether the request may use it."""
        iotlb, domain_id = self.caches.iotlb, context.domain_id
        if not self.caches_faulting:
            return self.second_stage.walk(context.tables, request.address, intent)[0]
        page, _, _ = self.second_stage.walk_or_remember(context.tables, request.address, intent, iotlb)
        iotlb.fill(domain_id, None, request.address, page)
        return page

    def intent(self, request: DmaRequest) -> Intent:
        """What the request needs. There are no privileges in legacy mode."""
        if request.length and not request.address_type:
            return _PLAIN[request.access]
        zero_length_read = self.capabilities.zero_length_read
        return intent_of(request, privileged=False, execute=False, zero_length_read=zero_length_read, no_write=False)

    def outcome(self, page: Page, request: DmaRequest) -> Outcome:
        """The host address within the page. No DMA may reach the interrupt range through a translation."""
        host = page.host | request.address & page.kind.size - 1
        if self.reaches_interrupt_range(page, host):
            raise Blocked(FaultReason.LGN_4)
        return through(host, page)

    def reaches_interrupt_range(self, page: Page, host: int) -> bool:
        """Whether the address itself, not just its page, lies in the range (spec 3.14)."""
        return in_interrupt_range(host)
