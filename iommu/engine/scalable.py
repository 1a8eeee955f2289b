"""DMA remapping, scalable mode (spec 3.4.3): source-id to context, PASID to PASID-table entry, stages to page."""

from __future__ import annotations

from iommu.engine.attributes import Attributes, nested, of_first_stage, of_second_stage
from iommu.engine.cached import FaultyEntry, Page, Process, ScalableContext, kind_of
from iommu.engine.caches import Caches
from iommu.engine.capabilities import Capabilities
from iommu.engine.first_stage import Directory, FirstStage, Found, check
from iommu.engine.legacy import LEVELS
from iommu.engine.paging import Intent, Leaf, as_translated, in_interrupt_range, intent_of, through
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import AddressType, DmaRequest, Outcome, SourceId, blocked, unmapped
from iommu.engine.second_stage import SCALABLE, SecondStage, Tables
from iommu.engine.shortcut import Shortcut
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.structures import (
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    ScalableContextEntry,
    ScalableRootHalf,
)

FIRST, SECOND = PasidTranslationType.FIRST_STAGE, PasidTranslationType.SECOND_STAGE
NESTED, PASS = PasidTranslationType.NESTED, PasidTranslationType.PASS_THROUGH

# What a translation request is answered with instead of a fault: nothing is mapped, as far as the device can tell.
_MERELY_NOT_MAPPED = (
    FaultReason.SFS_2,
    FaultReason.SSS_2,
    FaultReason.SGN_1,
    FaultReason.SGN_2,
    FaultReason.SGN_3,
    FaultReason.SGN_5,
    FaultReason.SGN_6,
    FaultReason.SGN_7,
)


# What makes an entry faulty as such, whoever asks; one that cannot be read is none.
_FAULTY_ENTRIES = (
    FaultReason.SRT_2,
    FaultReason.SRT_3,
    FaultReason.SCT_2,
    FaultReason.SCT_3,
    FaultReason.SPD_2,
    FaultReason.SPD_3,
    FaultReason.SPT_2,
    FaultReason.SPT_3,
    FaultReason.SPT_4,
)


class ScalableMode:
    """Takes a request through scalable root, context and PASID tables. `root_table` is what SRTP latched."""

    def __init__(
        self,
        memory: Memory,
        capabilities: Capabilities,
        policy: Policy,
        first_stage: FirstStage,
        second_stage: SecondStage,
        caches: Caches,
    ) -> None:
        self.memory, self.capabilities, self.policy = memory, capabilities, policy
        self.first_stage, self.second_stage, self.caches = first_stage, second_stage, caches
        self.root_table = 0
        self.caches_faulting = capabilities.caching_mode and policy.cache_faulting
        self.find_context, self._find_process = caches.scalable_contexts.find, caches.pasids.find
        self._pasid_bits = capabilities.pasid_bits
        width, offered = capabilities.host_address_width, capabilities.offered
        self._root_reserved = ScalableRootHalf.reserved_mask(width)
        self._context_reserved = ScalableContextEntry.reserved_mask(width, offered)
        if policy.rid_pasid_must_be_zero and not capabilities.rid_pasid:
            self._context_reserved |= ScalableContextEntry.RID_PASID.mask
        self._directory_reserved = PasidDirectoryEntry.reserved_mask(width)
        self._pasid_reserved = PasidEntry.reserved_mask(width, offered) | self._reserved_by_stage()

    def _reserved_by_stage(self) -> int:
        """Fields of the PASID-table entry that belong to what this unit does not have (spec 9.6)."""
        mask = PasidEntry.DID.mask & ~PasidEntry.make(DID=(1 << self.capabilities.domain_id_bits) - 1)
        if not self.capabilities.second_stage:
            mask |= PasidEntry.AW.mask | PasidEntry.SSPTPTR.mask
        if not self.capabilities.first_stage:
            first = (PasidEntry.FSPTPTR, PasidEntry.EAFE, PasidEntry.WPE, PasidEntry.FSPM)
            mask |= sum(part.mask for part in (*first, PasidEntry.ERE, PasidEntry.SRE))
        if self.policy.withdrawn_bits_reserved:
            mask |= PasidEntry.NXE.mask | PasidEntry.SMEP.mask | PasidEntry.SSEE.mask
        return mask

    def translate(self, request: DmaRequest) -> Outcome:
        """The outcome of a request. Raises Blocked with the FPD that applies."""
        context = self.context_of(request.source_id)
        try:
            pasid = self.admit(context, request)
            if request.address_type is AddressType.TRANSLATED:
                return as_translated(request, self.capabilities.host_address_width)
            process = self.process_of(context, request.source_id, pasid)
        except Blocked as condition:
            raise Blocked(condition.reason, condition.fpd | context.fpd) from None
        if request.pasid is None and not context.rid_priv:
            context.shortcut = process.shortcut
        try:
            return self.through(context, process, pasid, request)
        except Blocked as condition:
            raise Blocked(condition.reason, condition.fpd | process.fpd) from None

    def shortcut(self, request: DmaRequest) -> Shortcut | None:
        """What is known of the PASID of a request; None where the request has to go the long way."""
        context, pasid = self.find_context(request.source_id), request.pasid
        if not isinstance(context, ScalableContext) or pasid is None or request.privileged or request.execute:
            return None
        if not context.pasid_enabled or pasid >= context.pasids or pasid >> self._pasid_bits:
            return None
        process = self._find_process((request.source_id, pasid))
        return None if process is None else process.shortcut

    # Root and context entry (spec 9.2, 9.4).

    def context_of(self, source_id: SourceId) -> ScalableContext:
        """The context of a device, from the cache or from memory. Raises Blocked: SRT.*, SCT.1 to SCT.3."""
        context = self.caches.scalable_contexts.find(source_id)
        if isinstance(context, FaultyEntry):
            raise Blocked(context.reason, context.fpd)
        if context is None:
            try:
                context = self.decode_context(self.context_entry(source_id))
            except Blocked as condition:
                if self.caches_faulting and condition.reason in _FAULTY_ENTRIES:
                    self.caches.scalable_contexts.fill(source_id, FaultyEntry(condition.reason, condition.fpd))
                raise
            self.caches.scalable_contexts.fill(source_id, context)
        return context

    def context_entry(self, source_id: SourceId) -> int:
        """The context entry in memory, present and without reserved bits."""
        half = self.read_root(self.root_table + 16 * source_id.bus + 8 * (source_id.devfn >> 7))
        if not ScalableRootHalf.P.get(half):
            raise Blocked(FaultReason.SRT_2)
        if half & self._root_reserved:
            raise Blocked(FaultReason.SRT_3)
        entry = self.read_context(ScalableRootHalf.CTP.get(half) + 32 * (source_id.devfn & 0x7F))
        fpd = ScalableContextEntry.FPD.get(entry)
        if not ScalableContextEntry.P.get(entry):
            raise Blocked(FaultReason.SCT_2, fpd)
        if entry & self._context_reserved:
            raise Blocked(FaultReason.SCT_3, fpd)
        return entry

    def decode_context(self, raw: int) -> ScalableContext:
        """What the entry says, as far as this unit looks at it."""
        entry = ScalableContextEntry(raw)
        return ScalableContext(
            directory=entry.PASIDDIRPTR,
            pasids=1 << entry.PDTS + 13,
            pasid_enabled=entry.PASIDE,
            device_tlb_enabled=entry.DTE,
            page_requests_enabled=entry.PRE,
            rid_pasid=entry.RID_PASID if self.capabilities.rid_pasid else 0,
            rid_priv=entry.RID_PRIV,
            fpd=entry.FPD,
        )

    def admit(self, context: ScalableContext, request: DmaRequest) -> int:
        """The PASID that counts, if the context takes such a request (spec 7.1.3). Raises Blocked: SCT.4 to SCT.9."""
        if request.address_type and not context.device_tlb_enabled:
            raise Blocked(FaultReason.SCT_5)
        if request.pasid is None:
            if context.rid_pasid >= context.pasids:
                beyond_is_invalid = self.policy.rid_pasid_beyond_is_invalid
                raise Blocked(FaultReason.SCT_4 if beyond_is_invalid else FaultReason.SCT_9)
            return context.rid_pasid
        if not context.pasid_enabled:
            raise Blocked(FaultReason.SCT_6)
        if request.pasid >= context.pasids or request.pasid >> self.capabilities.pasid_bits:
            raise Blocked(FaultReason.SCT_7)
        return request.pasid

    # PASID directory and PASID table (spec 9.5, 9.6).

    def process_of(self, context: ScalableContext, source_id: SourceId, pasid: int) -> Process:
        """The process behind a PASID, from the cache or from memory. Raises Blocked: SPD.*, SPT.1 to SPT.4."""
        process = self.caches.pasids.find((source_id, pasid))
        if isinstance(process, FaultyEntry):
            raise Blocked(process.reason, process.fpd)
        if process is None:
            try:
                process = self.pasid_entry(context, pasid)
            except Blocked as condition:
                if self.caches_faulting and condition.reason in _FAULTY_ENTRIES:
                    self.caches.pasids.fill((source_id, pasid), FaultyEntry(condition.reason, condition.fpd))
                raise
            self.caches.pasids.fill((source_id, pasid), process)
        return process

    def pasid_entry(self, context: ScalableContext, pasid: int) -> Process:
        """The PASID-table entry in memory, present, without reserved bits, and of a kind this unit supports."""
        directory = self.read_directory(context.directory + 8 * (pasid >> 6))
        fpd = context.fpd | PasidDirectoryEntry.FPD.get(directory)
        if not PasidDirectoryEntry.P.get(directory):
            raise Blocked(FaultReason.SPD_2, fpd)
        if directory & self._directory_reserved:
            raise Blocked(FaultReason.SPD_3, fpd)
        entry = self.read_pasid(PasidDirectoryEntry.SMPTBLPTR.get(directory) + 64 * (pasid & 0x3F))
        fpd |= PasidEntry.FPD.get(entry)
        if not PasidEntry.P.get(entry):
            raise Blocked(FaultReason.SPT_2, fpd)
        if entry & self._pasid_reserved:
            raise Blocked(FaultReason.SPT_3, fpd)
        if not self.is_supported(PasidEntry(entry)):
            raise Blocked(FaultReason.SPT_4, fpd)
        return self.decode_process(PasidEntry(entry), pasid, fpd)

    def decode_process(self, entry: PasidEntry, pasid: int, fpd: int) -> Process:
        """The stages the entry names, ready to be walked."""
        typed = self.capabilities.memory_types
        snooped, uncacheable = bool(entry.PGSNP), typed and bool(entry.CD)
        second = self.second_tables(entry) if entry.PGTT in (SECOND, NESTED) else None
        first = None
        if entry.PGTT in (FIRST, NESTED):
            first = Directory(
                address=entry.FSPTPTR,
                levels=4 + entry.FSPM,
                domain_id=entry.DID,
                pasid=pasid,
                write_protect=entry.WPE,
                extended=entry.EAFE,
                snooped=self.is_snooped(entry),
                second=second,
                attributes=of_first_stage(
                    snooped=snooped, pat=_pat(entry) if typed else None, uncacheable=uncacheable
                ),
            )
        attributes = Attributes(snooped, uncacheable=uncacheable)
        process = Process(entry.DID, entry.PGTT, first, second, entry.ERE, entry.SRE, attributes, entry.raw, fpd)
        process.shortcut = self.shortcut_of(process, pasid)
        return process

    def shortcut_of(self, process: Process, pasid: int) -> Shortcut | None:
        """The short way through one stage."""
        iotlb, first, second = self.caches.iotlb, process.first, process.second
        if first is not None and second is None:
            small_page = self.first_stage.small_pages(first)
            return Shortcut(iotlb, self.caches.first_stage, process.domain_id, pasid, small_page)
        if second is not None and first is None:
            small_page = self.second_stage.small_pages(second)
            return Shortcut(iotlb, self.caches.second_stage, process.domain_id, None, small_page)
        return None

    def is_supported(self, entry: PasidEntry) -> bool:
        """Whether the unit has the stages the entry asks for, in the depths it asks for."""
        offered: dict[int, bool] = {
            FIRST: self.capabilities.first_stage,
            SECOND: self.capabilities.second_stage,
            NESTED: self.capabilities.nested,
            PASS: self.capabilities.pass_through,
        }
        if not offered.get(entry.PGTT):
            return False
        if entry.PGTT in (SECOND, NESTED) and LEVELS.get(entry.AW, 0) not in self.capabilities.levels:
            return False
        five_levels = self.capabilities.first_stage_5_level
        return not (entry.PGTT in (FIRST, NESTED) and entry.FSPM > five_levels)

    def read_root(self, where: int) -> int:
        """Half a root entry, 64 bits. Raises Blocked."""
        return self._read(where, 8, FaultReason.SRT_1)

    def read_context(self, where: int) -> int:
        """A context entry, 256 bits. Raises Blocked."""
        return self._read(where, 32, FaultReason.SCT_1)

    def read_directory(self, where: int) -> int:
        """A PASID directory entry, 64 bits. Raises Blocked."""
        return self._read(where, 8, FaultReason.SPD_1)

    def read_pasid(self, where: int) -> int:
        """A PASID table entry, 512 bits. Raises Blocked."""
        return self._read(where, 64, FaultReason.SPT_1)

    def _read(self, where: int, length: int, unreadable: FaultReason) -> int:
        try:
            return int.from_bytes(self.memory.read(where, length), "little")
        except MemoryAccessError:
            raise Blocked(unreadable) from None

    # The stages (spec 3.6 to 3.9).

    def through(self, context: ScalableContext, process: Process, pasid: int, request: DmaRequest) -> Outcome:
        """From a valid PASID-table entry to the host address."""
        intent = self.intent(context, request)
        if process.first is not None:
            self.admit_mode(process, intent)
        try:
            if process.first is not None:
                return self.through_first(process, process.first, pasid, intent, request)
            if process.second is not None:
                return self.through_second(process, process.second, intent, request)
            return self.pass_through(request, process)
        except Blocked as condition:
            # A translation request for what is merely not mapped is answered, without permissions.
            if request.address_type and condition.reason in _MERELY_NOT_MAPPED:
                return blocked()
            raise

    def intent(self, context: ScalableContext, request: DmaRequest) -> Intent:
        """What the request needs. Without a PASID it is as privileged as the context says, and never executes."""
        capabilities = self.capabilities
        with_pasid = request.pasid is not None
        return intent_of(
            request,
            privileged=request.privileged and capabilities.supervisor_requests
            if with_pasid
            else bool(context.rid_priv),
            execute=request.execute and capabilities.execute_requests,
            zero_length_read=capabilities.zero_length_read,
            no_write=capabilities.no_write_requests,
        )

    def admit_mode(self, process: Process, intent: Intent) -> None:
        """Execute and supervisor requests have to be enabled. Raises Blocked: SPT.5, SPT.6."""
        if intent.execute and not process.execute_enabled:
            raise Blocked(FaultReason.SPT_5)
        if not intent.user and not process.supervisor_enabled:
            raise Blocked(FaultReason.SPT_6)

    def pass_through(self, request: DmaRequest, process: Process) -> Outcome:
        """The host address is the address (spec 3.9)."""
        if request.address >> self.capabilities.host_address_width:
            raise Blocked(FaultReason.SGN_4)
        if in_interrupt_range(request.address):
            raise Blocked(FaultReason.SGN_8)
        return unmapped(request.address, process.attributes)

    def second_tables(self, entry: PasidEntry) -> Tables:
        """The second stage the entry names."""
        typed = self.capabilities.memory_types
        attributes = of_second_stage(
            snooped=bool(entry.PGSNP),
            leaf_decides=self.capabilities.snoop_control,
            typed=typed and bool(entry.EMTE),
            uncacheable=typed and bool(entry.CD),
        )
        marks, snooped = entry.SSADE, self.is_snooped(entry)
        return Tables(entry.SSPTPTR, LEVELS[entry.AW], entry.DID, SCALABLE, attributes, marks, snooped)

    def is_snooped(self, entry: PasidEntry) -> int:
        """Whether the walk is coherent, so that entries can be updated by it."""
        if self.policy.snooped_by_coherency and not self.capabilities.scalable_coherent:
            return int(self.capabilities.coherent)
        return entry.PWSNP

    def through_second(self, process: Process, tables: Tables, intent: Intent, request: DmaRequest) -> Outcome:
        """Second stage alone (spec 3.7)."""
        if not self.second_stage.covers(tables, request.address):
            raise Blocked(FaultReason.SGN_5)
        page = self.cached_page(process.domain_id, None, intent, request)
        if page is not None:
            if page.kind.fault is not None:
                raise Blocked(page.kind.fault)
            self.permit(page, intent)
            return self.answer(self.outcome(page, intent, request), page, request)
        leaf = self.walk_second(tables, intent, request)
        page, _, _ = leaf
        self.permit(page, intent)
        outcome = self.outcome(page, intent, request)
        page = self.second_stage.mark_page(tables, leaf, dirty=intent.dirties and page.kind.writable)
        self.caches.iotlb.fill(process.domain_id, None, request.address, page)
        return self.answer(outcome, page, request)

    def walk_second(self, tables: Tables, intent: Intent, request: DmaRequest) -> Leaf:
        """The page, from the tables; caching mode remembers it before it is known whether the request may use it.

        Not where the page's own entry has still to be marked: what is cached could be used then without that.
        """
        if not self.caches_faulting:
            return self.second_stage.walk(tables, request.address, intent)
        iotlb = self.caches.iotlb
        leaf = self.second_stage.walk_or_remember(tables, request.address, intent, iotlb)
        if not tables.marks:
            iotlb.fill(tables.domain_id, None, request.address, leaf[0])
        return leaf

    def permit(self, page: Page, intent: Intent) -> None:
        """Whether a second-stage page permits the request. Raises Blocked: SGN.6, SGN.7."""
        if intent.lacks(page.kind.readable, page.kind.writable):
            raise Blocked(SCALABLE.permission_of(intent, page.kind.readable, page.kind.writable))

    def through_first(
        self, process: Process, tables: Directory, pasid: int, intent: Intent, request: DmaRequest
    ) -> Outcome:
        """First stage, alone or nested in a second (spec 3.6, 3.8)."""
        page = self.cached_page(process.domain_id, pasid, intent, request)
        if page is not None:
            check(page.kind, intent)
            return self.answer(self.outcome(page, intent, request), page, request)
        found = self.first_stage.walk(tables, request.address, intent)
        if tables.second is None:
            page = found.page
            outcome = self.outcome(page, intent, request)
            page = self.first_stage.mark_page(tables, found, dirty=dirties(page, intent))
        else:
            outcome, page = self.through_nested(tables, tables.second, found, intent, request)
        self.caches.iotlb.fill(process.domain_id, pasid, request.address, page)
        return self.answer(outcome, page, request)

    def through_nested(
        self, tables: Directory, second: Tables, found: Found, intent: Intent, request: DmaRequest
    ) -> tuple[Outcome, Page]:
        """The page of a first stage is a guest address: the second stage maps it (spec 3.8)."""
        guest = found.page.host | request.address & found.page.kind.size - 1
        if not self.second_stage.covers(second, guest):
            raise Blocked(FaultReason.SGN_5)
        leaf = self.second_stage.walk(second, guest, intent)
        behind, _, _ = leaf
        self.permit(behind, intent)
        both = combine(found.page, behind, guest)
        outcome = self.outcome(both, intent, request)
        dirty = dirties(both, intent)
        first = self.first_stage.mark_page(tables, found, dirty=dirty)
        last = self.second_stage.mark_page(second, leaf, dirty=dirty)
        return outcome, Page(both.host, both.kind.but(dirty=first.kind.dirty and last.kind.dirty))

    def cached_page(self, domain_id: int, pasid: int | None, intent: Intent, request: DmaRequest) -> Page | None:
        """The IOTLB's page; none where a write has still to be recorded in the tables."""
        page = self.caches.iotlb.find(domain_id, pasid, request.address)
        if page is None or (intent.dirties and not page.kind.dirty):
            return None
        return page

    def outcome(self, page: Page, intent: Intent, request: DmaRequest) -> Outcome:
        """The host address within the page. No DMA may reach the interrupt range through a translation."""
        host = page.host | request.address & page.kind.size - 1
        if in_interrupt_range(host):
            raise Blocked(FaultReason.SGN_8)
        outcome = through(host, page)
        if intent.user and not intent.execute:
            return outcome
        writable = page.kind.writable if intent.user else page.kind.supervisor_writable
        return outcome.replace(writable=writable, executable=intent.execute and page.kind.executable)

    def answer(self, outcome: Outcome, page: Page, request: DmaRequest) -> Outcome:
        """A translation request that will not write is told of write permission only where D is set already."""
        if request.no_write and self.capabilities.no_write_requests and not page.kind.dirty:
            return outcome.replace(writable=False)
        return outcome


def _pat(entry: PasidEntry) -> int:
    """The page attribute table, its 32 bits."""
    return entry.raw >> PasidEntry.PA0.lsb & 0xFFFF_FFFF


def dirties(page: Page, intent: Intent) -> bool:
    """Whether the request is recorded as a write: it is one, or may become one by what it is told."""
    return intent.dirties and (page.kind.writable if intent.user else page.kind.supervisor_writable)


def combine(first: Page, second: Page, guest: int) -> Page:
    """A nested translation: the smaller of the two pages, and the permissions of both (spec 3.8)."""
    one, other = first.kind, second.kind
    size = min(one.size, other.size)
    host = second.host | guest & other.size - 1
    kind = kind_of(
        size,
        one.readable and other.readable,
        one.writable and other.writable,
        one.supervisor_writable and other.writable,
        one.user,
        one.executable,
        one.dirty and other.dirty,
        nested(one.attributes, other.attributes),
    )
    return Page(host & -size, kind)
