"""Fault recording and fault events (spec 7.2, 7.3)."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.ats import PageRequest
from iommu.engine.faults.events import Event, Message
from iommu.engine.policy import Policy
from iommu.engine.reasons import FaultReason
from iommu.engine.register_file import RegisterFile
from iommu.engine.request import Access, DmaRequest
from iommu.registers import FAULT_EVENT, FRCD, FSTS


class FaultLog:
    """The fault recording registers, FSTS, and the fault event.

    `after_clear` is called after software has cleared bits of these: the invalidation queue may continue then.

    Args:
        registers: the unit's registers; this class gives FSTS and FRCD their behaviour.
        policy: only `compress_faults` is used.
        send: called with each fault event message.
    """

    def __init__(self, registers: RegisterFile, policy: Policy, send: Callable[[Message], None]) -> None:
        self.policy = policy
        self._records = registers.all(FRCD)
        self._has_device_tlb = registers.capabilities.device_tlb
        self._address_mask = (1 << registers.capabilities.address_width) - 1
        self._status = registers[FSTS]
        self._event = Event(registers, FAULT_EVENT, send)
        self._next = 0
        self.after_clear: Callable[[], None] = lambda: None
        for slot in self._records:
            slot.effect = self._on_clear
        self._status.effect = self._on_clear

    def report(self, reason: FaultReason, request: DmaRequest, fpd: int) -> bool:
        """Report a fault of a DMA request. Returns whether it was recorded.

        Args:
            fpd: the FPD bit that applies to the request.
        """
        return self._report(reason, self.compose(reason, request), fpd)

    def report_interrupt(self, reason: FaultReason, source_id: int, index: int, fpd: int) -> bool:
        """Report a fault of interrupt remapping. Returns whether it was recorded.

        Args:
            index: the interrupt_index; 0 for faults that come before it is known.
            fpd: the FPD bit of the interrupt-remapping entry.
        """
        return self._report(reason, self.compose_interrupt(reason, source_id, index), fpd)

    def report_page_request(self, reason: FaultReason, request: PageRequest, fpd: int) -> bool:
        """Report a fault of a page request. Returns whether it was recorded; `fpd` as for a DMA request."""
        return self._report(reason, self.compose_page_request(reason, request), fpd)

    def _report(self, reason: FaultReason, record: int, fpd: int) -> bool:
        """A qualified fault is not recorded if FPD is set (spec 7.1.3)."""
        return not (fpd and self.is_qualified(reason)) and self._record(record)

    def is_qualified(self, reason: FaultReason) -> bool:
        """Whether FPD suppresses the record of this fault (spec 7.1.3)."""
        return reason.qualified

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        """The 128 bits of the record for a DMA fault, F included (spec 11.4.7.6)."""
        with_pasid = request.pasid is not None
        return FRCD.make(
            F=1,
            T1=request.access is not Access.WRITE,
            T2=request.access is Access.ATOMIC,
            AT=request.address_type if self._has_device_tlb else 0,
            FR=reason,
            PP=with_pasid,
            PV=request.pasid or 0,
            PRIV=with_pasid and request.privileged,
            EXE=with_pasid and request.execute,
            SID=request.source_id,
            FI=request.address & self._address_mask & ~0xFFF,
        )

    def compose_interrupt(self, reason: FaultReason, source_id: int, index: int) -> int:
        """The 128 bits of the record for an interrupt-remapping fault; all other fields are 0.

        The index is truncated to 16 bits.
        """
        return FRCD.make(F=1, FR=reason, SID=source_id, FI=(index & 0xFFFF) << 48)

    def compose_page_request(self, reason: FaultReason, request: PageRequest) -> int:
        """The 128 bits of the record for a blocked page request: T1 = 0, T2 = 1."""
        return FRCD.make(
            F=1,
            T2=1,
            FR=reason,
            PP=request.pasid is not None,
            PV=request.pasid or 0,
            EXE=request.execute,
            PRIV=request.privileged,
            SID=request.source_id,
            FI=request.address & self._address_mask & ~0xFFF,
        )

    @property
    def overflowed(self) -> bool:
        """Whether PFO is set: nothing is recorded until software clears it."""
        return bool(FSTS.PFO.get(self._status.value))

    def _record(self, record: int) -> bool:
        """Write a record (spec 7.2.1): not while PFO is set; if the next register is in use, set PFO."""
        if self.overflowed:
            return False
        if self.policy.compress_faults and self.is_pending(FRCD.SID.get(record)):
            return False
        slot = self._records[self._next]
        if FRCD.F.get(slot.value):
            self._status.value = FSTS.PFO.put(self._status.value, 1)
            return False
        slot.value = record
        index, self._next = self._next, (self._next + 1) % len(self._records)
        if not FSTS.PPF.get(self._status.value):
            self._status.value = FSTS.FRI.put(self._status.value, index)
            self.set_status(FSTS.PPF.mask)
        return True

    def is_pending(self, source_id: int) -> bool:
        """Whether a record of this source-id has its F set."""
        return any(FRCD.F.get(slot.value) and FRCD.SID.get(slot.value) == source_id for slot in self._records)

    def restart(self) -> None:
        """Neither requests nor interrupts are remapped: the next record goes to the first register (spec 7.2.1)."""
        self._next = 0

    def set_status(self, condition: int) -> None:
        """Set a bit of FSTS; the event is raised only if no status was pending (spec 7.3, 11.4.7.2)."""
        already = self._conditions()
        self._status.value |= condition
        if not already:
            self._event.signal()

    def _conditions(self) -> int:
        """The pending status bits (spec 11.4.7.2). PFO is one of them, although setting it raises no event."""
        return self._status.value & FSTS.bits_of("PFO", "PPF", "IQE", "ICE", "ITE")

    def _on_clear(self, _written: int) -> None:
        """Software cleared F or status bits: PPF follows F, and a held event is withdrawn if nothing is pending."""
        if not any(FRCD.F.get(slot.value) for slot in self._records):
            self._status.value &= ~FSTS.PPF.mask
        if not self._conditions():
            self._event.withdraw()
        self.after_clear()
