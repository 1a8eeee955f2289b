"""DMA remapping, legacy mode (spec 3.4.2): source-id to context entry, context entry to host address."""

from __future__ import annotations

from iommu.engine.attributes import of_second_stage
from iommu.engine.caches.caches import Caches
from iommu.engine.caches.entries import CachedContext, read_through
from iommu.engine.caches.page import PLAIN_INTENTS, Intent, intent_of
from iommu.engine.caches.tables import LEGACY, Root, SecondStageRoot
from iommu.engine.capabilities import Capabilities
from iommu.engine.formats import Formats
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import (
    AddressType,
    DmaRequest,
    Outcome,
    SourceId,
    as_translated,
    asks_for_interrupts,
    blocked,
    identity,
    untranslated_only,
)
from iommu.engine.table_access import TableAccess
from iommu.engine.translation.paging import Paging, Stage
from iommu.engine.translation.second_stage import SecondStage
from iommu.errors import MemoryAccessError
from iommu.structures import ContextEntry, RootEntry, TranslationType


class LegacyMode(Paging):
    """Translates through root table, context table and second stage.

    `root_table` was latched by SRTP; `snooped` says whether the tables are read with snooping.
    """

    def __init__(
        self,
        access: TableAccess,
        capabilities: Capabilities,
        policy: Policy,
        formats: Formats,
        second_stage: SecondStage,
        caches: Caches,
    ) -> None:
        super().__init__(capabilities, caches, cache_faulty=capabilities.caching_mode and policy.cache_faulting)
        self.access, self.policy, self.formats, self.second_stage = access, policy, formats, second_stage
        self.root_table = 0
        self.snooped = int(capabilities.coherent)
        self._attributes = of_second_stage()
        self._paging = formats.second_stage(accessed_dirty=False, memory_types=False)

    def translate(self, request: DmaRequest) -> Outcome:
        """Translate a request. Raises Blocked with the FPD that applies."""
        # RTA.2: a request with a PASID in legacy mode.
        if request.pasid is not None:
            raise Blocked(FaultReason.RTA_2)
        context = self.context_of(request)
        try:
            return self.translate_by(context, request)
        except Blocked as condition:
            if condition.reason is FaultReason.LCT_4 and not self.cache_faulty:
                # A top table that cannot be read makes the context entry invalid, and invalid entries are not cached.
                self.caches.contexts.remove(request.source_id)
            raise Blocked(condition.reason, condition.fpd | context.fpd) from None

    def single_stage(self, request: DmaRequest) -> tuple[Stage, Root] | None:
        """The stage that plain requests like this one use, if the context is cached and there is just one stage."""
        context = self.caches.contexts.find(request.source_id)
        if request.pasid is not None or not isinstance(context, CachedContext):
            return None
        return (
            None if context.translation_type is TranslationType.PASS_THROUGH else (self.second_stage, context.tables)
        )

    # Root and context entry (spec 9.1, 9.3).

    def context_of(self, request: DmaRequest) -> CachedContext:
        """The context of the request's device, from the cache or from memory. Raises Blocked: LRT.*, LCT.*."""
        context = read_through(
            self.caches.contexts,
            request.source_id,
            lambda: self.read_context_of(request),
            cache_faulty=self.cache_faulty,
        )
        self.check_request_type(context.translation_type, request, context.fpd)
        return context

    def read_context_of(self, request: DmaRequest) -> CachedContext:
        """The context of the request's device, from memory."""
        entry = ContextEntry(self.context_entry(request.source_id))
        translation_type = self.translation_type(entry)
        if self.policy.levels_before_type:
            self.levels(entry)
        self.check_request_type(translation_type, request, entry.FPD)
        return self.context(entry.DID, translation_type, entry.SSPTPTR, self.levels(entry), entry.FPD)

    def context(
        self, domain_id: int, translation_type: TranslationType, table: int, levels: int, fpd: int
    ) -> CachedContext:
        """A context entry with these fields, as it is cached; `table` is the address of the top table."""
        tables = SecondStageRoot(
            table, levels, domain_id, self._paging, LEGACY, self._attributes, snooped=self.snooped
        )
        return CachedContext(domain_id, translation_type, tables, fpd)

    def context_entry(self, source_id: SourceId) -> int:
        """The context entry in memory, present and without reserved bits. Raises Blocked."""
        root = self.read_root(self.root_table + 16 * source_id.bus)
        # LRT.2: the root entry is not present.
        if not RootEntry.P.get(root):
            raise Blocked(FaultReason.LRT_2)
        # LRT.3: a reserved bit is set in a present root entry.
        if root & self.formats.root.reserved(root):
            raise Blocked(FaultReason.LRT_3)
        entry = self.read_context(RootEntry.CTP.get(root) + 16 * source_id.devfn)
        # FPD counts even in an entry that is not present.
        fpd = ContextEntry.FPD.get(entry)
        # LCT.2: the context entry is not present.
        if not ContextEntry.P.get(entry):
            raise Blocked(FaultReason.LCT_2, fpd)
        # LCT.3: a reserved bit is set in a present context entry.
        if entry & self.formats.context.reserved(entry):
            raise Blocked(FaultReason.LCT_3, fpd)
        return entry

    def read_root(self, where: int) -> int:
        """A root entry, 128 bits. Raises Blocked."""
        try:
            return self.access.read(self.formats.root, where, self.snooped)
        except MemoryAccessError:
            # LRT.1: the root entry could not be read.
            raise Blocked(FaultReason.LRT_1) from None

    def read_context(self, where: int) -> int:
        """A context entry, 128 bits. Raises Blocked."""
        try:
            return self.access.read(self.formats.context, where, self.snooped)
        except MemoryAccessError:
            # LCT.1: the context entry could not be read.
            raise Blocked(FaultReason.LCT_1) from None

    def translation_type(self, entry: ContextEntry) -> TranslationType:
        """ContextEntry.TT. Raises Blocked."""
        translation_type = self.formats.translation_type(entry.raw)
        # LCT.4: the unit does not support the translation type.
        if translation_type is None:
            raise Blocked(FaultReason.LCT_4, entry.FPD)
        return translation_type

    def check_request_type(self, translation_type: TranslationType, request: DmaRequest, fpd: int) -> None:
        """Check that the translation type permits translation and translated requests. Raises Blocked."""
        # LCT.5: the translation type blocks translation and translated requests.
        if request.address_type and translation_type is not TranslationType.WITH_DEVICE_TLB:
            raise Blocked(FaultReason.LCT_5, fpd)

    def levels(self, entry: ContextEntry) -> int:
        """The page-table levels that ContextEntry.AW selects. Raises Blocked."""
        levels = self.formats.second_stage_levels(entry.AW)
        # LCT.4: the unit does not support the address width.
        if levels is None:
            raise Blocked(FaultReason.LCT_4, entry.FPD)
        return levels

    # From the context to the host address.

    def translate_by(self, context: CachedContext, request: DmaRequest) -> Outcome:
        """From a valid context to the host address. Raises Blocked."""
        if context.translation_type is TranslationType.PASS_THROUGH:
            # LGN.1: AW of a pass-through context entry is not the largest that the unit supports (doubt D-2).
            if self.policy.pass_through_needs_most_levels and context.tables.levels != max(self.capabilities.levels):
                raise Blocked(FaultReason.LGN_1)
            return self.pass_through(request)
        if request.address_type is AddressType.TRANSLATED:
            return as_translated(request, self.capabilities.host_address_width, FaultReason.LGN_1, FaultReason.LGN_4)
        if asks_for_interrupts(request):
            return untranslated_only(request, no_write=self.capabilities.no_write_requests)
        try:
            return self.translate_stage(self.second_stage, context.tables, self.intent(request), request)
        except Blocked as condition:
            # A translation request for a page that is not mapped gets a success completion without permissions.
            if request.address_type and condition.reason.not_mapped:
                return blocked()
            raise

    def pass_through(self, request: DmaRequest) -> Outcome:
        """Pass-through: the address is the host address, limited only by its width (spec 3.9). Raises Blocked."""
        # LGN.1: the address is beyond the host address width.
        if request.address >> self.capabilities.host_address_width:
            raise Blocked(FaultReason.LGN_1)
        return identity(request.address)

    def intent(self, request: DmaRequest) -> Intent:
        """The permissions that the request needs. Legacy mode has no privileged requests."""
        if request.length and not request.address_type:
            return PLAIN_INTENTS[request.access]
        zero_length_read = self.capabilities.zero_length_read
        return intent_of(request, privileged=False, execute=False, zero_length_read=zero_length_read, no_write=False)
