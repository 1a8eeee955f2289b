"""What each descriptor of the invalidation queue does, and when it is refused (spec 6.5.2.1 to 6.5.2.8, 7.6.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from iommu.engine.ats import AtsDevice, Completion, DeviceInvalidation, PageResponse, invalidated
from iommu.engine.capabilities import Capabilities
from iommu.engine.invalidation import Invalidation
from iommu.engine.policy import Policy
from iommu.registers import Granularity, QueueFault, TableMode
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
    ResponseCode,
    WaitDescriptor,
)

Command = Callable[[Any], None]
"""Carries out a descriptor, given as a view. Raises QueueError when it is to be refused."""

# The capabilities without which there is no such descriptor.
_NEEDS: dict[int, tuple[str, ...]] = {
    DescriptorType.DEVICE_TLB: ("device_tlb",),
    DescriptorType.INTERRUPT: ("interrupt_remapping",),
    DescriptorType.PASID_IOTLB: ("scalable_mode",),
    DescriptorType.PASID_CACHE: ("scalable_mode",),
    DescriptorType.PASID_DEVICE_TLB: ("scalable_mode", "device_tlb"),
    DescriptorType.PAGE_RESPONSE: ("page_requests",),
}
_SCALABLE_ONLY = range(DescriptorType.PASID_IOTLB, DescriptorType.PAGE_RESPONSE + 1)


class QueueError(Exception):
    """Inside the engine: the queue cannot go on. Never leaves the unit.

    `taken`: the descriptor counts as taken all the same; the head moves past it.
    """

    def __init__(self, code: QueueFault, *, taken: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.taken = taken


class Commands:
    """One method for each type of descriptor but the wait descriptor, which is the queue's own.

    `mode` is the table mode the last SRTP latched.
    """

    def __init__(self, invalidation: Invalidation, policy: Policy, devices: Mapping[int, AtsDevice]) -> None:
        self.capabilities: Capabilities = invalidation.capabilities
        self.invalidation, self.caches = invalidation, invalidation.caches
        self.policy, self.devices = policy, devices
        self.mode: int = TableMode.LEGACY
        self._commands: dict[int, tuple[type[Descriptor], Command]] = {
            DescriptorType.CONTEXT: (ContextDescriptor, self.invalidate_contexts),
            DescriptorType.IOTLB: (IotlbDescriptor, self.invalidate_translations),
            DescriptorType.DEVICE_TLB: (DeviceTlbDescriptor, self.invalidate_device),
            DescriptorType.INTERRUPT: (InterruptDescriptor, self.invalidate_interrupts),
            DescriptorType.WAIT: (WaitDescriptor, self.wait),
            DescriptorType.PASID_IOTLB: (PasidIotlbDescriptor, self.invalidate_process),
            DescriptorType.PASID_CACHE: (PasidCacheDescriptor, self.invalidate_pasids),
            DescriptorType.PASID_DEVICE_TLB: (PasidDeviceTlbDescriptor, self.invalidate_device_process),
            DescriptorType.PAGE_RESPONSE: (PageResponseDescriptor, self.respond),
        }

    def carry_out(self, raw: int, bits: int) -> None:
        """Check a descriptor of `bits` bits and do what it says. Raises QueueError."""
        number = Descriptor.TYPE_HIGH.get(raw) << 4 | Descriptor.TYPE.get(raw)
        if number not in self._commands or not self.has_type(number, bits):
            raise QueueError(QueueFault.TYPE)
        layout, command = self._commands[number]
        if raw & layout.reserved_mask(offered=self.capabilities.offered) or raw >> layout.bits:
            raise QueueError(QueueFault.RESERVED)
        command(layout(raw))

    def has_type(self, number: int, bits: int) -> bool:
        """Whether a unit with these capabilities knows the type in this mode and width."""
        if number in _SCALABLE_ONLY and (self.mode == TableMode.LEGACY or bits == 128):
            return False
        return all(name in self.capabilities.offered for name in _NEEDS.get(number, ()))

    # Caches (6.5.2.1 to 6.5.2.4, 6.5.2.7).

    def invalidate_contexts(self, command: ContextDescriptor) -> None:
        """Type 1."""
        if not self.invalidation.invalidate_contexts(command.G, command.DID, command.SID, command.FM):
            raise QueueError(QueueFault.RESERVED)

    def invalidate_translations(self, command: IotlbDescriptor) -> None:
        """Type 2. Nothing is in flight in this model: draining, DR and DW, changes nothing."""
        where = command.ADDR, command.AM, command.IH
        if not self.invalidation.invalidate_translations(command.G, command.DID, *where):
            raise QueueError(QueueFault.RESERVED)

    def invalidate_interrupts(self, command: InterruptDescriptor) -> None:
        """Type 4."""
        if not command.G:
            self.caches.drop_interrupts()
        elif command.IM > self.capabilities.max_index_mask:
            raise QueueError(QueueFault.RESERVED)
        else:
            self.caches.drop_interrupts(command.IIDX, command.IM)

    def invalidate_process(self, command: PasidIotlbDescriptor) -> None:
        """Type 6. The limits of the page-selective type 2 do not hold here."""
        where = command.ADDR, command.AM, command.IH
        match command.G:
            case Granularity.DOMAIN if any(where):
                raise QueueError(QueueFault.RESERVED)
            case Granularity.DOMAIN:
                self.caches.drop_translations_of_pasid(command.DID, command.PASID)
                if self.policy.pasid_invalidation_drops_second_stage:
                    self.caches.drop_translations_of_domain(command.DID)
            case Granularity.SELECTIVE:
                self.caches.drop_translations_of_pasid_pages(command.DID, command.PASID, *where)
            case _:
                raise QueueError(QueueFault.RESERVED)

    def invalidate_pasids(self, command: PasidCacheDescriptor) -> None:
        """Type 7, whose granularities are numbered in its own way."""
        match command.G:
            case 0:
                self.caches.drop_pasids_of_domain(command.DID)
            case 1:
                self.caches.drop_pasid(command.DID, command.PASID)
            case 3:
                self.caches.drop_pasids()
            case _:
                raise QueueError(QueueFault.RESERVED)

    # Devices (6.5.2.5, 6.5.2.6, 7.6.1).

    def invalidate_device(self, command: DeviceTlbDescriptor) -> None:
        """Type 3."""
        self.deliver(command.SID, DeviceInvalidation(invalidated(command.ADDR, command.S)))

    def invalidate_device_process(self, command: PasidDeviceTlbDescriptor) -> None:
        """Type 8."""
        addresses = invalidated(command.ADDR, command.S)
        self.deliver(command.SID, DeviceInvalidation(addresses, command.PASID, every_pasid=bool(command.G)))

    def deliver(self, source_id: int, invalidation: DeviceInvalidation) -> None:
        """Pass an invalidation to its device and note how it answers. Where no device is, nothing answers."""
        device = self.devices.get(source_id)
        completion = Completion.TIMED_OUT if device is None else device.invalidate(invalidation)
        if completion is Completion.TIMED_OUT:
            self.no_completion(source_id)
        elif completion is Completion.WRONG:
            self.wrong_completion(source_id)

    def respond(self, command: PageResponseDescriptor) -> None:
        """Type 9. A response for a device that is not there goes nowhere."""
        if device := self.devices.get(command.RID):
            known = command.RC in tuple(ResponseCode)
            code = ResponseCode(command.RC) if known else ResponseCode.FAILURE
            pasid = command.PASID if command.PP else None
            device.respond(PageResponse(command.PRGI, code, pasid, bool(command.LPIG)))

    # What the queue itself does.

    def wait(self, command: WaitDescriptor) -> None:
        """Type 5."""
        raise NotImplementedError

    def no_completion(self, source_id: int) -> None:
        """A device has not answered."""
        raise NotImplementedError

    def wrong_completion(self, source_id: int) -> None:
        """A device has answered in a way nobody expects."""
        raise NotImplementedError
