"""Departures in interrupt requests and in what goes with them: who sends them, what they hold (spec 3.14, 5.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu import DmaRequest, FaultReason, InterruptOutcome, InterruptRequest, Outcome, SourceId
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.reasons import Blocked
from iommu.registers import IRTA
from qemu.vtd.quirks.quirk import Quirk, Severity
from qemu.vtd.topology import IO_APIC

_NOBODY = SourceId.of(0xFFFF)


class RequestsWithoutSource(Quirk, Interrupts):
    """Interrupt requests of the I/O APIC, and those that a device writes by ordinary DMA, have no source-id.

    Only MSI and MSI-X carry it. Entries do not check the source of the others, and faults are recorded for ff:1f.7.
    """

    id = "Q23"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.9 SVT"
    hardware = "Every request carries a source-id, the I/O APIC's being the one that the DMAR gives; SVT checks it."
    driver = (
        "An entry with a wrong source-id for the I/O APIC works in QEMU and blocks on hardware. QEMU does not "
        "stop what a device forges by DMA."
    )
    function = "vtd_mem_ir_write"
    scenarios = (
        "ir.dma.other-device",
        "ir.dma.other-bus",
        "ir.dma.not-present",
        "ir.dma.eight-bytes",
        "ir.pin.other-source",
        "ir.pin.other-bus",
        "ir.pin.not-present",
        "ir.pin.beyond",
    )

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._written = 0

    def message(self, request: DmaRequest) -> Outcome:
        """What follows are requests by ordinary DMA, one for each DWORD."""
        outcome = super().message(request)
        self._written = request.length // 4 if outcome.interrupt else 0
        return outcome

    def remap(self, request: InterruptRequest) -> InterruptOutcome:
        """The request of nobody, if it is not an MSI."""
        nobody = self._written > 0 or request.source_id == IO_APIC
        self._written -= self._written > 0
        return super().remap(request._replace(source_id=_NOBODY) if nobody else request)

    def validate_source(self, entry: int, source_id: SourceId) -> None:
        """Nobody's requests are not checked."""
        if source_id != _NOBODY:
            super().validate_source(entry, source_id)


class LongWritesAreRequests(Quirk, Interrupts):
    """A write of eight bytes in the interrupt range is two interrupt requests.

    QEMU's memory core splits an access that is longer than a region allows.
    """

    id = "Q24"
    severity = Severity.REPORT_DIFFERS
    section = "3.14"
    hardware = "Only a write of one DWORD is an interrupt request; other writes in the range are errors."
    driver = (
        "A device that writes eight bytes to the interrupt range sends two interrupts in QEMU; do not rely on it."
    )
    function = "vtd_mem_ir_ops"
    scenarios = ("ir.dma.eight-bytes",)

    def is_message(self, request: DmaRequest) -> bool:
        """Whether it writes whole DWORDs."""
        return request.length % 4 == 0 and super().is_message(replace(request, length=4))


class DataCheckedLast(Quirk, Interrupts):
    """Reserved bits in the data of a request are found after the entry has been read and checked."""

    id = "Q25"
    severity = Severity.REPORT_DIFFERS
    section = "5.1.4"
    hardware = "The request is checked before the index is computed: 0x20 comes before 0x21 to 0x26."
    driver = "A malformed interrupt request is recorded in QEMU with what is wrong in its entry, if anything is."
    function = "vtd_interrupt_remap_msi"
    scenarios = ("ir.data.before-entry", "ir.data.before-index")

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._request = InterruptRequest(_NOBODY, 0xFEE0_0000, 0)

    def check_request(self, request: InterruptRequest) -> None:
        """Not yet."""
        self._request = request

    def deliver(self, raw: int) -> InterruptOutcome:
        """Now; the record has index 0."""
        try:
            super().check_request(self._request)
        except Blocked as condition:
            recorded = self.faults.report_interrupt(condition.reason, self._request.source_id, 0, 0)
            return InterruptOutcome(fault=FaultReason(condition.reason), recorded=recorded)
        return super().deliver(raw)


class ExtendedModeNotOffered(Quirk, Interrupts):
    """EIME selects 32-bit destinations even in a unit without ECAP.EIM."""

    id = "Q26"
    severity = Severity.EITHER
    section = "11.4.10"
    hardware = "Without ECAP.EIM, EIME is reserved, and a destination is the 8 bits 15:8 of DST."
    driver = "A driver that sets EIME without looking at ECAP.EIM reaches other processors in QEMU than on hardware."
    function = "vtd_interrupt_remap_table_setup"
    scenarios = ("ir.table.without-eim",)

    def set_table(self, irta: int) -> None:
        """Whatever the unit offers."""
        super().set_table(irta)
        self.extended = bool(IRTA.EIME.get(irta))
