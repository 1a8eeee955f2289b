"""The tables of scalable mode (spec 9.2 to 9.6): source-id to context, PASID to PASID-table entry."""

from __future__ import annotations

from iommu.engine.attributes import Attributes, of_first_stage, of_second_stage
from iommu.engine.caches.caches import Caches
from iommu.engine.caches.page import FaultyEntry, Process, ScalableContext
from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import DmaRequest, SourceId
from iommu.engine.translation.fast_path import Shortcut, Shortcuts
from iommu.engine.translation.first_stage import Directory, FirstStage
from iommu.engine.translation.legacy import LEVELS
from iommu.engine.translation.second_stage import SCALABLE, SecondStage, Tables
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


class ScalableTables:
    """Finds the context of a device and the process behind a PASID. `root_table` is what SRTP latched."""

    def __init__(
        self,
        memory: Memory,
        capabilities: Capabilities,
        policy: Policy,
        first_stage: FirstStage,
        second_stage: SecondStage,
        caches: Caches,
        shortcuts: Shortcuts,
    ) -> None:
        self._shortcuts = shortcuts
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
        shortcut = self.shortcut_of(first, second)
        return Process(entry.DID, first, second, entry.ERE, entry.SRE, attributes, entry.raw, fpd, shortcut)

    def second_tables(self, entry: PasidEntry) -> Tables:
        """The second stage the entry names."""
        typed = self.capabilities.memory_types
        attributes = of_second_stage(
            snooped=bool(entry.PGSNP),
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

    def shortcut_of(self, first: Directory | None, second: Tables | None) -> Shortcut | None:
        """The short way through one stage."""
        if first is not None and second is None:
            return self._shortcuts.by_first_stage(first)
        if second is not None and first is None:
            return self._shortcuts.by_second_stage(second)
        return None

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


def _pat(entry: PasidEntry) -> int:
    """The page attribute table, its 32 bits."""
    return entry.raw >> PasidEntry.PA0.lsb & 0xFFFF_FFFF
