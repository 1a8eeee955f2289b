"""Interrupt posting (spec 5.2): interrupts are recorded in a descriptor in memory, and a notification is sent."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.faults.events import Message
from iommu.engine.formats import Formats
from iommu.engine.interrupts.request import Interrupt, InterruptOutcome, Posting, destination
from iommu.engine.reasons import Blocked, FaultReason
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.structures import PostedInterruptDescriptor, PostedInterruptEntry

_SIZE = PostedInterruptDescriptor.bits // 8


class InterruptPosting:
    """Posts interrupts to their descriptors, which it reads and updates coherently.

    Args:
        send: called with each notification.
    """

    def __init__(self, memory: Memory, formats: Formats, send: Callable[[Message], None]) -> None:
        self.memory, self.formats, self.send = memory, formats, send

    def post(self, raw: int, *, extended: bool) -> InterruptOutcome:
        """Set the vector's bit in the descriptor, and send a notification if none is outstanding. Raises Blocked.

        `extended`: destinations have 32 bits.
        """
        entry = PostedInterruptEntry(raw)
        where = entry.PDAH << 32 | entry.PDAL << 6
        before = self.update_descriptor(where, entry, extended=extended)
        if not self.notifies(before, entry):
            return InterruptOutcome(posted=Posting(where, entry.VV))
        target = destination(PostedInterruptDescriptor.NDST.get(before), extended=extended)
        notification = Interrupt(PostedInterruptDescriptor.NV.get(before), target)
        self.send(notification.message)
        return InterruptOutcome(posted=Posting(where, entry.VV, notification))

    def update_descriptor(self, where: int, entry: PostedInterruptEntry, *, extended: bool) -> int:
        """One atomic read-modify-write of PIR and ON (5.2.3). Returns the descriptor as it was. Raises Blocked."""
        try:
            before = int.from_bytes(self.memory.read(where, _SIZE), "little")
            # IR.28: a reserved bit is set in the descriptor.
            if before & self.formats.reserved_in_descriptor(before, extended=extended):
                raise Blocked(FaultReason.IR_28)
            after = before | 1 << entry.VV
            if self.notifies(before, entry):
                after |= PostedInterruptDescriptor.ON.mask
            self.memory.write(where, after.to_bytes(_SIZE, "little"))
        except MemoryAccessError:
            # IR.27: the descriptor could not be read or written.
            raise Blocked(FaultReason.IR_27) from None
        return before

    def notifies(self, descriptor: int, entry: PostedInterruptEntry) -> bool:
        """Whether a notification is sent: not if one is outstanding (ON), nor if SN is set and it is not urgent."""
        if PostedInterruptDescriptor.ON.get(descriptor):
            return False
        return bool(entry.URG) or not PostedInterruptDescriptor.SN.get(descriptor)
