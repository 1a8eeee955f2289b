"""Commands that take a while: what a stepped unit has pending, and how it completes it step by step (spec 6.9)."""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import NamedTuple

from iommu.engine.invalidation.queue import Queue
from iommu.engine.register_file import Effect, RegisterFile
from iommu.registers import CCMD, GCMD, GSTS, IOTLB, IVA, PMEN, Register


class Work(Enum):
    """What can be pending, by the field of the register that starts it and that shows when it is done."""

    WRITE_BUFFER_FLUSH = "GCMD.WBF"
    ROOT_TABLE = "GCMD.SRTP"
    INTERRUPT_TABLE = "GCMD.SIRTP"
    TRANSLATION = "GCMD.TE"
    QUEUE = "GCMD.QIE"
    INTERRUPT_REMAPPING = "GCMD.IRE"
    COMPATIBILITY_INTERRUPTS = "GCMD.CFI"
    CONTEXT_INVALIDATION = "CCMD.ICC"
    IOTLB_INVALIDATION = "IOTLB.IVT"
    PROTECTED_MEMORY = "PMEN.EPM"
    DESCRIPTOR = "descriptor"
    """The descriptor at an offset in the invalidation queue."""
    DEVICE_TIME_OUT = "device-TLB time-out"
    """The queue is empty, and a device has not answered an invalidation."""


class Pending(NamedTuple):
    """One piece of pending work.

    Attributes:
        work: what is pending.
        value: of GCMD, the bit that software wrote; of the other registers, what they hold; of a descriptor, its byte
            offset in the queue; of a time-out, the source-id of the device.
    """

    work: Work
    value: int

    def __str__(self) -> str:
        return f"{self.work.value} {self.value:#x}"


class IgnoredWrite(NamedTuple):
    """A write that a unit ignored because it had not completed its command: the register's offset, and the bits."""

    offset: int
    value: int


# In the order in which one write's commands complete: each bit of GCMD, and its status.
_ONE_SHOT = ((Work.WRITE_BUFFER_FLUSH, GCMD.WBF), (Work.ROOT_TABLE, GCMD.SRTP), (Work.INTERRUPT_TABLE, GCMD.SIRTP))
_SWITCHES = (
    (Work.TRANSLATION, GCMD.TE, GSTS.TES),
    (Work.QUEUE, GCMD.QIE, GSTS.QIES),
    (Work.INTERRUPT_REMAPPING, GCMD.IRE, GSTS.IRES),
    (Work.COMPATIBILITY_INTERRUPTS, GCMD.CFI, GSTS.CFIS),
)
_GCMD_BITS = {work: part for work, part, *_ in (*_ONE_SHOT, *_SWITCHES)}
_REGISTERS: dict[Work, type[Register]] = {
    Work.CONTEXT_INVALIDATION: CCMD,
    Work.IOTLB_INVALIDATION: IOTLB,
    Work.PROTECTED_MEMORY: PMEN,
}


class Steps:
    """Holds back the commands that software gives in registers, and lets the queue take one descriptor at a time.

    Software gives one command at a time, in whichever register, and waits for its status; meanwhile the register
    belongs to hardware (spec 6.9, 11.4.4.1, 11.4.6.1, 11.4.6.3, 11.4.8.1). What happens otherwise is undefined: here
    the write is ignored. A write of GCMD that asks for several commands is an exception: they complete one by one.

    Create it when the other parts have given the registers their effects.

    Attributes:
        commands: the register commands that are pending, the next first.
        ignored: the writes that were ignored, oldest first.

    Args:
        queue: the invalidation queue; None if the unit has none. It must not run on its own.
    """

    def __init__(self, registers: RegisterFile, queue: Queue | None) -> None:
        self._registers, self._queue = registers, queue
        self.commands: list[Pending] = []
        self.ignored: list[IgnoredWrite] = []
        self._held: dict[type[Register], int] = {}
        self._effects: dict[type[Register], Effect] = {}
        self._hold_back(GCMD, self._on_command)
        self._hold_back(CCMD, partial(self._on_start, Work.CONTEXT_INVALIDATION))
        self._hold_back(IOTLB, partial(self._on_start, Work.IOTLB_INVALIDATION))
        self._hold_back(PMEN, self._on_protect)
        registers[IVA].effect = self._on_address

    def _hold_back(self, layout: type[Register], begin: Effect) -> None:
        """Let `begin` see the writes of a register, whose own effect is for later."""
        slot = self._registers.get(layout)
        if slot is not None and slot.effect is not None:
            self._effects[layout], slot.effect = slot.effect, begin

    @property
    def pending(self) -> list[Pending]:
        """All that is pending, in the order in which it completes: the register commands, then the queue."""
        if self._queue is None:
            return self.commands[:]
        waiting = [Pending(Work.DESCRIPTOR, offset) for offset in self._queue.waiting()]
        if not waiting and self._queue.overdue:
            waiting = [Pending(Work.DEVICE_TIME_OUT, self._queue.overdue[0])]
        return [*self.commands, *waiting]

    def step(self) -> bool:
        """Complete the next piece of pending work. Returns whether there was any."""
        if self.commands:
            self._complete(self.commands.pop(0))
            return True
        return self._queue is not None and self._queue.step()

    def may_be_pending(self, command: Pending) -> bool:
        """Whether a register command can be pending as the registers are now."""
        if command.work in _GCMD_BITS:
            return command.value in (0, 1)
        layout = _REGISTERS.get(command.work)
        return layout in self._effects and command.value == self._registers[layout].value

    def restore(self, commands: list[Pending]) -> None:
        """Take over the pending register commands of another unit. The registers must have its values already."""
        self.commands = commands[:]
        for command in commands:
            if layout := _REGISTERS.get(command.work):
                self._hold(layout)

    # Software's side: a command begins.

    def _on_command(self, written: int) -> None:
        """GCMD was written: each one-shot command, and each switch that differs from its status, is pending."""
        if self.commands:
            self._ignore(GCMD, written)
            return
        status = self._registers[GSTS]
        asked = written & self._registers.stored_bits(GCMD)
        self.commands += [Pending(work, 1) for work, bit in _ONE_SHOT if bit.get(asked)]
        for work, bit, now in _SWITCHES:
            if bit.get(asked) != now.get(status.value):
                self.commands.append(Pending(work, bit.get(asked)))
        # 11.4.4.2: the pointers' statuses are clear, and that of the flush is set, while their commands are pending.
        status.value &= ~GSTS.make(RTPS=GCMD.SRTP.get(asked), IRTPS=GCMD.SIRTP.get(asked))
        status.value |= GSTS.make(WBFS=GCMD.WBF.get(asked))

    def _on_start(self, work: Work, written: int) -> None:
        """CCMD or IOTLB was written: a command begins if its start bit, the highest, was set."""
        layout = _REGISTERS[work]
        start = 1 << layout.bits - 1
        if self._is_held(layout, written) or not written & start:
            return
        if self.commands:
            self._registers[layout].value &= ~start
            self._ignore(layout, written)
        else:
            self._begin(work)

    def _on_address(self, written: int) -> None:
        """IVA was written."""
        self._is_held(IVA, written)

    def _on_protect(self, written: int) -> None:
        """PMEN was written: a command begins if EPM is not what PRS shows."""
        slot = self._registers[PMEN]
        enabled = PMEN.PRS.get(slot.value)
        if self._is_held(PMEN, written) or PMEN.EPM.get(slot.value) == enabled:
            return
        if self.commands:
            slot.value = PMEN.EPM.put(slot.value, enabled)
            self._ignore(PMEN, written)
        else:
            self._begin(Work.PROTECTED_MEMORY)

    def _begin(self, work: Work) -> None:
        layout = _REGISTERS[work]
        self.commands.append(Pending(work, self._registers[layout].value))
        self._hold(layout)

    def _hold(self, layout: type[Register]) -> None:
        """The register belongs to hardware; with IOTLB, so does IVA (spec 11.4.6.3)."""
        for each in (layout, IVA) if layout is IOTLB else (layout,):
            self._held[each] = self._registers[each].value

    def _is_held(self, layout: type[Register], written: int) -> bool:
        """Whether a register that was written belongs to hardware; the write is undone then."""
        if layout not in self._held:
            return False
        self._registers[layout].value = self._held[layout]
        self._ignore(layout, written)
        return True

    def _ignore(self, layout: type[Register], written: int) -> None:
        self.ignored.append(IgnoredWrite(self._registers[layout].offset, written))

    # Hardware's side: a command completes.

    def _complete(self, command: Pending) -> None:
        """Do what the register does on a unit that is not stepped: of GCMD for one bit, the others as they are."""
        self._held.clear()
        bit = _GCMD_BITS.get(command.work)
        if bit is None:
            layout = _REGISTERS[command.work]
            self._effects[layout](self._registers[layout].value)
            return
        status = GSTS(self._registers[GSTS].value)
        now = GCMD.make(TE=status.TES, QIE=status.QIES, IRE=status.IRES, CFI=status.CFIS)
        self._effects[GCMD](bit.put(now, command.value))
