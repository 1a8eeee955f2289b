"""Departures in the invalidation queue (spec 6.5.2)."""

from __future__ import annotations

from typing import Any

from iommu.engine.invalidation.errors import QueueError
from iommu.engine.invalidation.queue import Queue
from iommu.registers import FSTS, QueueFault
from iommu.structures import WaitDescriptor
from qemu.vtd.quirks.quirk import Quirk


class FenceOnlyWaitRefused(Quirk, Queue):
    """A wait descriptor that is only a fence is refused.

    `vtd_process_wait_desc` accepts SW or IF and takes everything else for an invalid descriptor. Seen up to 10.0.
    """

    id = "Q10"
    section = "6.5.2.8"
    scenarios = ("queue.wait.fence-only",)
    gone = (11, 0, 0)

    def wait(self, command: WaitDescriptor) -> None:
        """It has to ask for a status write or for an interrupt."""
        if not (command.SW or command.IF):
            raise QueueError(QueueFault.RESERVED)
        super().wait(command)


class QueueErrorWithoutCode(Quirk, Queue):
    """IQERCD does not say what was wrong with the queue: it reads as 0.

    The register is not implemented.
    """

    id = "Q11"
    section = "11.4.9.9"
    scenarios = ("queue.error.code",)

    def stop(self, code: QueueFault) -> None:
        """FSTS.IQE alone."""
        self.faults.set_status(FSTS.IQE.mask)


class QueueWaitsForTail(Quirk, Queue):
    """Clearing IQE does not resume the queue: it goes on when the tail is written.

    `vtd_handle_fsts_write` does not fetch descriptors.
    """

    id = "Q12"
    section = "6.5.2"
    scenarios = ("queue.error.resumes",)

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.faults.after_clear = lambda: None
