"""The invalidation queue (spec 6.5.2): fetching descriptors, refusing them, and going on after that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from iommu.engine.ats import AtsDevice, DeviceInvalidation
from iommu.engine.faults.events import Message
from iommu.engine.faults.log import FaultLog
from iommu.engine.invalidation.cache_commands import CacheCommands
from iommu.engine.invalidation.device_commands import DeviceCommands
from iommu.engine.invalidation.errors import QueueError
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.policy import Policy
from iommu.engine.register_file import RegisterFile
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.registers import FSTS, IQA, IQERCD, IQH, IQT, QueueFault, TableMode
from iommu.structures import (
    ContextDescriptor,
    Descriptor,
    DescriptorType,
    DeviceTlbDescriptor,
    InterruptDescriptor,
    IotlbDescriptor,
    PageResponseDescriptor,
    PasidCacheDescriptor,
    PasidDeviceTlbDescriptor,
    PasidIotlbDescriptor,
    WaitDescriptor,
)

Command = Callable[[Any], None]
"""Carries out a descriptor, given as a view. Raises QueueError when it is to be refused."""

# The capabilities that a type of descriptor needs.
_NEEDS: dict[int, tuple[str, ...]] = {
    DescriptorType.DEVICE_TLB: ("device_tlb",),
    DescriptorType.INTERRUPT: ("interrupt_remapping",),
    DescriptorType.PASID_IOTLB: ("scalable_mode",),
    DescriptorType.PASID_CACHE: ("scalable_mode",),
    DescriptorType.PASID_DEVICE_TLB: ("scalable_mode", "device_tlb"),
    DescriptorType.PAGE_RESPONSE: ("page_requests",),
}
_SCALABLE_ONLY = range(DescriptorType.PASID_IOTLB, DescriptorType.PAGE_RESPONSE + 1)


class Queue(CacheCommands, DeviceCommands):
    """Carries out descriptors from head to tail, in order, as soon as they are submitted.

    `enabled` is GSTS.QIES; `mode` is the table mode the last SRTP latched. While `stepped` is set, nothing is carried
    out but by `step`.

    Args:
        registers: the unit's registers; this class gives IQA and IQT their behaviour.
        invalidation: carries out the invalidations that the registers can also request.
        devices, device_invalidated, drain_page_requests, send: see DeviceCommands.
    """

    def __init__(
        self,
        memory: Memory,
        registers: RegisterFile,
        invalidation: Invalidation,
        faults: FaultLog,
        policy: Policy,
        devices: Mapping[int, AtsDevice],
        device_invalidated: Callable[[int, DeviceInvalidation], None],
        drain_page_requests: Callable[[], None],
        send: Callable[[Message], None],
    ) -> None:
        CacheCommands.__init__(self, invalidation, policy)
        DeviceCommands.__init__(
            self, memory, registers, faults, policy, devices, device_invalidated, drain_page_requests, send
        )
        self.enabled = False
        self.mode: int = TableMode.LEGACY
        self._commands: dict[int, tuple[type[Descriptor], Command]] = {
            DescriptorType.CONTEXT: (ContextDescriptor, self.invalidate_contexts),
            DescriptorType.IOTLB: (IotlbDescriptor, self.invalidate_translations),
            DescriptorType.DEVICE_TLB: (DeviceTlbDescriptor, self.invalidate_device),
            DescriptorType.INTERRUPT: (InterruptDescriptor, self.invalidate_interrupts),
            DescriptorType.WAIT: (WaitDescriptor, self.wait),
            DescriptorType.PASID_IOTLB: (PasidIotlbDescriptor, self.invalidate_pasid_translations),
            DescriptorType.PASID_CACHE: (PasidCacheDescriptor, self.invalidate_pasids),
            DescriptorType.PASID_DEVICE_TLB: (PasidDeviceTlbDescriptor, self.invalidate_device_pasid),
            DescriptorType.PAGE_RESPONSE: (PageResponseDescriptor, self.respond),
        }
        self._reserved = {
            number: layout.reserved_mask(offered=self.capabilities.offered)
            for number, (layout, _) in self._commands.items()
        }
        self.stepped = False
        self._running = False
        self._head, self._tail, self._address = registers[IQH], registers[IQT], registers[IQA]
        self._effective_address = 0
        self._address.effect = self._on_address
        self._tail.effect = lambda _written: self.run()
        faults.after_clear = self.run

    # Registers (11.4.9).

    def switch(self, on: int) -> bool:
        """Turn the queue on or off (GCMD.QIE), without running it. The head is 0 while it is off.

        Returns whether it is on.
        """
        if bool(on) != self.enabled:
            self.enabled = bool(on)
            self._head.value = 0
        return self.enabled

    def _on_address(self, _written: int) -> None:
        """IQA was written; ignored while the queue is on, unless the policy says otherwise (doubt D-13)."""
        if self.enabled and not self.policy.queue_moves_while_on:
            self._address.value = self._effective_address
            return
        self._effective_address = self._address.value
        self._head.value = 0
        if self.policy.queue_address_resets_tail:
            self._tail.value = 0

    # From head to tail (6.5.2).

    def run(self) -> None:
        """Process descriptors until the queue is empty or stops. A device may write registers meanwhile."""
        if self._running or self.stepped:
            return
        self._running = True
        try:
            while self.is_fetching() and self.head() != self.tail():
                self.process_next()
        except QueueError as error:
            self.stop(error.code)
        finally:
            self._running = False
        if self.overdue:
            self.time_out()

    def step(self) -> bool:
        """Process one descriptor, or after the last let a device that has not answered time out.

        Returns whether there was anything to do.
        """
        if self._running:
            return False
        if not self.is_fetching() or self.head() == IQT.QT.get(self._tail.value):
            late = bool(self.overdue)
            if late:
                self.time_out()
            return late
        self._running = True
        try:
            self.tail()
            self.process_next()
        except QueueError as error:
            self.stop(error.code)
        finally:
            self._running = False
        return True

    def waiting(self) -> list[int]:
        """The offsets of the descriptors that are to be processed; that of the first, if the tail is in error."""
        if not self.is_fetching():
            return []
        head, size = self.head(), self.size()
        try:
            return [(head + after) % size for after in range(0, (self.tail() - head) % size, self.width())]
        except QueueError:
            return [head]

    def is_fetching(self) -> bool:
        """Whether descriptors are fetched: not while IQE or ITE is set."""
        return self.enabled and not self._status.value & (FSTS.IQE.mask | FSTS.ITE.mask)

    def head(self) -> int:
        """Offset of the next descriptor."""
        return IQH.QH.get(self._head.value)

    def tail(self) -> int:
        """Offset after the last descriptor. Raises QueueError."""
        tail = IQT.QT.get(self._tail.value)
        if tail % self.width():
            raise QueueError(QueueFault.ALIGNMENT)
        if tail >= self.size():
            raise QueueError(QueueFault.TAIL)
        return tail

    def width(self) -> int:
        """Size of a descriptor in bytes."""
        return 32 if IQA.DW.get(self._address.value) else 16

    def size(self) -> int:
        """Size of the queue in bytes."""
        return 0x1000 << IQA.QS.get(self._address.value)

    def process_next(self) -> None:
        """Fetch one descriptor and carry it out. The head does not pass one that is refused. Raises QueueError."""
        self.check_mode()
        raw = self.fetch(IQA.IQA.get(self._address.value) + self.head())
        try:
            self.carry_out(raw, 8 * self.width())
        except QueueError as error:
            if error.consumed:
                self.advance()
            raise
        self.advance()

    def advance(self) -> None:
        """Move the head past a descriptor; it wraps at the end of the queue."""
        self._head.value = (self.head() + self.width()) % self.size()

    def check_mode(self) -> None:
        """The unit must have the table mode, and the mode must allow the width of descriptors. Raises QueueError."""
        scalable, abort = self.capabilities.scalable_mode, self.capabilities.abort_dma
        known: dict[int, bool] = {TableMode.LEGACY: True, TableMode.SCALABLE: scalable, TableMode.ABORT_DMA: abort}
        if not known.get(self.mode):
            raise QueueError(QueueFault.TABLE_MODE)
        wide = self.width() == 32
        if (not wide and self.mode != TableMode.LEGACY) or (wide and not (scalable or abort)):
            raise QueueError(QueueFault.WIDTH)

    def fetch(self, address: int) -> int:
        """One descriptor. Raises QueueError."""
        try:
            return int.from_bytes(self.memory.read(address, self.width()), "little")
        except MemoryAccessError:
            raise QueueError(QueueFault.FETCH) from None

    def stop(self, code: QueueFault) -> None:
        """Set FSTS.IQE. When software clears it, the queue continues at its head."""
        self._error.value = IQERCD.IQEI.put(self._error.value, code)
        self.faults.set_status(FSTS.IQE.mask)

    # Which descriptors are valid (6.5.2).

    def carry_out(self, raw: int, bits: int) -> None:
        """Check a descriptor of `bits` bits and do what it says. Raises QueueError."""
        number = Descriptor.TYPE_HIGH.get(raw) << 4 | Descriptor.TYPE.get(raw)
        if number not in self._commands or not self.has_type(number, bits):
            raise QueueError(QueueFault.TYPE)
        layout, command = self._commands[number]
        if raw & self._reserved[number] or raw >> layout.bits:
            raise QueueError(QueueFault.RESERVED)
        command(layout(raw))

    def has_type(self, number: int, bits: int) -> bool:
        """Whether the unit has the type of descriptor, in this mode and width."""
        if number in _SCALABLE_ONLY and (self.mode == TableMode.LEGACY or bits == 128):
            return False
        return all(name in self.capabilities.offered for name in _NEEDS.get(number, ()))
