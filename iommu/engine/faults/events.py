"""The three events of a unit, each with a mask bit and a pending bit: fault, invalidation, page request (7.3)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from iommu.engine.register_file import RegisterFile
from iommu.registers import EventControl, EventRegisters


class EventKind(Enum):
    """Why a unit sends a message."""

    FAULT = "fault event"
    """A fault, or an error of the invalidation queue (7.3)."""
    INVALIDATION = "invalidation completion event"
    """A wait descriptor with IF (6.5.2.8)."""
    PAGE_REQUEST = "page request event"
    """Page requests wait in their queue (7.5)."""
    POSTED_INTERRUPT = "posted-interrupt notification"
    """Interrupts wait in a posted-interrupt descriptor (5.2)."""


class Message(NamedTuple):
    """A 32-bit write of `data` to `address` that goes to the processors: a remapped interrupt, or what the unit sends
    itself, which is neither remapped nor posted.
    """

    address: int
    data: int


class Event:
    """One event: its control, data, address and upper address registers.

    Args:
        registers: the unit's registers; this class gives the control register its behaviour.
        event: the four registers: FAULT_EVENT, INVALIDATION_EVENT or PAGE_REQUEST_EVENT.
        send: called with each message.
    """

    def __init__(self, registers: RegisterFile, event: EventRegisters, send: Callable[[Message], None]) -> None:
        self._control, self._data = registers[event.control], registers[event.data]
        self._address, self._upper = registers[event.address], registers[event.upper_address]
        self._send = send
        self._control.effect = self._on_control

    def signal(self) -> None:
        """Raise the event: send the message, or hold it back while the event is masked."""
        if EventControl.IM.get(self._control.value):
            self._control.value |= EventControl.IP.mask
        else:
            self._send_message()

    def withdraw(self) -> None:
        """Software has serviced every condition: a message that is still held back is not sent."""
        self._control.value &= ~EventControl.IP.mask

    def _on_control(self, _written: int) -> None:
        """Software unmasked the event: a message that was held back is sent now."""
        control = self._control.value
        if EventControl.IP.get(control) and not EventControl.IM.get(control):
            self.withdraw()
            self._send_message()

    def _send_message(self) -> None:
        self._send(Message(self._upper.value << 32 | self._address.value, self._data.value))
