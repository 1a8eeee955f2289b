"""The error that stops the invalidation queue."""

from __future__ import annotations

from iommu.registers import QueueFault


class QueueError(Exception):
    """Raised inside the engine when the queue has to stop. It never leaves the unit.

    `consumed`: the head still moves past the descriptor.
    """

    def __init__(self, code: QueueFault, *, consumed: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.consumed = consumed
