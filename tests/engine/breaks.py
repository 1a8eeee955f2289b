"""Entry rules broken on purpose, each by one override of Formats: tests that let one pass would prove nothing.

A rule is dropped, or it is too strict and holds as reserved what hardware has to ignore. test_formats_broken.py sees
that each is noticed by the unit tests in `unit`, by the naive oracle of its mode, and by `scenario` where it has one.
docs/conformance.md lists them.
"""

from __future__ import annotations

from typing import ClassVar

from iommu.engine.formats import Formats, Stages
from iommu.structures import ContextEntry, PasidEntry, RootEntry, SourceValidation, TranslationType

LEGACY, SCALABLE, INTERRUPTS = "legacy", "scalable", "interrupts"

PS, SNP, TM = 1 << 7, 1 << 11, 1 << 62
PAGE_ADDRESS = 0xF_FFFF_FFFF_F000
"""Bits 51:12 of a paging entry."""
LOW_HALF = (1 << 64) - 1


def bits(msb: int, lsb: int) -> int:
    """The mask of bits msb:lsb."""
    return (1 << msb + 1) - (1 << lsb)


class Break(Formats):
    """One rule, broken; the docstring says how.

    Attributes:
        rule: the specification's name of it.
        mode: which oracle knows it.
        unit: the file of tests of which one has to fail.
        scenario: of the conformance catalogue, which has to fail; "" where none can.
    """

    rule: ClassVar[str]
    mode: ClassVar[str]
    unit: ClassVar[str]
    scenario: ClassVar[str] = ""


# Legacy mode: root and context entry.


class RootBitsUnchecked(Break):
    """Bits 11:1 of a root entry may be anything."""

    rule, mode, unit, scenario = "LRT.3", LEGACY, "test_translation.py", "legacy.root.reserved-low"

    def reserved_in_root(self, entry: int) -> int:
        return super().reserved_in_root(entry) & ~bits(11, 1)


class RootPointerUnlimited(Break):
    """A context-table pointer may lie beyond the host address width."""

    rule, mode, unit, scenario = "LRT.3", LEGACY, "test_translation.py", "legacy.root.reserved-width"

    def reserved_in_root(self, entry: int) -> int:
        return super().reserved_in_root(entry) & ~RootEntry.CTP.mask


class RootUpperHalfUnchecked(Break):
    """The upper half of a root entry may be anything."""

    rule, mode, unit, scenario = "LRT.3", LEGACY, "test_translation.py", "legacy.root.reserved-top"

    def reserved_in_root(self, entry: int) -> int:
        return super().reserved_in_root(entry) & LOW_HALF


class ReservedContextBitsUnchecked(Break):
    """A context entry has no reserved bits at all."""

    rule, mode, unit, scenario = "LCT.3", LEGACY, "test_translation.py", "legacy.context.reserved-bits"

    def reserved_in_context(self, entry: int) -> int:
        return 0


class ContextUpperBitsUnchecked(Break):
    """Bits 127:88 and 71 of a context entry may be anything."""

    rule, mode, unit, scenario = "LCT.3", LEGACY, "test_translation.py", "legacy.context.reserved-top"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry) & bits(87, 72) | super().reserved_in_context(entry) & LOW_HALF


class ContextPointerUnlimited(Break):
    """The second-stage pointer of a context entry may lie beyond the host address width."""

    rule, mode, unit, scenario = "LCT.3", LEGACY, "test_translation.py", "legacy.context.reserved-width"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry) & ~ContextEntry.SSPTPTR.mask


class ContextDomainUnlimited(Break):
    """A domain-id may have more bits than CAP.ND says."""

    rule, mode, unit, scenario = "LCT.3", LEGACY, "test_translation.py", "legacy.context.domain-beyond-nd"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry) & ~ContextEntry.DID.mask


class ContextDomainNarrowed(Break):
    """Too strict: a domain-id may have no more than 8 bits, whatever CAP.ND says."""

    rule, mode, unit, scenario = "LCT.3", LEGACY, "test_translation.py", "legacy.context.domain-16-bits"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry) | bits(87, 80)


class ContextAvailableReserved(Break):
    """Too strict: bits 70:67 of a context entry, which are software's, must be 0."""

    rule, mode, unit, scenario = "LCT.3", LEGACY, "test_translation.py", "legacy.context.ignored-bits"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry) | bits(70, 67)


class PassThroughPointerReserved(Break):
    """Too strict: pass-through checks the reserved bits of a table pointer that it does not use."""

    rule, mode, unit = "LCT.3", LEGACY, "test_translation.py"
    scenario = "legacy.pass-through.table-ignored"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry & ~ContextEntry.TT.mask)


class ReservedTypeAccepted(Break):
    """The reserved type 11 of a context entry is taken as 00."""

    rule, mode, unit, scenario = "LCT.4 (TT)", LEGACY, "test_translation.py", "legacy.context.type-reserved"

    def translation_type(self, entry: int) -> TranslationType | None:
        reserved = ContextEntry.TT.get(entry) == 3
        return TranslationType.UNTRANSLATED_ONLY if reserved else super().translation_type(entry)


class DeviceTlbTypeAccepted(Break):
    """Type 01 of a context entry is taken without ECAP.DT."""

    rule, mode, unit = "LCT.4 (TT)", LEGACY, "test_translation.py"
    scenario = "legacy.context.type-without-device-tlb"

    def translation_type(self, entry: int) -> TranslationType | None:
        return TranslationType.WITH_DEVICE_TLB if ContextEntry.TT.get(entry) == 1 else super().translation_type(entry)


class PassThroughTypeAccepted(Break):
    """Type 10 of a context entry is taken without ECAP.PT."""

    rule, mode, unit = "LCT.4 (TT)", LEGACY, "test_translation.py"
    scenario = "legacy.context.type-without-pass-through"

    def translation_type(self, entry: int) -> TranslationType | None:
        return TranslationType.PASS_THROUGH if ContextEntry.TT.get(entry) == 2 else super().translation_type(entry)


class AnyLevels(Break):
    """AW is not compared with CAP.SAGAW, and its reserved values count as 5 levels."""

    rule, mode, unit = "LCT.4, SPT.4 (AW)", LEGACY, "test_translation.py"
    scenario = "legacy.context.width-48-on-39"

    def second_stage_levels(self, address_width: int) -> int:
        return min(address_width + 2, 5)


class OnlyTheMostLevels(Break):
    """Too strict: only the largest number of levels in CAP.SAGAW is walked."""

    rule, mode, unit = "LCT.4, SPT.4 (AW)", LEGACY, "test_second_stage.py"
    scenario = "legacy.pages.4k-3-levels"

    def second_stage_levels(self, address_width: int) -> int | None:
        levels = super().second_stage_levels(address_width)
        return levels if levels == max(self.capabilities.levels) else None


# Second-stage entries.


class ReservedTableBitsUnchecked(Break):
    """An entry that points to a second-stage table has no reserved bits at all."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.table-beyond-host-width"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) if page else 0


class ReservedPageBitsUnchecked(Break):
    """An entry that maps a second-stage page has no reserved bits at all."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.page-beyond-host-width"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return 0 if page else super().reserved_in_second_stage(level, page=page)


class TableSnoopUnchecked(Break):
    """SNP may be set in an entry that points to a table."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.snoop-in-table-3"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(0 if page else SNP)


class TableTransientUnchecked(Break):
    """TM may be set in an entry that points to a table."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.transient-in-table"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(0 if page else TM)


class PageSnoopUnchecked(Break):
    """SNP may be set without ECAP.SC."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.snoop-without-snoop-control"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(SNP if page else 0)


class PageSnoopReserved(Break):
    """Too strict: SNP must be 0 with ECAP.SC too."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.permission.snoop"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) | SNP


class PageTransientUnchecked(Break):
    """TM may be set without ECAP.DT."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.transient-without-device-tlb"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(TM if page else 0)


class TableAddressUnlimited(Break):
    """A second-stage table may lie beyond the host address width."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.table-beyond-host-width"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(0 if page else PAGE_ADDRESS)


class PageAddressUnlimited(Break):
    """A second-stage page may lie beyond the host address width."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.page-beyond-host-width"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        beyond_host = bits(51, 0) & ~bits(self.capabilities.host_address_width - 1, 0)
        return super().reserved_in_second_stage(level, page=page) & ~(beyond_host if page else 0)


class LargePageUnaligned(Break):
    """A large second-stage page may have address bits below its size."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.2m-low-address"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        below_size = (1 << 3 + 9 * level) - (1 << 12)
        return super().reserved_in_second_stage(level, page=page) & ~(below_size if page and level in (2, 3) else 0)


class PageSizeUncheckedAtTheTop(Break):
    """PS may be set at levels 4 and 5, where no page can be."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.page-size-in-level-4"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(PS if level > 3 else 0)


class GigabytePageUnchecked(Break):
    """PS may be set at level 3 without second-stage pages of 1 GiB (CAP.SSLPS)."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.reserved.1g-not-offered"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(PS if level == 3 else 0)


class SecondStageSoftwareBitsReserved(Break):
    """Too strict: bits 61:52 of a second-stage entry, which are software's, must be 0."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.permission.ignored-bits"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) | bits(61, 52)


class SmallPageBit7Reserved(Break):
    """Too strict: bit 7 of an entry that maps 4 KiB, where PS is in others, must be 0."""

    rule, mode, unit = "LSL.2, SSS.3", LEGACY, "test_second_stage.py"
    scenario = "legacy.permission.ignored-bits"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) | (PS if level == 1 else 0)


# Scalable mode: root, context, PASID directory and PASID table.


class ScalableRootBitsUnchecked(Break):
    """Bits 11:1 of half a root entry may be anything."""

    rule, mode, unit = "SRT.3", SCALABLE, "test_scalable.py"
    scenario = "scalable.reserved.root-entry.low"

    def reserved_in_scalable_root(self, entry: int) -> int:
        return super().reserved_in_scalable_root(entry) & ~bits(11, 1)


class ScalableContextBitsUnchecked(Break):
    """Bits 255:85 of a context entry may be anything."""

    rule, mode, unit = "SCT.3", SCALABLE, "test_scalable.py"
    scenario = "scalable.reserved.context-entry.fourth"

    def reserved_in_scalable_context(self, entry: int) -> int:
        return super().reserved_in_scalable_context(entry) & bits(84, 0)


class DeviceTlbEnableUnchecked(Break):
    """DTE may be set without ECAP.DT."""

    rule, mode, unit = "SCT.3", SCALABLE, "test_scalable.py"
    scenario = "scalable.reserved.context-entry.device-tlb"

    def reserved_in_scalable_context(self, entry: int) -> int:
        return super().reserved_in_scalable_context(entry) & ~(1 << 2)


class RidPasidUnchecked(Break):
    """RID_PASID may be anything without ECAP.RPS."""

    rule, mode, unit = "SCT.3", SCALABLE, "test_scalable_fields.py"
    scenario = "scalable.rid-pasid.not-offered"

    def reserved_in_scalable_context(self, entry: int) -> int:
        return super().reserved_in_scalable_context(entry) & ~bits(83, 64)


class DirectoryBitsUnchecked(Break):
    """Bits 11:2 of a PASID directory entry may be anything."""

    rule, mode, unit = "SPD.3", SCALABLE, "test_scalable.py"
    scenario = "scalable.reserved.directory-entry.low"

    def reserved_in_directory(self, entry: int) -> int:
        return super().reserved_in_directory(entry) & ~bits(11, 2)


class PasidBitsUnchecked(Break):
    """Bits 511:192 of a PASID-table entry may be anything."""

    rule, mode, unit = "SPT.3", SCALABLE, "test_scalable.py"
    scenario = "scalable.reserved.pasid-entry.eighth"

    def reserved_in_pasid(self, entry: int) -> int:
        return super().reserved_in_pasid(entry) & bits(191, 0)


class PasidDomainUnlimited(Break):
    """The domain-id of a PASID-table entry may have more bits than CAP.ND says."""

    rule, mode, unit = "SPT.3", SCALABLE, "test_scalable_fields.py"
    scenario = "scalable.reserved.pasid-entry.domain"

    def reserved_in_pasid(self, entry: int) -> int:
        return super().reserved_in_pasid(entry) & ~PasidEntry.DID.mask


class AbsentSecondStageUnchecked(Break):
    """AW and SSPTPTR may be anything on a unit without a second stage."""

    rule, mode, unit = "SPT.3", SCALABLE, "test_scalable_fields.py"
    scenario = "scalable.reserved.first-stage-pasid-entry.second-pointer"

    def reserved_in_pasid(self, entry: int) -> int:
        absent = 0 if self.capabilities.second_stage else bits(4, 2) | bits(63, 12)
        return super().reserved_in_pasid(entry) & ~absent


class AbsentFirstStageUnchecked(Break):
    """SRE, FSPM, WPE and FSPTPTR may be anything on a unit without a first stage."""

    rule, mode, unit = "SPT.3", SCALABLE, "test_scalable_fields.py"
    scenario = "scalable.reserved.pasid-entry.first-pointer"

    def reserved_in_pasid(self, entry: int) -> int:
        absent = 0 if self.capabilities.first_stage else bits(191, 140) | bits(132, 128)
        return super().reserved_in_pasid(entry) & ~absent


class AccessedDirtyUnchecked(Break):
    """SSADE may be set without ECAP.SSADS."""

    rule, mode, unit = "SPT.3", SCALABLE, "test_scalable.py"
    scenario = "scalable.reserved.pasid-entry.second-dirty"

    def reserved_in_pasid(self, entry: int) -> int:
        return super().reserved_in_pasid(entry) & ~(1 << 9)


class WithdrawnBitsReserved(Break):
    """Too strict: NXE and SMEP, which are ignored, must be 0."""

    rule, mode, unit = "SPT.3", SCALABLE, "test_scalable_fields.py"
    scenario = "scalable.first.withdrawn-bits"

    def reserved_in_pasid(self, entry: int) -> int:
        return super().reserved_in_pasid(entry) | bits(134, 133)


class ReservedPgttPassesThrough(Break):
    """The reserved values of PGTT are taken as pass-through."""

    rule, mode, unit = "SPT.4 (PGTT)", SCALABLE, "test_scalable.py"
    scenario = "scalable.entry.type-5"

    def stages(self, entry: int) -> Stages | None:
        return super().stages(entry) if PasidEntry.PGTT.get(entry) in (1, 2, 3, 4) else Stages(0, 0)


class NestedAlwaysOffered(Break):
    """PGTT may be 011 without ECAP.NEST."""

    rule, mode, unit = "SPT.4 (PGTT)", SCALABLE, "test_scalable.py"
    scenario = "scalable.entry.type-3"

    def stages(self, entry: int) -> Stages | None:
        if PasidEntry.PGTT.get(entry) != 3 or self.capabilities.nested:
            return super().stages(entry)
        first = self.first_stage_levels(PasidEntry.FSPM.get(entry))
        second = self.second_stage_levels(PasidEntry.AW.get(entry))
        return None if first is None or second is None else Stages(first, second)


class SecondStageLevelsUnchecked(Break):
    """AW of a PASID-table entry is not compared with CAP.SAGAW."""

    rule, mode, unit = "SPT.4 (AW)", SCALABLE, "test_scalable.py"
    scenario = "scalable.entry.width-3"

    def stages(self, entry: int) -> Stages | None:
        levels = {1: 3, 2: 4, 3: 5}.get(PasidEntry.AW.get(entry))
        walked = PasidEntry.PGTT.get(entry) == 2 and self.capabilities.second_stage and levels
        return Stages(0, levels) if walked and levels else super().stages(entry)


class FiveFirstStageLevelsAccepted(Break):
    """FSPM may be 01 without CAP.FS5LP."""

    rule, mode, unit = "SPT.4 (FSPM)", SCALABLE, "test_scalable.py"
    scenario = "scalable.first.five-levels"

    def first_stage_levels(self, mode: int) -> int | None:
        return 5 if mode == 1 else super().first_stage_levels(mode)


class ReservedPagingModeAccepted(Break):
    """The reserved values of FSPM are taken as 4 levels."""

    rule, mode, unit = "SPT.4 (FSPM)", SCALABLE, "test_scalable.py"
    scenario = "scalable.first.levels-reserved-2"

    def first_stage_levels(self, mode: int) -> int | None:
        return 4 if mode > 1 else super().first_stage_levels(mode)


# First-stage entries.


class FirstStageAddressUnlimited(Break):
    """A first-stage table or page may lie beyond the host address width."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"
    scenario = "scalable.reserved.first-stage-1.width"

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        beyond_host = bits(51, 0) & ~bits(self.capabilities.host_address_width - 1, 0)
        return super().reserved_in_first_stage(level, page=page) & ~beyond_host


class FirstStagePageSizeUncheckedAtTheTop(Break):
    """PS may be set at levels 4 and 5, where no page can be."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"
    scenario = "scalable.reserved.first-stage-4.page-size"

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_first_stage(level, page=page) & ~(PS if level > 3 else 0)


class FirstStageGigabytePageUnchecked(Break):
    """PS may be set at level 3 without CAP.FS1GP."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"
    scenario = "scalable.first.1g-not-offered"

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_first_stage(level, page=page) & ~(PS if level == 3 else 0)


class FirstStageLargePageUnaligned(Break):
    """A large first-stage page may have address bits below its size."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"
    scenario = "scalable.reserved.first-stage-2-page.alignment"

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        below_size = (1 << 3 + 9 * level) - (1 << 13) if page and level in (2, 3) else 0
        return super().reserved_in_first_stage(level, page=page) & ~below_size


class FirstStagePatReserved(Break):
    """Too strict: bit 12 of a large first-stage page, its PAT bit, must be 0."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"
    scenario = "scalable.first.2m-pat"

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        pat = 1 << 12 if page and level in (2, 3) else 0
        return super().reserved_in_first_stage(level, page=page) | pat


class FirstStageSoftwareBitsReserved(Break):
    """Too strict: bits 62:52 of a first-stage entry, which are software's, must be 0."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"
    scenario = "scalable.first.ignored-bits"

    def reserved_in_first_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_first_stage(level, page=page) | bits(62, 52)


# Interrupts.


class InterruptBitsUnchecked(Break):
    """Bits 14:12, 31:24 and 127:84 of an interrupt entry may be anything."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        unchecked = bits(14, 12) | bits(31, 24) | bits(127, 84)
        return super().reserved_in_interrupt(entry, extended=extended) & ~unchecked


class DeliveryModeUnchecked(Break):
    """The reserved delivery modes 3 and 6 are delivered."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        unchecked = 0 if self.is_posted(entry) else bits(7, 5)
        return super().reserved_in_interrupt(entry, extended=extended) & ~unchecked


class ValidationTypeUnchecked(Break):
    """The reserved source validation type 3 validates nothing."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        return super().reserved_in_interrupt(entry, extended=extended) & ~bits(83, 82)


class ValidationTypeAsBus(Break):
    """The reserved source validation type 3 compares the bus, as type 2 does."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def source_validation(self, entry: int) -> SourceValidation | None:
        validation = super().source_validation(entry)
        return SourceValidation.BUS if validation is None else validation


class DestinationUnchecked(Break):
    """Without IRTA.EIME, the bits of a destination beside its 8-bit APIC id may be anything."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        return super().reserved_in_interrupt(entry)


class PostedFormAlwaysKnown(Break):
    """An entry with IM is of the posted form on a unit without CAP.PI too."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupt_posting.py"

    def is_posted(self, entry: int) -> bool:
        return bool(entry >> 15 & 1)

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        return super().reserved_in_interrupt(entry, extended=extended) & ~bits(15, 14)


class InterruptSoftwareBitsReserved(Break):
    """Too strict: bits 11:8 of an interrupt entry, which are software's, must be 0."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        return super().reserved_in_interrupt(entry, extended=extended) | bits(11, 8)


class DescriptorBitsUnchecked(Break):
    """Bits 271:258 and 287:280 of a posted-interrupt descriptor may be anything."""

    rule, mode, unit = "IR.28", INTERRUPTS, "test_interrupt_posting.py"

    def reserved_in_descriptor(self, entry: int, *, extended: bool) -> int:
        return super().reserved_in_descriptor(entry, extended=extended) & ~(bits(271, 258) | bits(287, 280))


class NotificationDestinationUnchecked(Break):
    """Without IRTA.EIME, the bits of a descriptor's destination beside its 8-bit APIC id may be anything."""

    rule, mode, unit = "IR.28", INTERRUPTS, "test_interrupt_posting.py"

    def reserved_in_descriptor(self, entry: int, *, extended: bool) -> int:
        return super().reserved_in_descriptor(entry, extended=True)


class DescriptorSoftwareBitsReserved(Break):
    """Too strict: bits 511:320 of a posted-interrupt descriptor, which are software's, must be 0."""

    rule, mode, unit = "IR.28", INTERRUPTS, "test_interrupt_posting.py"

    def reserved_in_descriptor(self, entry: int, *, extended: bool) -> int:
        return super().reserved_in_descriptor(entry, extended=extended) | bits(511, 320)


BREAKS: dict[str, type[Break]] = {broken.__name__: broken for broken in Break.__subclasses__()}
"""By name, in the order of the specification's modes."""
