"""The rules of table entries: which bits must be 0, which values a field may hold, and which bits hardware reads.

These rules are stated here and nowhere else: both walks, the trace, the audit and the lint of snapshots use them.
They depend only on capabilities and policy. A unit that departs from one of them overrides it:

    class Ours(Formats):
        def reserved_in_context(self, entry: int) -> int: ...

    class OurUnit(RemappingUnit):
        Formats = Ours
"""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.capabilities import Capabilities
from iommu.engine.entry_format import PagingFormat, PagingFormats, Rules, StructureFormat
from iommu.engine.policy import Policy
from iommu.fields import Layout
from iommu.structures import (
    FIRST_STAGE_PAGES,
    SECOND_STAGE_PAGES,
    ContextEntry,
    DeliveryMode,
    FirstStageEntry,
    FirstStageTable,
    InterruptEntry,
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    PostedInterruptDescriptor,
    PostedInterruptEntry,
    RemappedInterruptEntry,
    RootEntry,
    ScalableContextEntry,
    ScalableRootHalf,
    SecondStageEntry,
    SecondStageTable,
    SourceValidation,
    TranslationType,
)

# AW of context entries and PASID entries (9.3, 9.6), in levels of the second stage; the other values are reserved.
_LEVELS_BY_AW = {1: 3, 2: 4, 3: 5}
# FSPM of PASID entries (9.6), in levels of the first stage; the other values are reserved.
_LEVELS_BY_FSPM = {0: 4, 1: 5}

_FIRST_FIELDS = PasidEntry.bits_of("FSPTPTR", "EAFE", "WPE", "FSPM", "ERE", "SRE")
_SECOND_FIELDS = PasidEntry.bits_of("AW", "SSPTPTR")
_WITHDRAWN_FIELDS = PasidEntry.bits_of("NXE", "SMEP", "SSEE")
# If destinations have 8 bits, the other bits of the field are reserved (9.9, 9.11).
_APIC_ID_RESERVED = 0xFFFF_00FF

_DELIVERY_MODES = frozenset(DeliveryMode)
_SOURCE_VALIDATIONS = frozenset(SourceValidation)


class Stages(NamedTuple):
    """The stages that a PASID-table entry selects: the levels of each, 0 if it is not used."""

    first_levels: int
    second_levels: int


class Formats:
    """The rules of every kind of entry on a unit with these capabilities and this policy.

    Attributes:
        root, context, scalable_root, scalable_context, directory, pasid, interrupt: the formats of these entries.
    """

    def __init__(self, capabilities: Capabilities, policy: Policy) -> None:
        self.capabilities, self.policy = capabilities, policy
        self._width, self._offered = capabilities.host_address_width, capabilities.offered
        self._masks: dict[type[Layout], int] = {}
        self.root = StructureFormat("root entry", RootEntry, self.reserved_in_root)
        self.context = StructureFormat(
            "context entry",
            ContextEntry,
            self.reserved_in_context,
            self._ignored_in_context,
            read_when_absent=ContextEntry.FPD.mask,
        )
        self.scalable_root = StructureFormat("half root entry", ScalableRootHalf, self.reserved_in_scalable_root)
        self.scalable_context = StructureFormat(
            "context entry",
            ScalableContextEntry,
            self.reserved_in_scalable_context,
            read_when_absent=ScalableContextEntry.FPD.mask,
        )
        self.directory = StructureFormat(
            "PASID directory entry",
            PasidDirectoryEntry,
            self.reserved_in_directory,
            read_when_absent=PasidDirectoryEntry.FPD.mask,
        )
        self.pasid = StructureFormat(
            "PASID table entry",
            PasidEntry,
            self.reserved_in_pasid,
            self._ignored_in_pasid,
            read_when_absent=PasidEntry.FPD.mask,
        )
        self.interrupt = StructureFormat(
            "interrupt-remapping entry",
            InterruptEntry,
            self.reserved_in_interrupt,
            self._ignored_in_interrupt,
            read_when_absent=InterruptEntry.FPD.mask,
        )
        self._paging: dict[tuple[str | bool, ...], PagingFormats] = {}
        self._domain_id_mask = (1 << capabilities.domain_id_bits) - 1

    def _reserved_bits(self, layout: type[Layout]) -> int:
        """The bits reserved by the declaration: those of no field, and of fields whose capability the unit lacks."""
        mask = self._masks.get(layout)
        if mask is None:
            mask = self._masks[layout] = layout.reserved_mask(self._width, self._offered)
        return mask

    # Legacy mode: root and context entry (9.1, 9.3).

    def reserved_in_root(self, entry: int) -> int:
        """LRT.3: the bits that must be 0 in a present root entry."""
        return self._reserved_bits(RootEntry)

    def reserved_in_context(self, entry: int) -> int:
        """LCT.3: the bits that must be 0 in a present context entry. SSPTPTR counts only if TT selects a walk."""
        mask = self._reserved_bits(ContextEntry)
        mask |= ContextEntry.DID.mask & ~ContextEntry.make(DID=self._domain_id_mask)
        if ContextEntry.TT.get(entry) not in (TranslationType.UNTRANSLATED_ONLY, TranslationType.WITH_DEVICE_TLB):
            mask &= ~ContextEntry.SSPTPTR.mask
        return mask

    def _ignored_in_context(self, entry: int) -> int:
        pointer = ContextEntry.SSPTPTR.mask if ContextEntry.TT.get(entry) == TranslationType.PASS_THROUGH else 0
        return ContextEntry.ignored_mask() | pointer

    def translation_type(self, entry: int) -> TranslationType | None:
        """LCT.4: TT of a context entry; None for a type that the unit does not support."""
        offered: dict[int, bool] = {
            TranslationType.UNTRANSLATED_ONLY: True,
            TranslationType.WITH_DEVICE_TLB: self.capabilities.device_tlb,
            TranslationType.PASS_THROUGH: self.capabilities.pass_through,
        }
        number = ContextEntry.TT.get(entry)
        return TranslationType(number) if offered.get(number) else None

    def second_stage_levels(self, address_width: int) -> int | None:
        """LCT.4, SPT.4: the second-stage levels that AW selects; None if the unit does not support them."""
        levels = _LEVELS_BY_AW.get(address_width)
        return levels if levels in self.capabilities.levels else None

    # Scalable mode: root, context, PASID directory and PASID table (9.2, 9.4 to 9.6).

    def reserved_in_scalable_root(self, entry: int) -> int:
        """SRT.3: the bits that must be 0 in half a root entry."""
        return self._reserved_bits(ScalableRootHalf)

    def reserved_in_scalable_context(self, entry: int) -> int:
        """SCT.3: the bits that must be 0 in a present scalable-mode context entry."""
        return self._reserved_bits(ScalableContextEntry)

    def reserved_in_directory(self, entry: int) -> int:
        """SPD.3: the bits that must be 0 in a present PASID directory entry."""
        return self._reserved_bits(PasidDirectoryEntry)

    def reserved_in_pasid(self, entry: int) -> int:
        """SPT.3: the bits that must be 0 in a present PASID-table entry, with the fields of stages the unit lacks."""
        mask = self._reserved_bits(PasidEntry)
        mask |= PasidEntry.DID.mask & ~PasidEntry.make(DID=self._domain_id_mask)
        if not self.capabilities.second_stage:
            mask |= _SECOND_FIELDS
        if not self.capabilities.first_stage:
            mask |= _FIRST_FIELDS
        return mask

    def _ignored_in_pasid(self, entry: int) -> int:
        mask = _WITHDRAWN_FIELDS
        stages = self.stages(entry)
        if stages is not None and not stages.first_levels:
            mask |= _FIRST_FIELDS
        if stages is not None and not stages.second_levels:
            mask |= _SECOND_FIELDS | PasidEntry.SSADE.mask
        return mask & ~self.reserved_in_pasid(entry)

    def stages(self, entry: int) -> Stages | None:
        """SPT.4: the stages that PGTT, AW and FSPM select; None if the unit does not support one, or its levels."""
        kind = PasidEntry.PGTT.get(entry)
        offered: dict[int, bool] = {
            PasidTranslationType.FIRST_STAGE: self.capabilities.first_stage,
            PasidTranslationType.SECOND_STAGE: self.capabilities.second_stage,
            PasidTranslationType.NESTED: self.capabilities.nested,
            PasidTranslationType.PASS_THROUGH: self.capabilities.pass_through,
        }
        if not offered.get(kind):
            return None
        first: int | None = 0
        second: int | None = 0
        if kind in (PasidTranslationType.FIRST_STAGE, PasidTranslationType.NESTED):
            first = self.first_stage_levels(PasidEntry.FSPM.get(entry))
        if kind in (PasidTranslationType.SECOND_STAGE, PasidTranslationType.NESTED):
            second = self.second_stage_levels(PasidEntry.AW.get(entry))
        if first is None or second is None or (first and second and self._is_beyond_guest(entry, second)):
            return None
        return Stages(first, second)

    def _is_beyond_guest(self, entry: int, levels: int) -> bool:
        """SPT.4: nested, the first-stage pointer is an address that the second stage cannot map."""
        return PasidEntry.FSPTPTR.get(entry) >> min(self.capabilities.address_width, 12 + 9 * levels) > 0

    def first_stage_levels(self, mode: int) -> int | None:
        """SPT.4: the first-stage levels that FSPM selects; None if the unit does not support them."""
        levels = _LEVELS_BY_FSPM.get(mode)
        return None if levels == 5 and not self.capabilities.first_stage_5_level else levels

    # Paging entries (9.7, 9.8).

    def second_stage(self, *, accessed_dirty: bool, memory_types: bool) -> PagingFormats:
        """The entries of a second stage, by level.

        Args:
            accessed_dirty: the unit sets accessed and dirty bits (SSADE).
            memory_types: EMT and IPAT apply (EMTE).
        """
        made = self._paging.get(("second", accessed_dirty, memory_types))
        if made is None:
            made = tuple(
                self._second_stage_level(level, accessed_dirty=accessed_dirty, memory_types=memory_types)
                for level in range(6)
            )
            self._paging["second", accessed_dirty, memory_types] = made
        return made

    def _second_stage_level(self, level: int, *, accessed_dirty: bool, memory_types: bool) -> PagingFormat:
        accessed, types = SecondStageEntry.bits_of("A", "D"), SecondStageEntry.bits_of("EMT", "IPAT")
        unread = SecondStageEntry.X.mask | (0 if accessed_dirty else accessed) | (0 if memory_types else types)
        only_in_pages = SecondStageEntry.D.mask | types
        page = SECOND_STAGE_PAGES.get(level, SecondStageTable)
        return PagingFormat(
            "second",
            level,
            Rules(
                SecondStageTable,
                self.reserved_in_second_stage(level, page=False),
                unread | only_in_pages | SecondStageTable.ignored_mask(),
            ),
            Rules(page, self.reserved_in_second_stage(level, page=True), unread | page.ignored_mask()),
            present=SecondStageEntry.bits_of("R", "W"),
            accessed_dirty=accessed if accessed_dirty else 0,
        )

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        """LSL.2, SSS.3: the bits that must be 0 in a second-stage entry with R or W.

        Args:
            level: the level of the entry.
            page: whether it maps a page; otherwise it points to a table.
        """
        return self._reserved_bits(SECOND_STAGE_PAGES.get(level, SecondStageTable) if page else SecondStageTable)

    def first_stage(self, *, extended: bool) -> PagingFormats:
        """The entries of a first stage, by level. `extended`: the unit sets the extended-accessed bit (EAFE)."""
        made = self._paging.get(("first", extended))
        if made is None:
            made = tuple(self._first_stage_level(level, extended=extended) for level in range(6))
            self._paging["first", extended] = made
        return made

    def _first_stage_level(self, level: int, *, extended: bool) -> PagingFormat:
        memory_types, page = self.capabilities.memory_types, FIRST_STAGE_PAGES.get(level, FirstStageTable)
        unread = 0 if extended else FirstStageEntry.EA.mask
        unread |= 0 if memory_types else FirstStageEntry.bits_of("PCD", "PWT")
        pat = page.bits_of("PAT") if "PAT" in page.fields and not memory_types else 0
        only_in_pages = FirstStageEntry.bits_of("D", "G")
        return PagingFormat(
            "first",
            level,
            Rules(
                FirstStageTable,
                self.reserved_in_first_stage(level, page=False),
                unread | only_in_pages | FirstStageTable.ignored_mask(),
            ),
            Rules(
                page,
                self.reserved_in_first_stage(level, page=True),
                unread | pat | page.ignored_mask(),
            ),
            present=FirstStageEntry.P.mask,
            accessed_dirty=FirstStageEntry.bits_of("A", "D") | (FirstStageEntry.EA.mask if extended else 0),
        )

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        """SFS.3: the bits that must be 0 in a present first-stage entry; `level` and `page` as in the second stage.

        Nested, where the entry holds a guest address, the bits beyond the host's width are reserved too (3.6).
        """
        return self._reserved_bits(FIRST_STAGE_PAGES.get(level, FirstStageTable) if page else FirstStageTable)

    # Interrupts (9.9 to 9.11).

    def is_posted(self, entry: int) -> bool:
        """Whether the entry has the posted form. Without CAP.PI, IM is a reserved bit of the remapped form."""
        return bool(InterruptEntry.IM.get(entry)) and self.capabilities.posted_interrupts

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        """IR.24: the bits that must be 0 in an entry of this form, and the fields that hold a reserved value.

        `extended`: destinations have 32 bits (IRTA.EIME).
        """
        reserved_validation = self.source_validation(entry) is None and not self.policy.reserved_validation_fails
        mask = InterruptEntry.SVT.mask if reserved_validation else 0
        if self.is_posted(entry):
            return mask | self._reserved_bits(PostedInterruptEntry)
        mask |= RemappedInterruptEntry.reserved_mask(offered=self._offered)
        if RemappedInterruptEntry.DLM.get(entry) not in _DELIVERY_MODES:
            mask |= RemappedInterruptEntry.DLM.mask
        return mask if extended else mask | _APIC_ID_RESERVED << RemappedInterruptEntry.DST.lsb

    def source_validation(self, entry: int) -> SourceValidation | None:
        """SVT; None for the reserved value."""
        number = InterruptEntry.SVT.get(entry)
        return SourceValidation(number) if number in _SOURCE_VALIDATIONS else None

    def _ignored_in_interrupt(self, entry: int) -> int:
        unused = InterruptEntry.bits_of("SID", "SQ") if InterruptEntry.SVT.get(entry) == SourceValidation.NONE else 0
        return InterruptEntry.ignored_mask() | unused

    def reserved_in_descriptor(self, entry: int, *, extended: bool) -> int:
        """IR.28: the bits that must be 0 in a posted-interrupt descriptor."""
        mask = PostedInterruptDescriptor.reserved_mask()
        return mask if extended else mask | _APIC_ID_RESERVED << PostedInterruptDescriptor.NDST.lsb
