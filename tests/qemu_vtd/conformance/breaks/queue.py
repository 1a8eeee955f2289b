"""Breaks of the invalidation queue."""

from __future__ import annotations

from iommu.engine.invalidation.errors import QueueError
from iommu.engine.invalidation.queue import Queue
from iommu.registers import FSTS, IQERCD, IQT, QueueFault
from iommu.structures import ContextDescriptor, Descriptor, IotlbDescriptor, WaitDescriptor
from tests.qemu_vtd.conformance.breaks.broken import Break


class StatusNotWritten(Break, Queue):
    """A wait descriptor writes no status."""

    scenario = "queue.wait.status"

    def write_status(self, address: int, data: int) -> None:
        return None


class EveryWaitInterrupts(Break, Queue):
    """A wait descriptor interrupts although IWC is set."""

    scenario = "queue.wait.two-interrupts"

    def complete(self) -> None:
        self._completed.value = 0
        super().complete()


class CompletionNotWithdrawn(Break, Queue):
    """Clearing IWC keeps a held completion message."""

    scenario = "queue.wait.withdrawn"

    def _on_completion_cleared(self, _written: int) -> None:
        return None


class FenceRefused(Break, Queue):
    """A wait descriptor that is only a fence is refused."""

    scenario = "queue.wait.fence-only"

    def wait(self, command: WaitDescriptor) -> None:
        if not (command.IF or command.SW):
            raise QueueError(QueueFault.RESERVED)
        super().wait(command)


class UnknownTypesSkipped(Break, Queue):
    """A descriptor of unknown type is skipped."""

    scenario = "queue.error.type-0"

    def carry_out(self, raw: int, bits: int) -> None:
        if Descriptor.TYPE.get(raw) in self._commands:
            super().carry_out(raw, bits)


class ReservedBitsUnchecked(Break, Queue):
    """Reserved bits of descriptors are ignored."""

    scenario = "queue.error.context-reserved"

    def carry_out(self, raw: int, bits: int) -> None:
        super().carry_out(raw & ~self._reserved.get(Descriptor.TYPE.get(raw), 0), bits)


class TailUnchecked(Break, Queue):
    """A tail beyond the queue is taken into it."""

    scenario = "queue.error.tail-beyond"

    def tail(self) -> int:
        return IQT.QT.get(self._tail.value) % self.size()


class NeverWraps(Break, Queue):
    """The head stops at the end of the queue."""

    scenario = "queue.wrap"

    def advance(self) -> None:
        if self.head() + self.width() == self.size():
            self.enabled = False
        else:
            super().advance()


class BadDescriptorPassed(Break, Queue):
    """The head moves past a descriptor that was refused."""

    scenario = "queue.error.type-0"

    def carry_out(self, raw: int, bits: int) -> None:
        try:
            super().carry_out(raw, bits)
        except QueueError as error:
            raise QueueError(error.code, consumed=True) from None


class ErrorWithoutEvent(Break, Queue):
    """An error of the queue raises no event."""

    scenario = "queue.error.message"

    def stop(self, code: QueueFault) -> None:
        self._error.value = IQERCD.IQEI.put(self._error.value, code)
        self._status.value |= FSTS.IQE.mask


class WrongCode(Break, Queue):
    """An unknown type is reported as a reserved field."""

    scenario = "queue.error.code"

    def stop(self, code: QueueFault) -> None:
        super().stop(QueueFault.RESERVED if code is QueueFault.TYPE else code)


class HeadKept(Break, Queue):
    """The head stays where it is when the queue is turned off."""

    scenario = "queue.off.head-is-0"

    def switch(self, on: int) -> None:
        head = self._head.value
        super().switch(on)
        if not on:
            self._head.value = head


class RunsWhileOff(Break, Queue):
    """A queue that is off fetches."""

    scenario = "queue.off.head-is-0"

    def is_fetching(self) -> bool:
        return not self._status.value & FSTS.IQE.mask


class OneAtATime(Break, Queue):
    """A write of the tail fetches one descriptor."""

    scenario = "queue.several-at-once"

    def run(self) -> None:
        if self.is_fetching() and self.head() != self.tail():
            self.process_next()


class HintKeepsPages(Break, Queue):
    """With the hint IH cached pages are kept too."""

    scenario = "queue.iotlb.leaf-only"

    def invalidate_translations(self, command: IotlbDescriptor) -> None:
        if not command.IH:
            super().invalidate_translations(command)


class GlobalContextIgnored(Break, Queue):
    """A global context-cache descriptor drops nothing."""

    scenario = "queue.context.global"

    def invalidate_contexts(self, command: ContextDescriptor) -> None:
        if command.G != 1:
            super().invalidate_contexts(command)


BREAKS = (
    StatusNotWritten,
    EveryWaitInterrupts,
    CompletionNotWithdrawn,
    FenceRefused,
    UnknownTypesSkipped,
    ReservedBitsUnchecked,
    TailUnchecked,
    NeverWraps,
    BadDescriptorPassed,
    ErrorWithoutEvent,
    WrongCode,
    HeadKept,
    RunsWhileOff,
    OneAtATime,
    HintKeepsPages,
    GlobalContextIgnored,
)
