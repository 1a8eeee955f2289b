"""Departures in fault recording (spec 7)."""

from __future__ import annotations

from typing import Any

from iommu import DmaRequest, FaultReason
from iommu.engine.faults.log import FaultLog
from iommu.engine.reasons import Blocked
from iommu.engine.translation.translation import Translation
from iommu.registers import FRCD, FSTS, TableMode
from qemu.vtd.quirks.quirk import Quirk, Severity


class FaultAddressUnmasked(Quirk, FaultLog):
    """The fault address is recorded in full, including bits at and above the guest address width."""

    id = "Q06"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.7.6"
    hardware = "The bits of FI at and above the guest address width read as 0."
    driver = "Mask FI before comparing it: hardware does not report the upper bits that QEMU does."
    function = "vtd_report_dmar_fault"
    scenarios = (
        "legacy.width.beyond-guest-width",
        "legacy.width.beyond-39-bits",
        "scalable.width.beyond-guest-width",
        "scalable.width.beyond-39-bits",
        "scalable.canonical.bit-48",
        "scalable.canonical.bit-63",
        "scalable.canonical.bit-62-clear",
    )

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        """All 52 bits of the page number."""
        return FRCD.FI.put(super().compose(reason, request), request.address & ~0xFFF)


class ReservedContextAlwaysRecorded(Quirk, FaultLog):
    """FPD does not suppress the fault for reserved bits in a context entry.

    The table of qualified faults in intel_iommu.c omits this reason.
    """

    id = "Q07"
    severity = Severity.REPORT_DIFFERS
    section = "7.1.3 LCT.3"
    hardware = "LCT.3 is a qualified fault: FPD in the context entry suppresses its record."
    driver = "FPD does not silence a device whose context entry has reserved bits set: QEMU records its faults."
    function = "vtd_is_qualified_fault"
    scenarios = ("legacy.fpd.0b",)

    def is_qualified(self, reason: FaultReason) -> bool:
        """LCT.3 is never qualified."""
        return reason is not FaultReason.LCT_3 and super().is_qualified(reason)


# An unreadable top table is another, but has the code of an invalid context entry: see TopTableWithoutPasid.
# SGN.8 stands for LGN.4 on a unit with scalable mode: see ScalableCodeForInterruptRange.
_OF_WALKS = frozenset(
    reason for reason in FaultReason if reason.name.startswith(("LGN", "LSL")) or reason is FaultReason.SGN_8
)


class PasidWithoutPasid(Quirk, FaultLog):
    """The fault of a request without PASID is recorded with PASID 0xffff, while PP is 0.

    PV holds QEMU's internal value for "no PASID", truncated to 16 bits. A fault in the root entry or the context
    entry is recorded with 0.
    """

    id = "Q08"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.7.6"
    hardware = "PV is 0 when PP is 0."
    driver = "Ignore PV in a fault record whose PP is 0: in QEMU it is not 0."
    function = "vtd_report_dmar_fault"
    scenarios = (
        "legacy.record.all-bits",
        "fault.record.read",
        "fault.record.not-replaced",
        "fault.record.next-after-clearing",
        "legacy-on-scalable.interrupt-range-record",
    )
    gone = (11, 0, 0)
    in_top_table = False

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        """PV is all ones, in the faults of walks only."""
        record = super().compose(reason, request)
        of_walk = reason in _OF_WALKS or self.in_top_table
        return FRCD.PV.put(record, 0xFFFF) if request.pasid is None and of_walk else record


class PasidCutShort(Quirk, FaultLog):
    """The PASID in a fault record has 16 bits: the upper four are lost.

    Seen up to 10.0. Later versions do not use RID_PASID, and nothing that they emulate sends a PASID.
    """

    id = "Q88"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.7.6"
    hardware = "PV has the 20 bits of the PASID."
    driver = "For a PASID from 0x10000 on, the record of a fault names another one in QEMU."
    function = "vtd_record_frcd"
    scenarios = ("scalable.rid-pasid.record",)
    gone = (11, 0, 0)

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        """The lower 16 bits."""
        record = super().compose(reason, request)
        return FRCD.PV.put(record, FRCD.PV.get(record) & 0xFFFF)


class TopTableWithoutPasid(Quirk, Translation):
    """The fault of a top table that cannot be read is recorded with PASID 0xffff too, while PP is 0: see Q08.

    It has the code of an invalid context entry, whose record has PASID 0, but the walk reports it.
    """

    id = "Q81"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.7.6"
    hardware = "PV is 0 when PP is 0."
    driver = "Ignore PV in a fault record whose PP is 0: in QEMU it is not 0."
    function = "vtd_report_dmar_fault"
    scenarios = ("legacy.record.top-table",)
    gone = (11, 0, 0)

    def report(self, condition: Blocked, request: DmaRequest) -> bool:
        """The context entry is looked at again: if it is valid, LCT.4 is about the table that it points to."""
        if isinstance(self.faults, PasidWithoutPasid):
            self.faults.in_top_table = (
                condition.reason is FaultReason.LCT_4 and self.mode == TableMode.LEGACY and self._has_context(request)
            )
        return super().report(condition, request)

    def _has_context(self, request: DmaRequest) -> bool:
        try:
            self.legacy.read_context_of(request)
        except Blocked:
            return False
        return True


class EventKeptUntilStatusWritten(Quirk, FaultLog):
    """A fault event that is held back is not withdrawn when its record is cleared, but when FSTS is written.

    `vtd_handle_fsts_write` clears IP; the write of a fault recording register does not.
    """

    id = "Q09"
    severity = Severity.REPORT_DIFFERS
    section = "7.3"
    hardware = "When no record, overflow or error is pending any more, FECTL.IP clears and the message is not sent."
    driver = (
        "A fault event may come although nothing is pending any more, when faults are cleared while FECTL.IM is set."
    )
    function = "vtd_handle_fsts_write, vtd_update_fsts_ppf"
    scenarios = ("message.fault.serviced-while-masked", "fault.event.withdrawn-at-last-record")

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        for slot in self._records:
            slot.effect = self._on_record_written

    def _on_record_written(self, _written: int) -> None:
        """PPF follows F, and that is all."""
        if not any(FRCD.F.get(slot.value) for slot in self._records):
            self._status.value &= ~FSTS.PPF.mask
        self.after_clear()
