"""The tables of scalable mode (spec 9.2 to 9.6): source-id to context, PASID to PASID-table entry."""

from __future__ import annotations

from iommu.engine.attributes import Attributes, of_first_stage, of_second_stage
from iommu.engine.caches.caches import Caches
from iommu.engine.caches.entries import PasidContext, ScalableContext, read_through
from iommu.engine.caches.tables import SECOND_STAGE, FirstStageRoot, SecondStageRoot
from iommu.engine.capabilities import Capabilities
from iommu.engine.entry_format import EntryFormat
from iommu.engine.formats import Formats
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import DmaRequest, SourceId
from iommu.engine.table_access import TableAccess
from iommu.errors import MemoryAccessError
from iommu.structures import PasidDirectoryEntry, PasidEntry, ScalableContextEntry, ScalableRootHalf

_PAT = PasidEntry.PA0.lsb


def directory_size(entry: int) -> int:
    """The number of PASIDs that the directory of a context entry covers."""
    return 1 << ScalableContextEntry.PDTS.get(entry) + 13


class ScalableTables:
    """Finds the context of a device, and that of a PASID.

    `root_table` was latched by SRTP; `snooped` says whether the tables are read with snooping.
    """

    def __init__(
        self, access: TableAccess, capabilities: Capabilities, policy: Policy, formats: Formats, caches: Caches
    ) -> None:
        self.access, self.capabilities, self.policy = access, capabilities, policy
        self.formats, self.caches = formats, caches
        self.root_table = 0
        self.cache_faulty = capabilities.caching_mode and policy.cache_faulting
        self.snooped = int(capabilities.scalable_coherent or capabilities.coherent)

    # Root and context entry (spec 9.2, 9.4).

    def context_of(self, source_id: SourceId) -> ScalableContext:
        """The context of a device, from the cache or from memory. Raises Blocked: SRT.*, SCT.1 to SCT.4."""
        return read_through(
            self.caches.scalable_contexts,
            source_id,
            lambda: self.decode_context(self.context_entry(source_id)),
            cache_faulty=self.cache_faulty,
        )

    def context_entry(self, source_id: SourceId) -> int:
        """The context entry in memory, present and valid. Raises Blocked."""
        half = self.read_root(self.root_table + 16 * source_id.bus + 8 * (source_id.devfn >> 7))
        # SRT.2: the half of the root entry is not present.
        if not ScalableRootHalf.P.get(half):
            raise Blocked(FaultReason.SRT_2)
        # SRT.3: a reserved bit is set in it.
        if half & self.formats.scalable_root.reserved(half):
            raise Blocked(FaultReason.SRT_3)
        entry = self.read_context(ScalableRootHalf.CTP.get(half) + 32 * (source_id.devfn & 0x7F))
        self.check_context_entry(entry, ScalableContextEntry.FPD.get(entry))
        return entry

    def check_context_entry(self, entry: int, fpd: int) -> None:
        """Check that the entry is present, without reserved bits, and consistent. Raises Blocked."""
        # SCT.2: the context entry is not present.
        if not ScalableContextEntry.P.get(entry):
            raise Blocked(FaultReason.SCT_2, fpd)
        # SCT.3: a reserved bit is set in a present context entry.
        if entry & self.formats.scalable_context.reserved(entry):
            raise Blocked(FaultReason.SCT_3, fpd)
        # SCT.4: page requests are enabled without device-TLBs, or RID_PASID is beyond the PASID directory.
        without_device_tlb = ScalableContextEntry.PRE.get(entry) and not ScalableContextEntry.DTE.get(entry)
        if without_device_tlb or ScalableContextEntry.RID_PASID.get(entry) >= directory_size(entry):
            raise Blocked(FaultReason.SCT_4, fpd)

    def decode_context(self, raw: int) -> ScalableContext:
        """Decode the fields of the entry that this unit uses."""
        entry = ScalableContextEntry(raw)
        return ScalableContext(
            directory=entry.PASIDDIRPTR,
            pasids=directory_size(raw),
            pasid_enabled=entry.PASIDE,
            device_tlb_enabled=entry.DTE,
            page_requests_enabled=entry.PRE,
            rid_pasid=entry.RID_PASID if self.capabilities.rid_pasid else 0,
            rid_priv=entry.RID_PRIV,
            fpd=entry.FPD,
        )

    def effective_pasid(self, context: ScalableContext, request: DmaRequest) -> int:
        """The PASID of the request, or RID_PASID, if permitted (7.1.3). Raises Blocked: SCT.*, SGN.10."""
        # SCT.5: a translation or translated request while device-TLBs are not enabled.
        if request.address_type and not context.device_tlb_enabled:
            raise Blocked(FaultReason.SCT_5)
        if request.pasid is None:
            return context.rid_pasid
        self.check_pasid(context, request.pasid)
        # SGN.10: the PASID has more bits than the unit supports.
        if request.pasid >> self.capabilities.pasid_bits:
            raise Blocked(FaultReason.SGN_10)
        return request.pasid

    def check_pasid(self, context: ScalableContext, pasid: int) -> None:
        """Check that the context permits requests with this PASID. Raises Blocked: SCT.6, SCT.7, SCT.9."""
        # SCT.6: a request with a PASID while PASIDs are not enabled.
        if not context.pasid_enabled:
            raise Blocked(FaultReason.SCT_6)
        # SCT.7: the PASID is beyond the PASID directory.
        if pasid >= context.pasids:
            raise Blocked(FaultReason.SCT_7)
        # SCT.9: the PASID is RID_PASID, which stands for requests without one.
        if pasid == context.rid_pasid:
            raise Blocked(FaultReason.SCT_9)

    # PASID directory and PASID table (spec 9.5, 9.6).

    def pasid_context_of(self, context: ScalableContext, source_id: SourceId, pasid: int) -> PasidContext:
        """The context of a PASID, from the cache or from memory. Raises Blocked: SPD.*, SPT.1 to SPT.4."""
        if not self.policy.cache_pasids:
            return self.pasid_entry(context, pasid)
        return read_through(
            self.caches.pasids,
            (source_id, pasid),
            lambda: self.pasid_entry(context, pasid),
            cache_faulty=self.cache_faulty,
        )

    def pasid_entry(self, context: ScalableContext, pasid: int) -> PasidContext:
        """The PASID-table entry in memory, present, without reserved bits, of a supported type. Raises Blocked."""
        directory = self.read_directory(context.directory + 8 * (pasid >> 6))
        fpd = context.fpd | PasidDirectoryEntry.FPD.get(directory)
        # SPD.2: the PASID directory entry is not present.
        if not PasidDirectoryEntry.P.get(directory):
            raise Blocked(FaultReason.SPD_2, fpd)
        # SPD.3: a reserved bit is set in a present PASID directory entry.
        if directory & self.formats.directory.reserved(directory):
            raise Blocked(FaultReason.SPD_3, fpd)
        entry = self.read_pasid(PasidDirectoryEntry.SMPTBLPTR.get(directory) + 64 * (pasid & 0x3F))
        fpd |= PasidEntry.FPD.get(entry)
        self.check_pasid_entry(entry, fpd)
        return self.decode_pasid(PasidEntry(entry), pasid, fpd)

    def check_pasid_entry(self, entry: int, fpd: int) -> None:
        """Check that the entry is present, without reserved bits, and of a supported type. Raises Blocked."""
        # SPT.2: the PASID-table entry is not present.
        if not PasidEntry.P.get(entry):
            raise Blocked(FaultReason.SPT_2, fpd)
        # SPT.3: a reserved bit is set in a present PASID-table entry.
        if entry & self.formats.pasid.reserved(entry):
            raise Blocked(FaultReason.SPT_3, fpd)
        # SPT.4: the unit does not support the translation type, the address width or the paging mode.
        if self.formats.stages(entry) is None:
            raise Blocked(FaultReason.SPT_4, fpd)

    def decode_pasid(self, entry: PasidEntry, pasid: int, fpd: int) -> PasidContext:
        """Decode the entry into the stages that it selects."""
        first_levels, second_levels = self.formats.stages(entry.raw) or (0, 0)
        memory_types = self.capabilities.memory_types
        snooped, uncacheable = bool(entry.PGSNP), memory_types and bool(entry.CD)
        second = self.second_root(entry, second_levels) if second_levels else None
        first = None
        if first_levels:
            first = FirstStageRoot(
                address=entry.FSPTPTR,
                levels=first_levels,
                domain_id=entry.DID,
                pasid=pasid,
                formats=self.formats.first_stage(extended=bool(entry.EAFE)),
                write_protect=entry.WPE,
                extended=entry.EAFE,
                snooped=self.is_snooped(entry),
                second=second,
                attributes=of_first_stage(
                    snooped=snooped,
                    pat=entry.raw >> _PAT & 0xFFFF_FFFF if memory_types else None,
                    uncacheable=uncacheable,
                ),
            )
        attributes = Attributes(snooped, uncacheable=uncacheable)
        return PasidContext(entry.DID, first, second, entry.ERE, entry.SRE, attributes, entry.raw, fpd)

    def second_root(self, entry: PasidEntry, levels: int) -> SecondStageRoot:
        """The second stage that the entry selects."""
        memory_types = self.capabilities.memory_types and bool(entry.EMTE)
        attributes = of_second_stage(
            snooped=bool(entry.PGSNP),
            memory_types=memory_types,
            uncacheable=self.capabilities.memory_types and bool(entry.CD),
        )
        formats = self.formats.second_stage(accessed_dirty=bool(entry.SSADE), memory_types=memory_types)
        snooped = self.is_snooped(entry)
        return SecondStageRoot(
            entry.SSPTPTR, levels, entry.DID, formats, SECOND_STAGE, attributes, entry.SSADE, snooped
        )

    def is_snooped(self, entry: PasidEntry) -> int:
        """Whether the walk is snooped; only then can it update entries."""
        return entry.PWSNP

    def read_root(self, where: int) -> int:
        """Half a root entry, 64 bits. Raises Blocked."""
        # SRT.1: it could not be read.
        return self._read(self.formats.scalable_root, where, FaultReason.SRT_1)

    def read_context(self, where: int) -> int:
        """A context entry, 256 bits. Raises Blocked."""
        # SCT.1: it could not be read.
        return self._read(self.formats.scalable_context, where, FaultReason.SCT_1)

    def read_directory(self, where: int) -> int:
        """A PASID directory entry, 64 bits. Raises Blocked."""
        # SPD.1: it could not be read.
        return self._read(self.formats.directory, where, FaultReason.SPD_1)

    def read_pasid(self, where: int) -> int:
        """A PASID-table entry, 512 bits. Raises Blocked."""
        # SPT.1: it could not be read.
        return self._read(self.formats.pasid, where, FaultReason.SPT_1)

    def _read(self, entry_format: EntryFormat, where: int, unreadable: FaultReason) -> int:
        try:
            return self.access.read(entry_format, where, self.snooped)
        except MemoryAccessError:
            raise Blocked(unreadable) from None
