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
        source_id: the requester: a device, or an I/O APIC or HPET by the source-id that the DMAR gives.
        address: 0xFEE0_0000 to 0xFEEF_FFFF; bit 4 is the format of the request.
        data: the 32 bits written.
    """

    source_id: SourceId
    address: int
    data: int

    def check(self) -> InterruptRequest:
        """Returns itself. Raises MisuseError for what is not an interrupt request."""
        if not isinstance(self.source_id, SourceId):
            raise MisuseError(f"source_id is a SourceId, not {self.source_id!r}")
        if not in_interrupt_range(self.address):
            raise MisuseError(f"address {self.address:#x} is not in the interrupt range 0xfee00000-0xfeefffff")
        if not 0 <= self.data < 1 << 32:
            raise MisuseError(f"data {self.data:#x} are not 32 bits")
        return self


class Interrupt(NamedTuple):
    """An interrupt as it is delivered to processors.

    Attributes:
        vector: 8 bits.
        destination: logical or physical APIC id; 8 bits, or 32 in extended interrupt mode.
        delivery_mode: a DeliveryMode.
        logical: the destination is logical, not physical.
        redirection_hint: RH.
        level: level-triggered, not edge-triggered.
    """

    vector: int
    destination: int
    delivery_mode: int = 0
    logical: bool = False
    redirection_hint: bool = False
    level: bool = False

    @property
    def message(self) -> Message:
        """The write that delivers it. Destination bits 31:8 go to address bits 63:40; LEVEL is always 1 (assert)."""
        address = CompatibilityAddress.make(
            RANGE=INTERRUPT_RANGE, DEST=self.destination & 0xFF, RH=self.redirection_hint, DM=self.logical
        )
        data = CompatibilityData.make(TM=self.level, LEVEL=1, DLM=self.delivery_mode, V=self.vector)
        return Message(self.destination >> 8 << 40 | address, data)


class Posting(NamedTuple):
    """An interrupt that was posted to a posted-interrupt descriptor.

    Attributes:
        descriptor: the address of the descriptor.
        vector: the virtual vector, now set in PIR.
        notification: the notification that the unit sent; None when it sent none.
    """

    descriptor: int
    vector: int
    notification: Interrupt | None = None


class InterruptOutcome(NamedTuple):
    """The outcome of an interrupt request.

    Attributes:
        message: the write that goes to the processors; None if it was posted or blocked. A notification is not
            reported here: the unit sends it itself.
        remapped: the interrupt in the message, if it was remapped.
        posted: the posting, if it was posted.
        fault: why it was blocked; None if it was not.
        recorded: the fault was recorded in a fault recording register.
        passed: the message is the unmodified request.
    """

    message: Message | None = None
    remapped: Interrupt | None = None
    posted: Posting | None = None
    fault: FaultReason | None = None
    recorded: bool = False
    passed: bool = False


def unmodified(request: InterruptRequest) -> InterruptOutcome:
    """The outcome of a request that passes unmodified."""
    return InterruptOutcome(Message(request.address, request.data), passed=True)


def destination(field: int, *, extended: bool) -> int:
    """The APIC id in a 32-bit destination field: all bits in extended mode, otherwise bits 15:8."""
    return field if extended else field >> 8 & 0xFF
