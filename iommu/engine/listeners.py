"""Who is told what a unit sends and invalidates: the two callbacks of its user, and the messages kept without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iommu.engine.ats import DeviceInvalidation
from iommu.engine.faults.events import EventKind, Message
from iommu.engine.invalidation.selector import Selector
from iommu.errors import MisuseError


class Listeners:
    """The callbacks of one unit.

    Attributes:
        on_message, on_invalidation: see RemappingUnit.
        kept: the messages sent while there was no `on_message`, oldest first.
    """

    def __init__(self) -> None:
        self.on_message: Callable[[EventKind, Message], object] | None = None
        self.on_invalidation: Callable[[Selector], object] | None = None
        self.kept: list[Message] = []
        self._telling = False

    def message(self, kind: EventKind, message: Message) -> None:
        """The unit sends a message."""
        if self.on_message is None:
            self.kept.append(message)
        else:
            self._tell(self.on_message, kind, message)

    def invalidated(self, named: Selector) -> None:
        """The unit has dropped what a selector names."""
        if self.on_invalidation is not None:
            self._tell(self.on_invalidation, named)

    def device_invalidated(self, source_id: int, command: DeviceInvalidation) -> None:
        """A device-TLB invalidation was sent, whether or not the device is attached."""
        if self.on_invalidation is not None:
            self._tell(self.on_invalidation, Selector.device_tlb(source_id, *command))

    def _tell(self, listener: Callable[..., object], *what: Any) -> None:
        """Call a listener, which may make the unit call another one."""
        before, self._telling = self._telling, True
        try:
            listener(*what)
        finally:
            self._telling = before

    def check_none_runs(self) -> None:
        """In the middle of a command the unit is half changed. Raises MisuseError if a listener is being called."""
        if self._telling:
            raise MisuseError("a listener of the unit commands or saves it: wait until the unit's call has returned")
