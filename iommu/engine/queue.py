"""The invalidation queue (spec 6.5.2): how descriptors are fetched, waited for, refused, and how it goes on then."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from iommu.engine.ats import AtsDevice
from iommu.engine.events import Event, Message
from iommu.engine.faults import FaultLog
from iommu.engine.invalidation import Invalidation
from iommu.engine.policy import Policy
from iommu.engine.queue_commands import Commands, QueueError
from iommu.engine.register_file import RegisterFile
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.registers import FSTS, ICS, IQA, IQERCD, IQH, IQT, QueueFault, TableMode
from iommu.structures import WaitDescriptor


class Queue(Commands):
    """Takes descriptors from head to tail, one after the other, as soon as there are any.

    `enabled` is GSTS.QIES. Time-outs strike at the wait descriptor that would have to wait for the device.

    Args:
        registers: the unit's registers; this class gives IQA, IQT and ICS their behaviour.
        invalidation: carries out what the registers can also ask for.
        devices: by source-id, those that get device-TLB invalidations and page responses.
        drain_page_requests: called for a wait descriptor that asks for it.
        send: called with each invalidation event message.
    """

    def __init__(
        self,
        memory: Memory,
        registers: RegisterFile,
        invalidation: Invalidation,
        faults: FaultLog,
        policy: Policy,
        devices: Mapping[int, AtsDevice],
        drain_page_requests: Callable[[], None],
        send: Callable[[Message], None],
    ) -> None:
        super().__init__(invalidation, policy, devices)
        self.memory, self.faults = memory, faults
        self.drain_page_requests = drain_page_requests
        self.enabled = False
        self._at_work = False
        self._overdue: list[int] = []
        slots = registers.slots
        self._head, self._tail, self._address = slots["IQH"], slots["IQT"], slots["IQA"]
        self._faulted, self._error, self._completed = slots["FSTS"], slots["IQERCD"], slots["ICS"]
        self._event = Event(registers, "IE", send)
        self._used_address = 0
        self._address.effect = self._on_address
        self._tail.effect = lambda _written: self.run()
        self._completed.effect = self._on_completion_cleared
        faults.after_clear = self.run

    # Registers (11.4.9).

    def switch(self, on: int) -> None:
        """GCMD.QIE. The head is 0 whenever the queue is off."""
        if bool(on) != self.enabled:
            self.enabled = bool(on)
            self._head.value = 0
            self.run()

    def _on_address(self, _written: int) -> None:
        """IQA belongs to hardware while the queue is on."""
        if self.enabled and not self.policy.queue_moves_while_on:
            self._address.value = self._used_address
            return
        self._used_address = self._address.value
        self._head.value = 0
        if self.policy.queue_address_resets_tail:
            self._tail.value = 0

    def _on_completion_cleared(self, _written: int) -> None:
        """Software has cleared IWC: an event still held back is not sent any more."""
        if not ICS.IWC.get(self._completed.value):
            self._event.withdraw()

    # From head to tail (6.5.2).

    def run(self) -> None:
        """Take descriptors while there are any and nothing is wrong. A device may write registers meanwhile."""
        if self._at_work:
            return
        self._at_work = True
        try:
            while self.is_fetching() and self.head() != self.tail():
                self.take()
        except QueueError as error:
            self.stop(error.code)
        finally:
            self._at_work = False
        if self._overdue:
            self.time_out()

    def is_fetching(self) -> bool:
        """Whether descriptors are taken at all: not while an error waits to be cleared."""
        return self.enabled and not self._faulted.value & (FSTS.IQE.mask | FSTS.ITE.mask)

    def head(self) -> int:
        """Offset of the next descriptor."""
        return IQH.QH.get(self._head.value)

    def tail(self) -> int:
        """Offset behind the last descriptor. Raises QueueError."""
        tail = IQT.QT.get(self._tail.value)
        if tail % self.width():
            raise QueueError(QueueFault.ALIGNMENT)
        if tail >= self.size():
            raise QueueError(QueueFault.TAIL)
        return tail

    def width(self) -> int:
        """Bytes of a descriptor."""
        return 32 if IQA.DW.get(self._address.value) else 16

    def size(self) -> int:
        """Bytes of the queue."""
        return 0x1000 << IQA.QS.get(self._address.value)

    def take(self) -> None:
        """Fetch one descriptor and carry it out. The head passes only those that were in order. Raises QueueError."""
        self.check_mode()
        raw = self.fetch(IQA.IQA.get(self._address.value) + self.head())
        try:
            self.carry_out(raw, 8 * self.width())
        except QueueError as error:
            if error.taken:
                self.advance()
            raise
        self.advance()

    def advance(self) -> None:
        """The head passes a descriptor, from the end of the queue to its beginning."""
        self._head.value = (self.head() + self.width()) % self.size()

    def check_mode(self) -> None:
        """The table mode must be one the unit has, and the width fit it. Raises QueueError."""
        scalable, abort = self.capabilities.scalable_mode, self.capabilities.abort_dma
        known: dict[int, bool] = {TableMode.LEGACY: True, TableMode.SCALABLE: scalable, TableMode.ABORT_DMA: abort}
        if not known.get(self.mode):
            raise QueueError(QueueFault.TABLE_MODE)
        wide = self.width() == 32
        if (not wide and self.mode == TableMode.SCALABLE) or (wide and not (scalable or abort)):
            raise QueueError(QueueFault.WIDTH)

    def fetch(self, address: int) -> int:
        """One descriptor. Raises QueueError."""
        try:
            return int.from_bytes(self.memory.read(address, self.width()), "little")
        except MemoryAccessError:
            raise QueueError(QueueFault.FETCH) from None

    # Waiting (6.5.2.8).

    def wait(self, command: WaitDescriptor) -> None:
        """Everything before has been done; whether it is also a fence makes no difference to one after the other."""
        if not (command.IF or command.SW or command.FN or self.policy.idle_wait_accepted):
            raise QueueError(QueueFault.RESERVED)
        if self._overdue:
            self.time_out()
            return
        if command.PD:
            self.drain_page_requests()
        if command.SW:
            self.write_status(command.STADDR, command.STDATA)
        if command.IF:
            self.complete()

    def write_status(self, address: int, data: int) -> None:
        """The status write, before the event. Raises QueueError."""
        try:
            self.memory.write(address, data.to_bytes(4, "little"))
        except MemoryAccessError:
            raise QueueError(self.policy.status_write_fault, taken=self.policy.status_write_fault_taken) from None

    def complete(self) -> None:
        """Set IWC; only the first of several raises the event."""
        if not ICS.IWC.get(self._completed.value):
            self._completed.value |= ICS.IWC.mask
            self._event.signal()

    # Errors (7.3, 11.4.9.9).

    def stop(self, code: QueueFault) -> None:
        """FSTS.IQE. Once software has cleared it, the queue goes on at its head."""
        self._error.value = IQERCD.IQEI.put(self._error.value, code)
        self.faults.set_status(FSTS.IQE.mask)

    def no_completion(self, source_id: int) -> None:
        """The descriptors that follow are still taken, up to the next that waits."""
        self._overdue.append(source_id)

    def time_out(self) -> None:
        """FSTS.ITE. A wait descriptor that waited for the device is dropped; the queue goes on behind it."""
        self._error.value = IQERCD.ITESID.put(self._error.value, self._overdue[0])
        self._overdue.clear()
        self.faults.set_status(FSTS.ITE.mask)

    def wrong_completion(self, source_id: int) -> None:
        """FSTS.ICE: nothing stops; the first source-id stays until software has cleared it."""
        if not FSTS.ICE.get(self._faulted.value):
            self._error.value = IQERCD.ICESID.put(self._error.value, source_id)
            self.faults.set_status(FSTS.ICE.mask)
