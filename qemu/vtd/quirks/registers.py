"""Departures in what registers keep and show (spec 11)."""

from __future__ import annotations

import signal
from typing import Any

from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.register_file import RegisterFile, Slot
from iommu.engine.translation.translation import Translation
from iommu.fields import Rule
from iommu.registers import (
    FECTL,
    FEUADDR,
    GCMD,
    GSTS,
    IEADDR,
    IECTL,
    IEUADDR,
    IQA,
    IRTA,
    PECTL,
    PQA,
    RTADDR,
    Register,
    TableMode,
)
from qemu.vtd.errors import QemuDied
from qemu.vtd.quirks.quirk import Quirk, Severity


class PointersKeepAllBits(Quirk, RegisterFile):
    """RTADDR, IRTA and PQA read back address bits beyond the host address width.

    They are masked only where the pointer is used, in `vtd_root_table_setup` and `vtd_interrupt_remap_table_setup`.
    """

    id = "Q37"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.5, 11.4.10, 11.4.11.3"
    hardware = "Address bits from the host address width on are not implemented: they read as 0."
    driver = "A driver that finds the width by writing ones and reading them back finds 64 bits in QEMU."
    function = "vtd_init"
    scenarios = (
        "registers.bits.rtaddr",
        "registers.bits.irta",
        "setup.extended.irta",
        "setup.page-requests.pqa",
    )

    def __init__(self, *parts: Any) -> None:
        self._beyond: dict[Slot, int] = {}
        super().__init__(*parts)

    def store(self, slot: Slot, value: int, reach: int) -> None:
        """The bits beyond the width are kept apart, since nothing uses them."""
        if slot.layout in (RTADDR, IRTA, PQA):
            width = self.capabilities.host_address_width
            beyond = (1 << 64) - (1 << width) & reach
            self._beyond[slot] = self._beyond.get(slot, 0) & ~beyond | value & beyond
        super().store(slot, value, reach)

    def shown(self, slot: Slot) -> int:
        """With the bits beyond the width."""
        return super().shown(slot) | self._beyond.get(slot, 0)


class ExtendedModeAlwaysWritable(Quirk, RegisterFile):
    """IRTA.EIME can be set on a unit that does not offer extended interrupts."""

    id = "Q38"
    severity = Severity.FAILS_ON_HARDWARE
    section = "11.4.10"
    hardware = "Without ECAP.EIM, IRTA.EIME is reserved and stays 0: destinations have 8 bits."
    driver = (
        "A driver that sets EIME without looking at ECAP.EIM gets 32-bit destinations in QEMU and not on hardware."
    )
    function = "vtd_init, vtd_interrupt_remap_table_setup"
    scenarios = ("registers.bits.irta",)

    def stored_bits(self, layout: type[Register]) -> int:
        """EIME is always stored."""
        return super().stored_bits(layout) | (IRTA.EIME.mask if layout is IRTA else 0)

    def hidden_bits(self, layout: type[Register]) -> int:
        """EIME is always shown."""
        return super().hidden_bits(layout) & ~(IRTA.EIME.mask if layout is IRTA else 0)


class QueueAddressShownOnceOn(Quirk, RegisterFile):
    """IQA reads as 0, apart from DW and QS, until the queue is turned on; then it shows the address in use."""

    id = "Q39"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.9.3"
    hardware = "IQA reads back as software wrote it."
    driver = "A driver that checks IQA before it sets QIE finds 0 in QEMU."
    function = "vtd_mem_read"
    scenarios = ("registers.bits.iqa", "registers.halves.iqa")

    def __init__(self, *parts: Any) -> None:
        self._in_use, self._on = 0, 0
        super().__init__(*parts)

    def write(self, offset: int, value: int, size: int) -> None:
        """The address is taken over when QIES sets."""
        super().write(offset, value, size)
        before, self._on = self._on, GSTS.QIES.get(self[GSTS].value)
        if self._on and not before:
            self._in_use = IQA.IQA.get(self[IQA].value)

    def shown(self, slot: Slot) -> int:
        """The address in use, whatever was written."""
        value = super().shown(slot)
        return value & ~IQA.IQA.mask | self._in_use if slot.layout is IQA else value


class DescriptorWidthNotShown(Quirk, RegisterFile):
    """IQA.DW reads as 0."""

    id = "Q40"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.9.3"
    hardware = "IQA reads back as software wrote it, DW included."
    driver = "A driver that reads IQA to learn the width of its descriptors takes them for 128 bits in QEMU."
    function = "vtd_mem_read"
    scenarios = ("registers.bits.iqa", "registers.halves.iqa")
    gone = (10, 0, 0)

    def hidden_bits(self, layout: type[Register]) -> int:
        """DW is hidden."""
        return super().hidden_bits(layout) | (IQA.DW.mask if layout is IQA else 0)


class CompatibilityStatusNeverSets(Quirk, RegisterFile):
    """GSTS.CFIS stays 0 whatever GCMD.CFI says."""

    id = "Q41"
    severity = Severity.FAILS_IN_QEMU
    section = "11.4.4.2"
    hardware = "CFIS shows whether interrupt requests of compatibility format pass."
    driver = "A driver that sets CFI and waits for CFIS never goes on in QEMU."
    function = "vtd_handle_gcmd_write"
    scenarios = ("registers.gcmd.compatibility-format",)

    def shown(self, slot: Slot) -> int:
        """GSTS without CFIS."""
        return super().shown(slot) & ~(GSTS.CFIS.mask if slot.layout is GSTS else 0)


class TableModeUnchecked(Quirk, Translation):
    """A table mode that the unit does not have is taken for legacy mode, or for scalable mode where bit 10 is set.

    Only bit 10 of RTADDR is looked at, and only on a unit with scalable mode.
    """

    id = "Q42"
    severity = Severity.FAILS_ON_HARDWARE
    section = "7.1.3 RTA.1"
    hardware = "Every request is blocked with fault 0x30 while RTADDR holds a table mode that the unit does not have."
    driver = "A driver that sets a wrong table mode works in QEMU; on hardware all of its DMA is blocked."
    function = "vtd_update_scalable_state"
    scenarios = (
        "registers.rtaddr.mode-scalable",
        "registers.rtaddr.mode-reserved",
        "registers.rtaddr.mode-abort",
        "setup.scalable-unit.mode-reserved",
        "scalable.mode.reserved",
        "scalable.mode.abort-not-offered",
        "scalable.mode.not-offered",
        *(f"queue.error.{what}mode-{mode}" for what in ("", "code-") for mode in ("reserved", "scalable", "abort")),
    )

    def set_root_table(self, address: int, mode: int) -> None:
        """Legacy or scalable mode, by one bit."""
        scalable = self.capabilities.scalable_mode and mode & TableMode.SCALABLE
        super().set_root_table(address, TableMode.SCALABLE if scalable else TableMode.LEGACY)


class InterruptTableAlwaysThere(Quirk, RegisterFile):
    """IRTA can be written, and SIRTP sets IRTPS, on a unit without interrupt remapping."""

    id = "Q43"
    severity = Severity.EITHER
    section = "11.4.4.1, 11.4.10"
    hardware = "Without ECAP.IR there is no IRTA, and SIRTP is reserved."
    driver = "A driver that looks for IRTPS instead of ECAP.IR believes that QEMU remaps interrupts."
    function = "vtd_handle_gcmd_write"
    scenarios = ("setup.no-remapping.commands", "setup.no-remapping.table", "ir.none.passes")
    kept = IRTA.mask_of(Rule.RW)

    def __init__(self, *parts: Any) -> None:
        self._pointer, self._latched = 0, 0
        super().__init__(*parts)

    def write(self, offset: int, value: int, size: int) -> None:
        """IRTA is stored, and SIRTP noticed."""
        super().write(offset, value, size)
        if not self.capabilities.interrupt_remapping:
            if offset & -8 == IRTA.offset:
                shift = 8 * (offset - IRTA.offset)
                reach = ((1 << 8 * size) - 1) << shift & self.kept
                self._pointer = self._pointer & ~reach | value << shift & reach
            if offset == GCMD.offset and GCMD.SIRTP.get(value):
                self._latched = GSTS.IRTPS.mask

    def read(self, offset: int, size: int) -> int:
        """IRTA reads back."""
        if self.capabilities.interrupt_remapping or offset & -8 != IRTA.offset:
            return super().read(offset, size)
        return self._pointer >> 8 * (offset - IRTA.offset) & (1 << 8 * size) - 1

    def shown(self, slot: Slot) -> int:
        """With IRTPS."""
        return super().shown(slot) | (self._latched if slot.layout is GSTS else 0)


class UpperAddressesReadOnly(Quirk, RegisterFile):
    """FEUADDR and IEUADDR cannot be written, also on a unit with extended interrupts."""

    id = "Q44"
    severity = Severity.FAILS_IN_QEMU
    section = "11.4.7.5, 11.4.9.8"
    hardware = "With ECAP.EIM they hold the upper address of the messages: bits 31:8 of the destination."
    driver = "The unit's own messages never reach a processor with an id beyond 255 in QEMU."
    function = "vtd_init, vtd_generate_interrupt"
    scenarios = ("setup.extended.feuaddr", "setup.extended.ieuaddr", "setup.extended.message")
    # Without KVM, 7.2 has no extended interrupts.
    first = (10, 0, 0)

    def stored_bits(self, layout: type[Register]) -> int:
        """None of theirs."""
        return 0 if layout in (FEUADDR, IEUADDR) else super().stored_bits(layout)


class PageRequestEventUnmasked(Quirk, RegisterFile):
    """The page-request event is unmasked after reset: PECTL.IM is 0."""

    id = "Q45"
    severity = Severity.EITHER
    section = "11.4.11.5"
    hardware = "After reset the event is masked, as the others are."
    driver = "Mask the page-request event before using its queue: in QEMU it is not masked after reset."
    function = "vtd_init"
    scenarios = ("setup.page-requests.reset",)
    # No QEMU before has page requests.
    first = (11, 0, 0)

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        if control := self.get(PECTL):
            control.value = 0


class LongWritesAbort(Quirk, RegisterFile):
    """QEMU aborts on a write of 64 bits to FECTL, IECTL or IEADDR.

    An assertion says that these registers are written in 32 bits. 11.1 writes the lower half and ignores the other.
    """

    id = "Q74"
    severity = Severity.FAILS_IN_QEMU
    section = "11.2"
    hardware = (
        "Software is expected to write a register of 32 bits in 32 bits. What a longer write does is not defined; a "
        "unit may take it apart into two."
    )
    driver = "One write of 64 bits to FECTL, IECTL or IEADDR ends QEMU, and with it the whole virtual machine."
    function = "vtd_mem_write"
    scenarios = ("registers.access.pair-fectl", "registers.access.pair-iectl", "registers.access.pair-ieaddr")
    gone = (11, 0, 0)

    def write(self, offset: int, value: int, size: int) -> None:
        """The end of QEMU is an outcome like any other."""
        if size == 8 and offset in (FECTL.offset, IECTL.offset, IEADDR.offset):
            raise QemuDied(-signal.SIGABRT)
        super().write(offset, value, size)


class RegistersServeEveryMode(Quirk, Invalidation):
    """CCMD and IOTLB invalidate in scalable mode too."""

    id = "Q75"
    severity = Severity.FAILS_ON_HARDWARE
    section = "11.4.6.1, 11.4.6.3"
    hardware = "Both serve legacy mode alone. In scalable mode they do nothing, and CAIG and IAIG report 0."
    driver = (
        "A driver that invalidates by register in scalable mode works in QEMU; on hardware old contexts and "
        "translations stay in use. Scalable mode needs the queue."
    )
    function = "vtd_handle_ccmd_write, vtd_handle_iotlb_write"
    scenarios = (
        "scalable.command.contexts-global",
        "scalable.command.contexts-device",
        "scalable.command.translations",
    )

    def registers_serve_mode(self) -> bool:
        """Every mode."""
        return True


class TranslationNeverOn(Quirk, RegisterFile):
    """On a unit whose CAP.SAGAW is 0 (dma-translation=off), TE cannot be set: DMA is never translated."""

    id = "Q77"
    severity = Severity.FAILS_IN_QEMU
    section = "11.4.4.1"
    hardware = (
        "TE sets TES on every unit. CAP.SAGAW is about second-stage tables: where it is 0, a context entry that asks "
        "for one is wrong (0x03), and a first stage translates."
    )
    driver = "With dma-translation=off a driver that sets TE never sees TES; devices reach all of memory."
    function = "vtd_handle_gcmd_write"
    scenarios = tuple(
        f"setup.no-translation.{what}"
        for what in ("empty-root", "3-levels", "4-levels", "pass-through", "first-stage")
    )

    def write(self, offset: int, value: int, size: int) -> None:
        """Without TE."""
        if not self.capabilities.levels and offset <= GCMD.offset < offset + size:
            value &= ~(GCMD.TE.mask << 8 * (GCMD.offset - offset))
        super().write(offset, value, size)
