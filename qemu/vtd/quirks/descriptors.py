"""Departures in which descriptors the invalidation queue accepts, and in turning it on and off (spec 6.5.2)."""

from __future__ import annotations

from typing import Any

from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.selector import Selector
from iommu.structures import Descriptor, DescriptorType, InterruptDescriptor
from qemu.vtd.quirks.quirk import Quirk, Severity

_PASID_TYPES = (DescriptorType.PASID_IOTLB, DescriptorType.PASID_CACHE)


class InterruptDescriptorUnchecked(Quirk, Queue):
    """The reserved bits of an interrupt-entry invalidation descriptor are not checked."""

    id = "Q46"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2.7"
    hardware = "A reserved bit that is set stops the queue with IQE."
    driver = "An interrupt-entry invalidation with a reserved bit set works in QEMU; on hardware the queue stops."
    function = "vtd_process_inv_iec_desc"
    scenarios = (
        "queue.reserved.interrupt-below-type",
        "queue.reserved.interrupt-above-type",
        "queue.reserved.interrupt-high",
        "queue.reserved.interrupt-upper-half",
        "scalable.queue.reserved.interrupt.lower",
    )
    gone = (10, 0, 0)

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._reserved[DescriptorType.INTERRUPT] = 0


class IndexMaskUnlimited(Quirk, Queue):
    """An interrupt-entry invalidation descriptor may have an index mask beyond ECAP.MHMV."""

    id = "Q47"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2.7"
    hardware = "An index mask beyond ECAP.MHMV stops the queue with IQE."
    driver = "An index mask beyond ECAP.MHMV works in QEMU; on hardware the queue stops."
    function = "vtd_process_inv_iec_desc"
    scenarios = ("queue.values.index-mask",)

    def select_interrupts(self, command: InterruptDescriptor) -> Selector | None:
        """Any mask."""
        return Selector.interrupts(command.IIDX, command.IM) if command.G else super().select_interrupts(command)


class TypeHighIgnored(Quirk, Queue):
    """Bits 11:9 do not count as part of the type: descriptors of unknown types are taken for others. Seen on 7.2.

    The types that have these bits among their reserved ones are refused for that reason.
    """

    id = "Q48"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2"
    hardware = "The type has 7 bits, of which 11:9 are 0 in every type that exists; others stop the queue with IQE."
    driver = "A descriptor with one of bits 11:9 set may work in QEMU; on hardware the queue stops."
    function = "vtd_process_inv_desc"
    scenarios = ("queue.types.high",)
    gone = (10, 0, 0)

    def carry_out(self, raw: int, bits: int) -> None:
        """The bits are dropped where nothing else refuses them."""
        if Descriptor.TYPE.get(raw) in (DescriptorType.INTERRUPT, *_PASID_TYPES):
            raw &= ~Descriptor.TYPE_HIGH.mask
        super().carry_out(raw, bits)


class QueueStaysOn(Quirk, Queue):
    """The queue does not turn off unless it is empty and its last descriptor was a wait descriptor."""

    id = "Q49"
    severity = Severity.FAILS_IN_QEMU
    section = "11.4.4.1"
    hardware = "QIES clears once GCMD.QIE is 0 and what was submitted has been carried out."
    driver = "A driver that turns the queue off before it has used it waits forever in QEMU for QIES to clear."
    function = "vtd_queued_inv_disable_check"
    scenarios = ("queue.off.empty",)

    def __init__(self, *parts: Any) -> None:
        self._last = 0
        super().__init__(*parts)

    def carry_out(self, raw: int, bits: int) -> None:
        """The type is kept in mind."""
        self._last = Descriptor.TYPE.get(raw)
        super().carry_out(raw, bits)

    def switch(self, on: int) -> bool:
        """GCMD.QIE = 0 may have no effect."""
        ended = self._head.value == self._tail.value and self._last == DescriptorType.WAIT
        return super().switch(on or (self.enabled and not ended))


class DescriptorWidthNeedsScalable(Quirk, Queue):
    """IQA.DW has no effect on a unit without scalable mode: descriptors are taken for 128 bits."""

    id = "Q50"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2"
    hardware = "Without scalable mode, a queue of 256-bit descriptors stops at the first with IQE."
    driver = "With IQA.DW set and no scalable mode, QEMU takes descriptors in halves; on hardware the queue stops."
    function = "vtd_update_iq_dw"
    scenarios = ("queue.error.width-without-scalable",)

    def width(self) -> int:
        """128 bits without scalable mode."""
        return super().width() if self.capabilities.scalable_mode else 16


class InterruptDescriptorAccepted(Quirk, Queue):
    """Interrupt-entry invalidation descriptors are accepted on a unit without interrupt remapping."""

    id = "Q51"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2.7"
    hardware = "Without ECAP.IR the type does not exist: the queue stops with IQE."
    driver = "Invalidating interrupt entries without a look at ECAP.IR works in QEMU; on hardware the queue stops."
    function = "vtd_process_inv_desc"
    scenarios = ("setup.no-remapping.descriptor",)

    def has_type(self, number: int, bits: int) -> bool:
        """Type 4 is always there."""
        return number == DescriptorType.INTERRUPT or super().has_type(number, bits)


class UnalignedTailIgnored(Quirk, Queue):
    """In a queue of 256-bit descriptors, a tail in the middle of one is ignored."""

    id = "Q52"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.9.2"
    hardware = "A tail that is not a multiple of the descriptors' width stops the queue with IQE."
    driver = (
        "A driver that writes a tail that is not aligned waits in QEMU without an error; on hardware it gets one."
    )
    function = "vtd_handle_iqt_write"
    scenarios = (
        "setup.scalable-unit.tail-unaligned",
        "queue.error.code-alignment",
        "scalable.queue.tail-misaligned",
    )
    gone = (10, 0, 0)

    def tail(self) -> int:
        """Nothing is submitted."""
        return self.head() if self._tail.value % self.width() else super().tail()


class UpperHalfUnchecked(Quirk, Queue):
    """The upper half of a 256-bit descriptor is not checked."""

    id = "Q53"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2"
    hardware = "The upper half of every 256-bit descriptor is reserved: a bit that is set stops the queue with IQE."
    driver = "Garbage in the upper half of a 256-bit descriptor does no harm in QEMU; on hardware the queue stops."
    function = "vtd_get_inv_desc"
    scenarios = (
        "setup.scalable-unit.upper-half-context",
        "setup.scalable-unit.upper-half-iotlb",
        "setup.scalable-unit.upper-half-interrupt",
        "setup.scalable-unit.upper-half-wait",
        "queue.error.code-upper-half",
        *(
            f"scalable.queue.reserved.{kind}.upper"
            for kind in ("context", "iotlb", "interrupt", "wait", "pasid-iotlb", "pasid-cache")
        ),
    )
    gone = (10, 0, 0)

    def carry_out(self, raw: int, bits: int) -> None:
        """The lower half alone."""
        super().carry_out(raw & (1 << 128) - 1, bits)


class ScalableTypesInLegacyMode(Quirk, Queue):
    """On a unit with scalable mode, 256-bit descriptors of types 6, 7 and 8 are accepted in legacy mode too."""

    id = "Q54"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2"
    hardware = "In legacy mode these types do not exist: the queue stops with IQE."
    driver = "Descriptors of types 6, 7 and 8 in legacy mode work in QEMU; on hardware the queue stops."
    function = "vtd_process_inv_desc"
    scenarios = (
        "setup.scalable-unit.types-256",
        "scalable.queue.in-legacy-mode.pasid-iotlb",
        "scalable.queue.in-legacy-mode.pasid-cache",
    )
    first = (10, 0, 0)
    types = range(DescriptorType.PASID_IOTLB, DescriptorType.PASID_DEVICE_TLB + 1)

    def has_type(self, number: int, bits: int) -> bool:
        """Only the width counts."""
        wide = bits == 256 and self.capabilities.scalable_mode
        return (wide and number in self.types) or super().has_type(number, bits)
