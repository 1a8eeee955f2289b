"""Departures in descriptors of 256 bits and in those of scalable mode (spec 6.5.2)."""

from __future__ import annotations

from iommu.engine.invalidation.errors import QueueError
from iommu.engine.invalidation.queue import Queue
from iommu.registers import Granularity, QueueFault
from iommu.structures import Descriptor, DescriptorType, PageResponseDescriptor, PasidIotlbDescriptor
from qemu.vtd.quirks.quirk import Quirk, Severity


class PasidMaskLimited(Quirk, Queue):
    """A PASID-based IOTLB descriptor with an address mask beyond CAP.MAMV is refused."""

    id = "Q69"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.2.4"
    hardware = "CAP.MAMV limits invalidations of second-stage pages only."
    driver = "In QEMU a PASID-based invalidation of more than 2**MAMV pages stops the queue."
    function = "vtd_process_piotlb_desc"
    scenarios = ("scalable.queue.pasid-iotlb-large-mask",)
    first = (10, 0, 0)

    def invalidate_pasid_translations(self, command: PasidIotlbDescriptor) -> None:
        """See CacheCommands."""
        if command.G == Granularity.SELECTIVE and command.AM > self.capabilities.max_address_mask:
            raise QueueError(QueueFault.RESERVED)
        super().invalidate_pasid_translations(command)


class PasidDeviceTlbAccepted(Quirk, Queue):
    """A PASID-based device-TLB descriptor is accepted without ECAP.DT, and does nothing."""

    id = "Q70"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2.6"
    hardware = "Without ECAP.DT there is no such descriptor, and the queue stops."
    driver = "Invalidating device-TLBs by PASID without a look at ECAP.DT works in QEMU; on hardware the queue stops."
    function = "vtd_process_device_piotlb_desc"
    scenarios = ("scalable.queue.device-not-offered",)
    first = (10, 0, 0)

    def carry_out(self, raw: int, bits: int) -> None:
        """See Queue. Its reserved bits are checked."""
        number = Descriptor.TYPE_HIGH.get(raw) << 4 | Descriptor.TYPE.get(raw)
        if number != DescriptorType.PASID_DEVICE_TLB or self.capabilities.device_tlb or bits == 128:
            super().carry_out(raw, bits)
        elif raw & self._reserved[number] or raw >> 128:
            raise QueueError(QueueFault.RESERVED)


class NarrowQueueAccepted(Quirk, Queue):
    """Scalable mode takes descriptors of 128 bits too."""

    id = "Q71"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2"
    hardware = "Scalable mode needs descriptors of 256 bits; with others the queue stops."
    driver = "A queue of 128-bit descriptors works in QEMU in scalable mode, and not on hardware."
    function = "vtd_update_iq_dw"
    scenarios = ("scalable.queue.narrow",)

    def check_mode(self) -> None:
        """Neither the table mode nor the width is checked."""


class PasidCacheDescriptorUnchecked(Quirk, Queue):
    """A PASID-cache descriptor is accepted whatever it holds, in 128 bits and in legacy mode too, and does nothing.

    The unit has to have scalable mode. There is no PASID cache. Seen on 10.0.
    """

    id = "Q72"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2.2"
    hardware = "It exists in scalable mode and with 256 bits only; reserved bits and values stop the queue."
    driver = "A malformed or misplaced PASID-cache descriptor does no harm in QEMU; on hardware the queue stops."
    function = "vtd_process_inv_desc"
    scenarios = (
        "scalable.queue.reserved.pasid-cache.lower",
        "scalable.queue.reserved.pasid-cache.upper",
        "scalable.queue.granularity.pasid-cache-2",
        "scalable.queue.in-legacy-mode.pasid-cache",
        "setup.scalable-unit.types-128",
        "setup.scalable-unit.types-256",
    )
    first = (8, 0, 0)
    gone = (11, 0, 0)

    def carry_out(self, raw: int, bits: int) -> None:
        """See Queue. The unit has to have scalable mode."""
        number = Descriptor.TYPE_HIGH.get(raw) << 4 | Descriptor.TYPE.get(raw)
        if number != DescriptorType.PASID_CACHE or not self.capabilities.scalable_mode:
            super().carry_out(raw, bits)


class ScalableDescriptorsIgnored(Quirk, Queue):
    """PASID-cache and PASID-based IOTLB descriptors are accepted in any mode and width, unchecked, and do nothing."""

    id = "Q73"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2"
    hardware = "They exist in scalable mode and with 256 bits only, and reserved bits stop the queue."
    driver = (
        "Malformed or misplaced PASID-cache and PASID-based IOTLB descriptors do no harm in QEMU; on hardware the "
        "queue stops."
    )
    function = "vtd_process_inv_desc"
    scenarios = (
        "scalable.cache.second.by-pasid",
        "scalable.queue.reserved.pasid-iotlb.lower",
        "scalable.queue.reserved.pasid-cache.lower",
        "scalable.queue.granularity.pasid-iotlb-0",
        "scalable.queue.granularity.pasid-iotlb-1",
        "scalable.queue.granularity.pasid-cache-2",
        "scalable.queue.in-legacy-mode.pasid-iotlb",
        "scalable.queue.in-legacy-mode.pasid-cache",
        "scalable.queue.not-offered.pasid-iotlb",
        "scalable.queue.not-offered.pasid-cache",
        "queue.types.low",
        "setup.scalable-unit.types-128",
        "setup.scalable-unit.types-256",
    )
    gone = (8, 0, 0)

    def carry_out(self, raw: int, bits: int) -> None:
        """See Queue."""
        if Descriptor.TYPE.get(raw) not in (DescriptorType.PASID_IOTLB, DescriptorType.PASID_CACHE):
            super().carry_out(raw, bits)


class NoPasidDeviceTlbDescriptor(Quirk, Queue):
    """PASID-based device-TLB descriptors are refused, on a unit with device-TLBs too."""

    id = "Q76"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.2.6"
    hardware = "A unit with scalable mode and ECAP.DT has PASID-based device-TLB descriptors."
    driver = "In QEMU 7 a PASID-based invalidation of a device-TLB stops the queue."
    function = "vtd_process_inv_desc"
    scenarios = ("scalable.device-tlb.no-answer",)
    gone = (10, 0, 0)

    def has_type(self, number: int, bits: int) -> bool:
        """Not this one."""
        return number != DescriptorType.PASID_DEVICE_TLB and super().has_type(number, bits)


class ResponseNeedsPasid(Quirk, Queue):
    """A page response without PASID is refused."""

    id = "Q78"
    severity = Severity.FAILS_IN_QEMU
    section = "7.6.1"
    hardware = "PP says whether the response carries a PASID: it is as in the page request, which may have none."
    driver = "In QEMU the response to a page request without PASID stops the queue."
    function = "vtd_process_page_group_response_desc"
    scenarios = ("setup.page-requests.response-plain",)
    # No QEMU before has page requests.
    first = (11, 0, 0)

    def respond(self, command: PageResponseDescriptor) -> None:
        """It has to have PP."""
        if not command.PP:
            raise QueueError(QueueFault.RESERVED)
        super().respond(command)


class ResponseUpperHalfUnchecked(Quirk, Queue):
    """The upper half of a page response is not checked."""

    id = "Q79"
    severity = Severity.FAILS_ON_HARDWARE
    section = "7.6.1"
    hardware = "Bits 255:128 of the descriptor are reserved: one that is set stops the queue."
    driver = "A page response with anything in its upper half works in QEMU; on hardware the queue stops."
    function = "vtd_process_page_group_response_desc"
    scenarios = ("setup.page-requests.response-reserved",)
    # No QEMU before has page requests.
    first = (11, 0, 0)

    def carry_out(self, raw: int, bits: int) -> None:
        """Without the upper half."""
        number = Descriptor.TYPE_HIGH.get(raw) << 4 | Descriptor.TYPE.get(raw)
        super().carry_out(raw & (1 << 128) - 1 if number == DescriptorType.PAGE_RESPONSE else raw, bits)


class ResponseAlwaysAccepted(Quirk, Queue):
    """A page response is accepted on every unit, in every mode and width."""

    id = "Q83"
    severity = Severity.FAILS_ON_HARDWARE
    section = "7.6.1"
    hardware = "The type exists with ECAP.PRS, in scalable mode and with 256 bits only. Elsewhere it stops the queue."
    driver = "A page response that no page request was made for works in QEMU; on hardware the queue stops."
    function = "vtd_process_inv_desc"
    scenarios = ("scalable.queue.page-response-not-offered-pasid", "scalable.queue.page-response-in-legacy-mode")
    # No QEMU before has page requests.
    first = (11, 0, 0)

    def has_type(self, number: int, bits: int) -> bool:
        """Type 9 needs nothing."""
        return number == DescriptorType.PAGE_RESPONSE or super().has_type(number, bits)
