"""Breaks of fault recording and of the fault event."""

from __future__ import annotations

from typing import Any

from iommu import DmaRequest, FaultReason
from iommu.engine.faults.events import Event
from iommu.engine.faults.log import FaultLog
from iommu.registers import FAULT_EVENT, FRCD, FSTS, EventControl
from tests.qemu_vtd.conformance.breaks.broken import Break


class FpdDropped(Break, FaultLog):
    """FPD is ignored."""

    scenario = "legacy.fpd.05"

    def is_qualified(self, reason: FaultReason) -> bool:
        return False


class FpdAlways(Break, FaultLog):
    """No qualified fault is recorded."""

    scenario = "legacy.permission.read-only-level-1"

    def report(self, reason: FaultReason, request: DmaRequest, fpd: int) -> bool:
        return super().report(reason, request, 1)


class TypeInverted(Break, FaultLog):
    """A record says read for a write."""

    scenario = "legacy.root.not-present"

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        return super().compose(reason, request) ^ FRCD.T1.mask


class WrongSourceId(Break, FaultLog):
    """A record names another function."""

    scenario = "legacy.root.not-present"

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        return super().compose(reason, request) ^ FRCD.SID.mask & 1 << 64


class AddressUnmasked(Break, FaultLog):
    """Address bits beyond the guest address width are recorded."""

    scenario = "legacy.width.beyond-guest-width"

    def compose(self, reason: FaultReason, request: DmaRequest) -> int:
        return FRCD.FI.put(super().compose(reason, request), request.address & ~0xFFF)


class NeverOverflows(Break, FaultLog):
    """A new fault replaces one that is pending."""

    scenario = "legacy.overflow.other-device"

    def _record(self, record: int) -> bool:
        self._records[0].value &= ~FRCD.F.mask
        return super()._record(record)


class OverflowIgnored(Break, FaultLog):
    """Faults are recorded while PFO is set."""

    scenario = "legacy.overflow.blocks-recording"

    def _record(self, record: int) -> bool:
        overflow = self._status.value & FSTS.PFO.mask
        self._status.value &= ~FSTS.PFO.mask
        recorded = super()._record(record)
        self._status.value |= overflow
        return recorded


class PendingStays(Break, FaultLog):
    """PPF stays when the last record is cleared."""

    scenario = "message.fault.again-after-clearing"

    def _on_clear(self, written: int) -> None:
        pending = self._status.value & FSTS.PPF.mask
        super()._on_clear(written)
        self._status.value |= pending


class ClearedRecordsEmpty(Break, FaultLog):
    """A record that is cleared loses its contents."""

    scenario = "legacy.record.stays-readable"

    def _on_clear(self, written: int) -> None:
        for slot in self._records:
            if not FRCD.F.get(slot.value):
                slot.value = 0
        super()._on_clear(written)


class EveryFaultInterrupts(Break, FaultLog):
    """Each fault sends a message, also while another is pending."""

    scenario = "message.fault.one-for-two"

    def _record(self, record: int) -> bool:
        recorded = super()._record(record)
        if not recorded:
            self._event.signal()
        return recorded


class WithEvent(FaultLog):
    """A log whose event is of another class."""

    event: type[Event]

    def __init__(self, registers: Any, policy: Any, send: Any) -> None:
        super().__init__(registers, policy, send)
        self._event = self.event(registers, FAULT_EVENT, send)


class _MaskIgnored(Event):
    def signal(self) -> None:
        self._send_message()


class MaskIgnored(Break, WithEvent):
    """A message is sent although the event is masked."""

    scenario = "message.fault.masked"
    event = _MaskIgnored


class _Kept(Event):
    def withdraw(self) -> None:
        return None

    def _on_control(self, _written: int) -> None:
        if EventControl.IP.get(self._control.value) and not EventControl.IM.get(self._control.value):
            super().withdraw()
            self._send_message()


class NotWithdrawn(Break, WithEvent):
    """A held message is sent although the fault was cleared."""

    scenario = "message.fault.serviced-while-masked"
    event = _Kept


class _Silent(Event):
    def _on_control(self, _written: int) -> None:
        return None


class UnmaskingSendsNothing(Break, WithEvent):
    """Clearing IM does not send a held message."""

    scenario = "message.fault.unmasked-later"
    event = _Silent


class _WrongData(Event):
    def _send_message(self) -> None:
        self._data.value, data = 0, self._data.value
        super()._send_message()
        self._data.value = data


class MessageWithoutData(Break, WithEvent):
    """The message has no data."""

    scenario = "message.fault.unmasked"
    event = _WrongData


BREAKS = (
    FpdDropped,
    FpdAlways,
    TypeInverted,
    WrongSourceId,
    AddressUnmasked,
    NeverOverflows,
    OverflowIgnored,
    PendingStays,
    ClearedRecordsEmpty,
    EveryFaultInterrupts,
    MaskIgnored,
    NotWithdrawn,
    UnmaskingSendsNothing,
    MessageWithoutData,
)
