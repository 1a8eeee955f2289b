"""The page request queue and its event (spec 7.4.1, 7.5)."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.ats import PageRequest
from iommu.engine.faults.events import Event, Message
from iommu.engine.register_file import RegisterFile
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.registers import PAGE_REQUEST_EVENT, PQA, PQH, PQT, PRS
from iommu.structures import PageRequestDescriptor

_SIZE = 32
_REQUEST = 1


class PageRequestQueue:
    """The queue that hardware writes at the tail and software reads at the head; both are byte offsets.

    Args:
        registers: the unit's registers; this class gives PRS its behaviour.
        send: called with each page request event message.
    """

    def __init__(self, memory: Memory, registers: RegisterFile, send: Callable[[Message], None]) -> None:
        self.memory = memory
        self.silent_stop_markers = registers.capabilities.stop_markers
        self._head, self._tail, self._address = registers[PQH], registers[PQT], registers[PQA]
        self._status = registers[PRS]
        self._event = Event(registers, PAGE_REQUEST_EVENT, send)
        self._status.effect = self._on_clear

    def put(self, request: PageRequest) -> bool:
        """Queue a request. Returns whether it was queued; without room PRO is set, until software clears it."""
        if PRS.PRO.get(self._status.value):
            return False
        tail, after = self.slots()
        if after == PQH.PQH.get(self._head.value) or not self.write(tail, self.compose(request)):
            if not (request.is_stop_marker and self.silent_stop_markers):
                self.raise_status(PRS.PRO.mask)
            return False
        self._tail.value = PQT.PQT.put(self._tail.value, after)
        self.raise_status(PRS.PPR.mask)
        return True

    def slots(self) -> tuple[int, int]:
        """The offset to write at, and the next one; a tail beyond the queue wraps."""
        size = 0x1000 << PQA.PQS.get(self._address.value)
        tail = PQT.PQT.get(self._tail.value) % size
        return tail, (tail + _SIZE) % size

    def compose(self, request: PageRequest) -> int:
        """The 256 bits of the descriptor (spec 7.4.1.1)."""
        return PageRequestDescriptor.make(
            TYPE=_REQUEST,
            PP=request.pasid is not None,
            RID=request.source_id,
            PASID=request.pasid or 0,
            EXR=request.execute,
            PMR=request.privileged,
            RD=request.read,
            WR=request.write,
            LPIG=request.last,
            PRGI=request.group,
            ADDR=request.address & ~0xFFF,
        )

    def write(self, offset: int, descriptor: int) -> bool:
        """Write the descriptor, coherently. Returns False where PQA points to no memory: the request is lost."""
        try:
            self.memory.write(PQA.PQA.get(self._address.value) + offset, descriptor.to_bytes(_SIZE, "little"))
        except MemoryAccessError:
            return False
        return True

    def raise_status(self, condition: int) -> None:
        """Set PPR or PRO; raise the event only if neither was set (spec 7.5)."""
        already = self._status.value & (PRS.PPR.mask | PRS.PRO.mask)
        self._status.value |= condition
        if not already:
            self._event.signal()

    def _on_clear(self, _written: int) -> None:
        """Software has cleared both: an event that is still held back is not sent."""
        if not self._status.value & (PRS.PPR.mask | PRS.PRO.mask):
            self._event.withdraw()
