"""Descriptors for devices, and wait descriptors (spec 6.5.2.5 to 6.5.2.8, 7.6.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from iommu.engine.ats import AtsDevice, Completion, DeviceInvalidation, PageResponse, invalidated_range
from iommu.engine.faults.events import Event, Message
from iommu.engine.faults.log import FaultLog
from iommu.engine.invalidation.errors import QueueError
from iommu.engine.policy import Policy
from iommu.engine.register_file import RegisterFile
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.registers import FSTS, ICS, INVALIDATION_EVENT, IQERCD, QueueFault
from iommu.structures import (
    DeviceTlbDescriptor,
    PageResponseDescriptor,
    PasidDeviceTlbDescriptor,
    ResponseCode,
    WaitDescriptor,
)


class DeviceCommands:
    """One method for each type of descriptor, and what completion means: ICS.IWC and its event, FSTS.ITE, FSTS.ICE.

    A time-out is reported at the wait descriptor that waits for the device.

    Args:
        registers: the unit's registers; this class gives ICS its behaviour.
        devices: by source-id, those that get device-TLB invalidations and page responses.
        device_invalidated: called with each device-TLB invalidation after its device had it, attached or not.
        drain_page_requests: called for a wait descriptor with PD.
        send: called with each invalidation event message.
    """

    def __init__(
        self,
        memory: Memory,
        registers: RegisterFile,
        faults: FaultLog,
        policy: Policy,
        devices: Mapping[int, AtsDevice],
        device_invalidated: Callable[[int, DeviceInvalidation], None],
        drain_page_requests: Callable[[], None],
        send: Callable[[Message], None],
    ) -> None:
        self.memory, self.faults, self.policy, self.devices = memory, faults, policy, devices
        self.device_invalidated, self.drain_page_requests = device_invalidated, drain_page_requests
        self.overdue: list[int] = []
        self._status, self._error, self._completed = registers[FSTS], registers[IQERCD], registers[ICS]
        self._event = Event(registers, INVALIDATION_EVENT, send)
        self._completed.effect = self._on_completion_cleared

    # Devices (6.5.2.5, 6.5.2.6, 7.6.1).

    def invalidate_device(self, command: DeviceTlbDescriptor) -> None:
        """Type 3, device-TLB."""
        self.deliver(command.SID, DeviceInvalidation(invalidated_range(command.ADDR, command.S)))

    def invalidate_device_pasid(self, command: PasidDeviceTlbDescriptor) -> None:
        """Type 8, PASID-based device-TLB."""
        addresses = invalidated_range(command.ADDR, command.S)
        self.deliver(command.SID, DeviceInvalidation(addresses, command.PASID, every_pasid=bool(command.G)))

    def deliver(self, source_id: int, invalidation: DeviceInvalidation) -> None:
        """Pass an invalidation to its device and record how it answers. A device that is not attached does not."""
        device = self.devices.get(source_id)
        completion = Completion.TIMED_OUT if device is None else device.invalidate(invalidation)
        self.device_invalidated(source_id, invalidation)
        if completion is Completion.TIMED_OUT:
            self.no_completion(source_id)
        elif completion is Completion.WRONG:
            self.wrong_completion(source_id)

    def respond(self, command: PageResponseDescriptor) -> None:
        """Type 9. A response for a device that is not attached is dropped."""
        if device := self.devices.get(command.RID):
            known = command.RC in tuple(ResponseCode)
            code = ResponseCode(command.RC) if known else ResponseCode.FAILURE
            pasid = command.PASID if command.PP else None
            device.respond(PageResponse(command.PRGI, code, pasid, bool(command.LPIG)))

    def no_completion(self, source_id: int) -> None:
        """The descriptors that follow are still taken, up to the next wait descriptor."""
        self.overdue.append(source_id)

    def time_out(self) -> None:
        """FSTS.ITE. A wait descriptor that waited for the device is dropped; the queue goes on after it."""
        self._error.value = IQERCD.ITESID.put(self._error.value, self.overdue[0])
        # A listener to the event may raise: then the next wait descriptor reports it again, and completes nothing.
        self.faults.set_status(FSTS.ITE.mask)
        self.overdue.clear()

    def wrong_completion(self, source_id: int) -> None:
        """FSTS.ICE: nothing stops; the first source-id stays until software has cleared it."""
        if not FSTS.ICE.get(self._status.value):
            self._error.value = IQERCD.ICESID.put(self._error.value, source_id)
            self.faults.set_status(FSTS.ICE.mask)

    # Waiting (6.5.2.8).

    def wait(self, command: WaitDescriptor) -> None:
        """All earlier descriptors have been carried out, one after the other: a fence makes no difference."""
        if not (command.IF or command.SW or command.FN or self.policy.idle_wait_accepted):
            raise QueueError(QueueFault.RESERVED)
        if self.overdue:
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
            raise QueueError(self.policy.status_write_fault, consumed=self.policy.status_write_fault_taken) from None

    def complete(self) -> None:
        """Set IWC; only the first of several raises the event."""
        if not ICS.IWC.get(self._completed.value):
            self._completed.value |= ICS.IWC.mask
            self._event.signal()

    def _on_completion_cleared(self, _written: int) -> None:
        """Software has cleared IWC: an event that is still held back is not sent."""
        if not ICS.IWC.get(self._completed.value):
            self._event.withdraw()
