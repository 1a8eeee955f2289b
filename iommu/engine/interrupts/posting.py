"""Interrupt posting (spec 5.2): interrupts are recorded in a descriptor in memory, and a notification is sent."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.faults.events import Message
from iommu.engine.formats import Formats
from iommu.engine.interrupts.request import Interrupt, InterruptOutcome, Posting, destination
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.table_access import ATTEMPTS
from iommu.errors import MemoryAccessError
from iommu.memory import Memory, exchange_of
from iommu.structures import PostedInterruptDescriptor, PostedInterruptEntry

_SIZE = PostedInterruptDescriptor.bits // 8
_CONTROL = PostedInterruptDescriptor.ON.lsb
"""The first bit of the quadword with ON, SN, NV and NDST."""
_QUADWORD = (1 << 64) - 1


class InterruptPosting:
    """Posts interrupts to their descriptors, which it reads and updates coherently.

    Args:
        send: called with each notification.
    """

    def __init__(self, memory: Memory, formats: Formats, send: Callable[[Message], None]) -> None:
        self.memory, self.formats, self.send = memory, formats, send
        self._exchange = exchange_of(memory)

    def post(self, raw: int, *, extended: bool) -> InterruptOutcome:
        """Set the vector's bit in the descriptor, and send a notification if none is outstanding. Raises Blocked.

        `extended`: destinations have 32 bits.
        """
        entry = PostedInterruptEntry(raw)
        where = entry.PDAH << 32 | entry.PDAL << 6
        try:
            self.record(where, entry.VV, extended=extended)
            control = self.take_notification(where + _CONTROL // 8, entry)
        except MemoryAccessError:
            # IR.27: the descriptor could not be read or written.
            raise Blocked(FaultReason.IR_27) from None
        if control is None:
            return InterruptOutcome(posted=Posting(where, entry.VV))
        descriptor = control << _CONTROL
        target = destination(PostedInterruptDescriptor.NDST.get(descriptor), extended=extended)
        notification = Interrupt(PostedInterruptDescriptor.NV.get(descriptor), target)
        self.send(notification.message)
        return InterruptOutcome(posted=Posting(where, entry.VV, notification))

    # Hardware updates the descriptor in one atomic operation (5.2.3). Here PIR is updated first, then ON: processors
    # clear ON before they take PIR, so no interrupt is left without a notification.

    def record(self, where: int, vector: int, *, extended: bool) -> None:
        """Set the vector's bit in PIR. Raises Blocked and MemoryAccessError."""
        word = vector >> 6
        for _ in range(ATTEMPTS):
            raw = self.memory.read(where, _SIZE)
            descriptor = int.from_bytes(raw, "little")
            # IR.28: a reserved bit is set in the descriptor.
            if descriptor & self.formats.reserved_in_descriptor(descriptor, extended=extended):
                raise Blocked(FaultReason.IR_28)
            before = descriptor >> 64 * word & _QUADWORD
            if self._exchange(where + 8 * word, before, before | 1 << (vector & 63)):
                return
        # IR.27: the descriptor could not be written, as it changed each time.
        raise Blocked(FaultReason.IR_27)

    def take_notification(self, where: int, entry: PostedInterruptEntry) -> int | None:
        """Set ON in the quadword at `where`, if a notification is to be sent. Raises Blocked and MemoryAccessError.

        Returns the quadword as it was; None if no notification is to be sent.
        """
        for _ in range(ATTEMPTS):
            control = self.memory.read_u64(where)
            if not self.notifies(control << _CONTROL, entry):
                return None
            if self._exchange(where, control, control | PostedInterruptDescriptor.ON.mask >> _CONTROL):
                return control
        # IR.27: the descriptor could not be written, as it changed each time.
        raise Blocked(FaultReason.IR_27)

    def notifies(self, descriptor: int, entry: PostedInterruptEntry) -> bool:
        """Whether a notification is sent: not if one is outstanding (ON), nor if SN is set and it is not urgent."""
        if PostedInterruptDescriptor.ON.get(descriptor):
            return False
        return bool(entry.URG) or not PostedInterruptDescriptor.SN.get(descriptor)
