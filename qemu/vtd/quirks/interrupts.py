"""Departures in interrupt remapping (spec 5)."""

from __future__ import annotations

from iommu import FaultReason, SourceId
from iommu.engine.faults.log import FaultLog
from iommu.engine.formats import Formats
from iommu.engine.interrupts.remapping import Interrupts
from iommu.engine.reasons import Blocked
from iommu.structures import InterruptEntry, RemappedInterruptEntry
from qemu.vtd.quirks.quirk import Quirk, Severity


class InterruptFaultsUnrecorded(Quirk, FaultLog):
    """A blocked interrupt request leaves no fault record."""

    id = "Q14"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 IR"
    hardware = "A blocked interrupt request is recorded, with the reason and the index."
    driver = "An interrupt that is blocked by a wrong entry disappears in QEMU without any record of the reason."
    function = "vtd_interrupt_remap_msi"
    scenarios = (
        "setup.no-translation.interrupt",
        "ir.index.beyond-the-table",
        "ir.entry.not-present",
        "ir.entry.unreadable",
        "ir.reserved.bit-12",
        "ir.reserved.bit-24",
        "ir.reserved.upper",
        "ir.source.other-device",
        "ir.source.other-bus",
        "ir.source.other-function",
        "ir.source.sq-1-bit-1",
        "ir.source.sq-2-bit-0",
        "ir.source.sq-3-device",
        "ir.source.bus-beyond",
        *(f"ir.{mode}.bits-{bits}" for mode in ("reserved", "extended") for bits in ("12-14", "24-31", "84-127")),
        *(f"ir.order.{what}" for what in ("absent-reserved", "absent-source", "reserved-source")),
        *(f"ir.data.{what}" for what in ("before-entry", "before-index")),
        *(f"ir.data.bit-{bit}" for bit in range(16, 32)),
        *(f"ir.record.{what}" for what in ("other-device", "after-dma", "before-dma", "layout")),
        *(f"ir.source.svt-3-sq-{sq}" for sq in range(4)),
        *(f"ir.source.bits-sq-{sq}" for sq in range(4)),
        *(f"ir.device.{where}" for where in ("msi", "msix", "second-function", "port", "second-port")),
        *(f"ir.device.{where}" for where in ("last-function", "high-devfn", "host-bridge", "devfn-80", "renumbered")),
        *(f"ir.device.{where}-bridge" for where in ("express", "conventional")),
        "ir.device.express-bridge-second",
        *(f"ir.bus.{what}" for what in ("one", "high")),
        *(f"ir.functions.sq-{sq}" for sq in range(3)),
        *(f"ir.dma.{what}" for what in ("not-present", "eight-bytes")),
        *(f"ir.pin.{what}" for what in ("not-present", "beyond")),
        *(f"ir.table.size-{size}" for size in range(15)),
        *(
            f"ir.change.{what}"
            for what in ("made-present", "made-valid", "made-absent", "made-absent-stale", "source")
        ),
        *(f"ir.change.{what}" for what in ("for-another-device", "was-unreadable")),
        "ir.subhandle.beyond",
        "ir.table.size-latched",
        "ir.own-message.fault",
        "migration.interrupts",
    )
    gone = (10, 0, 0)

    def report_interrupt(self, reason: FaultReason, source_id: int, index: int, fpd: int) -> bool:
        """Nothing is recorded."""
        return False


class CompatibilityAlwaysPasses(Quirk, Interrupts):
    """An interrupt request of compatibility format passes while remapping is on, whatever CFI says.

    0x25 is never reported, and GSTS.CFIS never sets.
    """

    id = "Q15"
    severity = Severity.FAILS_ON_HARDWARE
    section = "5.1.2.1"
    hardware = "With GSTS.CFIS clear, a request of compatibility format is blocked: IR.25, code 0x25."
    driver = (
        "Program every MSI and I/O APIC pin in remappable format before enabling interrupt remapping; one that "
        "was left out still works in QEMU."
    )
    function = "vtd_interrupt_remap_msi"
    scenarios = (
        "ir.compatibility.blocked",
        "ir.pin.compatibility",
        "ir.switch.compatibility-off-again",
        "ir.extended.compatibility",
        "ir.extended.compatibility-allowed",
    )

    def check_compatibility_format(self) -> None:
        """Every request passes."""


class BusRangeReversed(Quirk, Interrupts):
    """Source validation by bus takes SID 7:0 for the first bus and SID 15:8 for the last."""

    id = "Q16"
    severity = Severity.EITHER
    section = "9.9 SVT"
    hardware = "With SVT 2 the first bus is in SID 15:8 and the last in SID 7:0."
    driver = (
        "With SVT 2, an entry whose first and last bus are right blocks the interrupt in QEMU; one with the two "
        "exchanged lets it through."
    )
    function = "vtd_irte_get"
    scenarios = ("ir.source.bus-range", "ir.bus.first", "ir.bus.empty", "ir.bus.all")

    def is_bus_in_range(self, entry: int, bus: int) -> bool:
        """The two bytes of SID change places."""
        sid = InterruptEntry.SID.get(entry)
        return sid & 0xFF <= bus <= sid >> 8


class InterruptFieldsUnchecked(Quirk, Formats):
    """IM, reserved delivery modes and the unused bits of the destination are not checked in an interrupt entry.

    An entry in posted form is used as one in remapped form.
    """

    id = "Q17"
    severity = Severity.FAILS_ON_HARDWARE
    section = "9.9"
    hardware = (
        "A request that selects such an entry is blocked: IR.24, code 0x24. (IM is allowed on a unit with CAP.PI.)"
    )
    driver = "An entry with reserved bits or a reserved delivery mode works in QEMU and is blocked by hardware."
    function = "vtd_irte_get, vtd_remap_irq_get"
    scenarios = (
        "ir.reserved.delivery-mode",
        "ir.reserved.delivery-modes",
        "ir.reserved.destination",
        "ir.reserved.bits-32-39",
        "ir.reserved.bits-48-63",
        "ir.reserved.posted",
    )

    def reserved_in_interrupt(self, entry: int, *, extended: bool = True) -> int:
        """Only the reserved bits beside the fields."""
        unchecked = InterruptEntry.IM.mask | RemappedInterruptEntry.bits_of("DLM", "DST")
        return super().reserved_in_interrupt(entry, extended=extended) & ~unchecked


class ReservedBitsBeforeSource(Quirk, Interrupts):
    """The reserved bits of an interrupt entry are checked before the source is validated.

    Releases that record no interrupt fault (Q14) do not show the order.
    """

    id = "Q80"
    severity = Severity.REPORT_DIFFERS
    section = "5.1.4"
    hardware = (
        "A request of the wrong source is blocked with IR.26, code 0x26, whatever else is wrong with its entry."
    )
    driver = "An entry with a reserved bit shows as code 0x24 in QEMU, even to a device that it is not for."
    function = "vtd_irte_get"
    scenarios = ("ir.order.reserved-source",)
    first = (10, 0, 0)

    def check_entry(self, entry: int, source_id: SourceId) -> None:
        """A reserved bit comes first."""
        if InterruptEntry.P.get(entry) and self.reserved(entry):
            raise Blocked(FaultReason.IR_24)
        super().check_entry(entry, source_id)
