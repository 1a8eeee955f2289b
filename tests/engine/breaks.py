"""Entry rules broken on purpose, each by one override of Formats: tests that let one pass would prove nothing.

test_formats_broken.py sees that each is noticed by the unit tests in `unit`, by the naive oracle of its mode, and in
legacy mode by a scenario of the conformance catalogue.
"""

from __future__ import annotations

from typing import ClassVar

from iommu.engine.formats import Formats, Stages
from iommu.structures import (
    ContextEntry,
    InterruptEntry,
    PasidEntry,
    RemappedInterruptEntry,
    SourceValidation,
    TranslationType,
)

LEGACY, SCALABLE, INTERRUPTS = "legacy", "scalable", "interrupts"


class Break(Formats):
    """One rule, broken.

    Attributes:
        rule: the specification's name of it.
        mode: which oracle knows it.
        unit: the files of tests that notice.
        no_scenario: why no scenario of the catalogue can notice, where none can.
    """

    rule: ClassVar[str]
    mode: ClassVar[str]
    unit: ClassVar[str]
    no_scenario: ClassVar[str] = ""


class RootBitsUnchecked(Break):
    """Reserved bits of a root entry are not looked at."""

    rule, mode, unit = "LRT.3", LEGACY, "test_translation.py"

    def reserved_in_root(self, entry: int) -> int:
        return 0


class ContextBitsUnchecked(Break):
    """Reserved bits of a context entry are not looked at."""

    rule, mode, unit = "LCT.3", LEGACY, "test_translation.py"

    def reserved_in_context(self, entry: int) -> int:
        return 0


class PassThroughPointerHeld(Break):
    """Pass-through holds the table pointer to the host address width, though it does not use it."""

    rule, mode, unit = "LCT.3", LEGACY, "test_formats.py"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry & ~ContextEntry.TT.mask)


class DomainWidthUnchecked(Break):
    """Domain-id bits that the unit does not have are not reserved."""

    rule, mode, unit = "LCT.3", LEGACY, "test_formats.py"
    no_scenario = "every QEMU has all 16 bits of domain-ids"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry) & ~ContextEntry.DID.mask


class AvailableBitsHeld(Break):
    """The bits of a context entry that are software's own are reserved."""

    rule, mode, unit = "LCT.3", LEGACY, "test_translation.py"

    def reserved_in_context(self, entry: int) -> int:
        return super().reserved_in_context(entry) | ContextEntry.AVAIL.mask


class DeviceTlbTypeWithoutDeviceTlb(Break):
    """Translation type 01 is taken by a unit without device-TLBs."""

    rule, mode, unit = "LCT.4", LEGACY, "test_translation.py"

    def translation_type(self, entry: int) -> TranslationType | None:
        number = ContextEntry.TT.get(entry)
        return TranslationType(number) if number == 1 else super().translation_type(entry)


class ReservedTypeIsPassThrough(Break):
    """Translation type 11 counts as pass-through."""

    rule, mode, unit = "LCT.4", LEGACY, "test_translation.py"

    def translation_type(self, entry: int) -> TranslationType | None:
        reserved = ContextEntry.TT.get(entry) == 3
        return TranslationType.PASS_THROUGH if reserved else super().translation_type(entry)


class LevelsNotOffered(Break):
    """An address width is taken whether or not the unit walks so many levels."""

    rule, mode, unit = "LCT.4", LEGACY, "test_formats.py"

    def second_stage_levels(self, address_width: int) -> int | None:
        return {1: 3, 2: 4, 3: 5}.get(address_width)


class ReservedWidthIsFourLevels(Break):
    """Address width 000 counts as four levels."""

    rule, mode, unit = "LCT.4", LEGACY, "test_formats.py"

    def second_stage_levels(self, address_width: int) -> int | None:
        return super().second_stage_levels(address_width or 2)


class TableBitsUnchecked(Break):
    """Reserved bits of second-stage entries that point to a table are not looked at."""

    rule, mode, unit = "LSL.2", LEGACY, "test_second_stage.py"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) if page else 0


class PageBitsUnchecked(Break):
    """Reserved bits of second-stage entries that map a page are not looked at."""

    rule, mode, unit = "LSL.2", LEGACY, "test_second_stage.py"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return 0 if page else super().reserved_in_second_stage(level, page=page)


class LargePageMisaligned(Break):
    """The address bits below the size of a 2 MiB page are not reserved."""

    rule, mode, unit = "LSL.2", LEGACY, "test_second_stage.py"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        low = 0x1F_F000 if page and level == 2 else 0
        return super().reserved_in_second_stage(level, page=page) & ~low


class HostWidthUnchecked(Break):
    """Address bits beyond the host address width are not reserved in second-stage entries."""

    rule, mode, unit = "LSL.2", LEGACY, "test_second_stage.py"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        beyond = (1 << 52) - (1 << self.capabilities.host_address_width)
        return super().reserved_in_second_stage(level, page=page) & ~beyond


class SnoopWithoutSnoopControl(Break):
    """SNP is taken by a unit without snoop control."""

    rule, mode, unit = "LSL.2", LEGACY, "test_second_stage.py"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) & ~(1 << 11)


class IgnoredBitHeld(Break):
    """Bit 52 of a second-stage entry, which is software's own, is reserved."""

    rule, mode, unit = "LSL.2", LEGACY, "test_second_stage.py"

    def reserved_in_second_stage(self, level: int, *, page: bool) -> int:
        return super().reserved_in_second_stage(level, page=page) | 1 << 52


class ScalableRootBitsUnchecked(Break):
    """Reserved bits of half a root entry are not looked at."""

    rule, mode, unit = "SRT.3", SCALABLE, "test_scalable.py"

    def reserved_in_scalable_root(self, entry: int) -> int:
        return 0


class ScalableContextBitsUnchecked(Break):
    """Reserved bits of a scalable-mode context entry are not looked at."""

    rule, mode, unit = "SCT.3", SCALABLE, "test_scalable.py"

    def reserved_in_scalable_context(self, entry: int) -> int:
        return 0


class DirectoryBitsUnchecked(Break):
    """Reserved bits of a PASID directory entry are not looked at."""

    rule, mode, unit = "SPD.3", SCALABLE, "test_scalable.py"

    def reserved_in_directory(self, entry: int) -> int:
        return 0


class PasidBitsUnchecked(Break):
    """Reserved bits of a PASID-table entry are not looked at."""

    rule, mode, unit = "SPT.3", SCALABLE, "test_scalable.py"

    def reserved_in_pasid(self, entry: int) -> int:
        return 0


class ReservedPasidTypeIsPassThrough(Break):
    """PGTT 101 counts as pass-through."""

    rule, mode, unit = "SPT.4", SCALABLE, "test_formats.py"

    def stages(self, entry: int) -> Stages | None:
        return Stages(0, 0) if PasidEntry.PGTT.get(entry) == 5 else super().stages(entry)


class FiveLevelsNotOffered(Break):
    """A first stage of five levels is taken by a unit that walks four."""

    rule, mode, unit = "SPT.4", SCALABLE, "test_scalable.py"

    def first_stage_levels(self, mode: int) -> int | None:
        return {0: 4, 1: 5}.get(mode)


class FirstStageBitsUnchecked(Break):
    """Reserved bits of first-stage entries are not looked at."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"

    def reserved_in_first_stage(self, level: int, *, page: bool, nested: bool) -> int:
        return 0


class FirstStageIgnoredBitHeld(Break):
    """Bit 52 of a first-stage entry, which is software's own, is reserved."""

    rule, mode, unit = "SFS.3", SCALABLE, "test_first_stage.py"

    def reserved_in_first_stage(self, level: int, *, page: bool, nested: bool) -> int:
        return super().reserved_in_first_stage(level, page=page, nested=nested) | 1 << 52


class DeliveryModeUnchecked(Break):
    """Reserved delivery modes of an interrupt-remapping entry are taken."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        return super().reserved_in_interrupt(entry, extended=extended) & ~RemappedInterruptEntry.DLM.mask


class DestinationUnchecked(Break):
    """The bits of a destination beside its 8-bit APIC id are not reserved."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        return super().reserved_in_interrupt(entry, extended=True)


class ReservedValidationIsNone(Break):
    """Source validation type 11 lets everybody pass."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupts.py"

    def source_validation(self, entry: int) -> SourceValidation | None:
        reserved = InterruptEntry.SVT.get(entry) == 3
        return SourceValidation.NONE if reserved else super().source_validation(entry)


class PostedFormAnywhere(Break):
    """A unit without posted interrupts takes entries in posted form."""

    rule, mode, unit = "IR.24", INTERRUPTS, "test_interrupt_posting.py test_interrupts.py"

    def is_posted(self, entry: int) -> bool:
        return bool(InterruptEntry.IM.get(entry))


class DescriptorBitsUnchecked(Break):
    """Reserved bits of a posted-interrupt descriptor are not looked at."""

    rule, mode, unit = "IR.28", INTERRUPTS, "test_interrupt_posting.py"

    def reserved_in_descriptor(self, entry: int, *, extended: bool) -> int:
        return 0


BREAKS: dict[str, type[Break]] = {broken.__name__: broken for broken in Break.__subclasses__()}
