"""Departures in the invalidation queue (spec 6.5.2)."""

from __future__ import annotations

import signal
from typing import Any

from iommu.engine.invalidation.errors import QueueError
from iommu.engine.invalidation.queue import Queue
from iommu.registers import FSTS, QueueFault
from iommu.structures import DescriptorType, WaitDescriptor
from qemu.vtd.errors import QemuDied
from qemu.vtd.quirks.quirk import Quirk, Severity


class FenceOnlyWaitRefused(Quirk, Queue):
    """A wait descriptor that is only a fence is refused.

    A descriptor has to have SW or IF; any other is taken for an invalid one.
    """

    id = "Q10"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.2.8"
    hardware = "A wait descriptor with FN alone orders the descriptors around it and completes."
    driver = "A wait descriptor that is only a fence stops the queue in QEMU; with SW set it works on both."
    function = "vtd_process_wait_desc"
    scenarios = ("queue.wait.fence-only",)
    gone = (11, 0, 0)

    def wait(self, command: WaitDescriptor) -> None:
        """It has to ask for a status write or for an interrupt."""
        if not (command.SW or command.IF):
            raise QueueError(QueueFault.RESERVED)
        super().wait(command)


class WaitForBothAborts(Quirk, Queue):
    """QEMU aborts on a wait descriptor that asks for a status write and an interrupt.

    An assertion says that the two exclude each other. 10.0.13 does not have it; earlier stable releases may.
    """

    id = "Q20"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.2.8"
    hardware = "SW and IF may both be set: the status is written, then IWC is set and the message is sent."
    driver = "One wait descriptor with both SW and IF ends QEMU, and with it the whole virtual machine."
    function = "vtd_process_wait_desc"
    scenarios = ("queue.wait.both", "queue.error.status-write-event")
    gone = (10, 0, 13)

    def wait(self, command: WaitDescriptor) -> None:
        """The end of QEMU is an outcome like any other."""
        if command.SW and command.IF:
            raise QemuDied(-signal.SIGABRT)
        super().wait(command)


class CompletionDespiteFailedWrite(Quirk, Queue):
    """A wait descriptor whose status write fails still raises the completion event, and stops the queue."""

    id = "Q86"
    severity = Severity.REPORT_DIFFERS
    section = "6.5.2.8"
    hardware = (
        "The event comes after the status write. If that fails, IQE is set, and the descriptor is not complete."
    )
    driver = "In QEMU IWC is set for a wait descriptor with SW and IF although its status was never written."
    function = "vtd_process_wait_desc"
    scenarios = ("queue.error.status-write-event",)
    # Before, QEMU ends on such a descriptor: Q20.
    first = (10, 0, 13)

    def wait(self, command: WaitDescriptor) -> None:
        """The event, in any case."""
        try:
            super().wait(command)
        except QueueError:
            if command.SW and command.IF:
                self.complete()
            raise


class QueueErrorWithoutCode(Quirk, Queue):
    """IQERCD does not say what was wrong with the queue: it reads as 0.

    The register is not implemented.
    """

    id = "Q11"
    severity = Severity.REPORT_DIFFERS
    section = "11.4.9.9"
    hardware = "IQERCD.IQEI says what was wrong with the descriptor that the queue stopped at."
    driver = "IQERCD does not give the cause of an error in QEMU; look at the descriptor that IQH points to."
    function = "vtd_handle_inv_queue_error"
    scenarios = (
        "queue.error.code",
        "queue.error.code-tail",
        "queue.error.code-fetch",
        "queue.error.code-type-first",
        "queue.error.code-granularity",
        "queue.error.code-reserved",
        "queue.error.code-mask",
        "queue.error.code-width",
        "queue.error.code-alignment",
        "queue.error.code-upper-half",
    )

    def stop(self, code: QueueFault) -> None:
        """FSTS.IQE alone."""
        self.faults.set_status(FSTS.IQE.mask)


class QueueWaitsForTail(Quirk, Queue):
    """Clearing IQE does not resume the queue: it goes on when the tail is written."""

    id = "Q12"
    severity = Severity.FAILS_IN_QEMU
    section = "6.5.2"
    hardware = "Once software clears IQE, hardware fetches descriptors again, starting at the head."
    driver = (
        "A driver that clears IQE and waits hangs in QEMU; writing IQT again, with the same value, works on both."
    )
    function = "vtd_handle_fsts_write"
    scenarios = ("queue.error.resumes", "queue.recovery.cleared", "queue.recovery.cleared-then-command")

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._waits = False
        self.faults.after_clear = self._wait
        self._tail.effect = self._on_tail

    def _wait(self) -> None:
        self._waits = True

    def _on_tail(self, _written: int) -> None:
        self._waits = False
        self.run()

    def switch(self, on: int) -> bool:
        """A queue that is turned on begins anew. Other writes of GCMD do not make it go on."""
        self._waits &= self.enabled
        return super().switch(on)

    def is_fetching(self) -> bool:
        """Not between the two."""
        return not self._waits and super().is_fetching()


class DeviceTlbAlwaysAccepted(Quirk, Queue):
    """A device-TLB invalidation is accepted on a unit without device-TLB support."""

    id = "Q18"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2.5"
    hardware = "Without ECAP.DT the type of the descriptor is invalid: IQE is set, and the queue stops at it."
    driver = "A driver that does not look at ECAP.DT before it invalidates device-TLBs stops the queue on hardware."
    function = "vtd_process_inv_desc"
    scenarios = (
        "device-tlb.unsupported",
        "queue.types.low",
        "setup.scalable-unit.types-128",
        "setup.scalable-unit.types-256",
    )

    def has_type(self, number: int, bits: int) -> bool:
        """Type 3 needs nothing."""
        return number == DescriptorType.DEVICE_TLB or super().has_type(number, bits)


class DevicesAlwaysAnswer(Quirk, Queue):
    """Every invalidation of a device-TLB is complete at once, that of a device without one too.

    ITE and ICE are not implemented.
    """

    id = "Q19"
    severity = Severity.FAILS_ON_HARDWARE
    section = "6.5.2.10"
    hardware = (
        "A device that does not answer sets FSTS.ITE; the wait descriptors behind its invalidation are dropped."
    )
    driver = "Invalidating the device-TLB of a device without ATS works in QEMU, and times out on hardware."
    function = "vtd_process_device_iotlb_desc, vtd_process_device_piotlb_desc"
    scenarios = (
        "device-tlb.no-answer",
        "device-tlb.no-answer.everything",
        "device-tlb.no-answer.source",
        "device-tlb.no-answer.after-a-wait",
        "device-tlb.no-answer.and-an-error",
        "scalable.device-tlb.no-answer",
    )

    def no_completion(self, source_id: int) -> None:
        """It counts as an answer."""
