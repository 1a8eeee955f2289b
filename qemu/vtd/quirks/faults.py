"""Departures in fault recording (spec 7)."""

from __future__ import annotations

from typing import Any

from iommu import DmaRequest, FaultReason
from iommu.engine.faults.log import FaultLog
from iommu.registers import FRCD, FSTS
from qemu.vtd.quirks.quirk import Quirk


class FaultAddressUnmasked(Quirk, FaultLog):
    """The fault address is recorded in full, including bits at and above the guest address width.

    The specification has those bits of FI read as 0.
    """

    id = "Q06"
    section = "11.4.7.6"
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
    section = "7.1.3 LCT.3"
    scenarios = ("legacy.fpd.0b",)

    def is_qualified(self, reason: FaultReason) -> bool:
        """LCT.3 is never qualified."""
        return reason is not FaultReason.LCT_3 and super().is_qualified(reason)


# An unreadable top table is another, but has the code of an invalid context entry.
_OF_WALKS = frozenset(reason for reason in FaultReason if reason.name.startswith(("LGN", "LSL")))


class PasidWithoutPasid(Quirk, FaultLog):
    """The fault of a request without PASID is recorded with PASID 0xffff, while PP is 0.

    Observed up to 10.0; 11.1 writes 0.
    """

    id = "Q08"
    section = "11.4.7.6"
    scenarios = ("legacy.record.all-bits",)
    gone = (11, 0, 0)

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        """PV holds QEMU's internal value for "no PASID", truncated to 16 bits; in the faults of walks only."""
        record = super().compose(reason, request)
        return FRCD.PV.put(record, 0xFFFF) if request.pasid is None and reason in _OF_WALKS else record


class EventKeptUntilStatusWritten(Quirk, FaultLog):
    """A fault event that is held back is not withdrawn when its record is cleared, but when FSTS is written.

    `vtd_handle_fsts_write` clears IP; the write of a fault recording register does not.
    """

    id = "Q09"
    section = "7.3"
    scenarios = ("message.fault.serviced-while-masked",)

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        for slot in self._records:
            slot.effect = self._on_record_written

    def _on_record_written(self, _written: int) -> None:
        """PPF follows F, and that is all."""
        if not any(FRCD.F.get(slot.value) for slot in self._records):
            self._status.value &= ~FSTS.PPF.mask
        self.after_clear()
