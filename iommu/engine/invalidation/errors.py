"""How a part of the invalidation queue says that it cannot go on."""

from __future__ import annotations

from iommu.registers import QueueFault


class QueueError(Exception):
    """Inside the engine: the queue cannot go on. Never leaves the unit.

    `consumed`: the descriptor counts as taken all the same; the head moves past it.
    """

    def __init__(self, code: QueueFault, *, consumed: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.consumed = consumed
