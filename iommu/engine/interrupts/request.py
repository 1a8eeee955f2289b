"""Interrupt requests and their outcomes (spec 5.1.2)."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.faults.events import Message
from iommu.engine.reasons import FaultReason
from iommu.engine.request import INTERRUPT_RANGE, SourceId, in_interrupt_range
from iommu.errors import MisuseError
from iommu.structures import CompatibilityAddress, CompatibilityData


class InterruptRequest(NamedTuple):
    """A DWORD write without PASID to the interrupt address range.

    Attributes:
        source_id: who interrupts: a device, or the I/O APIC or HPET under the source-id the DMAR gives it.
        address: 0xFEE0_0000 to 0xFEEF_FFFF; its bit 4 says which format the request has.
        data: the 32 bits written.
    """

    source_id: SourceId
    address: int
    data: int

    def check(self) -> InterruptRequest:
        """Itself. Raises MisuseError when it is not an interrupt request at all."""
        if not isinstance(self.source_id, SourceId):
            raise MisuseError(f"source_id is a SourceId, not {self.source_id!r}")
        if not in_interrupt_range(self.address):
            raise MisuseError(f"address {self.address:#x} is not in the interrupt range 0xfee00000-0xfeefffff")
        if not 0 <= self.data < 1 << 32:
            raise MisuseError(f"data {self.data:#x} are not 32 bits")
        return self


class Interrupt(NamedTuple):
    """An interrupt as processors take it.

    Attributes:
        vector: 8 bits.
        destination: APIC id, 8 bits or 32 as the interrupt mode has it; logical or physical.
        delivery_mode: as DeliveryMode names them.
        logical, redirection_hint, level: destination mode, the hint, trigger mode.
    """

    vector: int
    destination: int
    delivery_mode: int = 0
    logical: bool = False
    redirection_hint: bool = False
    level: bool = False

    @property
    def message(self) -> Message:
        """The write that carries it: destination bits 31:8 go to address bits 63:40; the level is always assert."""
        address = CompatibilityAddress.make(
            RANGE=INTERRUPT_RANGE, DEST=self.destination & 0xFF, RH=self.redirection_hint, DM=self.logical
        )
        data = CompatibilityData.make(TM=self.level, LEVEL=1, DLM=self.delivery_mode, V=self.vector)
        return Message(self.destination >> 8 << 40 | address, data)


class Posting(NamedTuple):
    """An interrupt that waits in a posted-interrupt descriptor.

    Attributes:
        descriptor: its address.
        vector: the virtual vector, now set in PIR.
        notification: the notification that the unit sent; None when it sent none.
    """

    descriptor: int
    vector: int
    notification: Interrupt | None = None


class InterruptOutcome(NamedTuple):
    """The outcome of an interrupt request.

    Attributes:
        message: the write that goes on to the processors; None when there is none. A notification is not among them:
            the unit sends it by itself.
        remapped: what the message says, when a remapping entry made it.
        posted: where the interrupt waits, when it was posted.
        fault: why it was blocked; None when it was not.
        recorded: the fault reached a fault recording register.
        passed: the message is the request, unmodified.
    """

    message: Message | None = None
    remapped: Interrupt | None = None
    posted: Posting | None = None
    fault: FaultReason | None = None
    recorded: bool = False
    passed: bool = False


def unmodified(request: InterruptRequest) -> InterruptOutcome:
    """The outcome of a request nobody remaps."""
    return InterruptOutcome(Message(request.address, request.data), passed=True)


def destination(field: int, *, extended: bool) -> int:
    """The APIC id in a destination field of 32 bits: all of it, or bits 15:8 where destinations have 8 bits."""
    return field if extended else field >> 8 & 0xFF
