"""One DMA-remapping unit: its registers, and the way a request takes through it."""

from __future__ import annotations

from typing import ClassVar

from iommu.engine.caches import Caches
from iommu.engine.capabilities import Capabilities
from iommu.engine.events import Message
from iommu.engine.faults import FaultLog
from iommu.engine.invalidation import Invalidation
from iommu.engine.policy import Policy
from iommu.engine.register_file import RegisterFile
from iommu.engine.request import DmaRequest, Outcome
from iommu.engine.second_stage import SecondStage
from iommu.engine.translation import Translation
from iommu.memory import Memory
from iommu.registers import GCMD, GSTS, RTADDR


class RemappingUnit:
    """An executable VT-d unit: software drives it through `mmio_write`, devices through `translate`.

        unit = RemappingUnit(memory, Capabilities(address_width=48))
        unit.mmio_write(RTADDR.offset, root_table, size=8)
        unit.mmio_write(GCMD.offset, GCMD.make(SRTP=1), size=4)
        unit.mmio_write(GCMD.offset, GCMD.make(TE=1), size=4)
        unit.translate(DmaRequest(SourceId(0, 4, 0), 0x5000, Access.WRITE))

    Args:
        memory: host memory, where the tables are.
        capabilities: what the unit offers.
        policy: how it uses the freedom the architecture leaves.

    The class attributes name the parts it is made of, so that a unit which departs from the specification in one
    part can be described by that part alone.
    """

    FaultLog: ClassVar[type[FaultLog]] = FaultLog
    SecondStage: ClassVar[type[SecondStage]] = SecondStage
    Translation: ClassVar[type[Translation]] = Translation
    Invalidation: ClassVar[type[Invalidation]] = Invalidation

    def __init__(
        self, memory: Memory, capabilities: Capabilities | None = None, policy: Policy | None = None
    ) -> None:
        self.memory = memory
        self.capabilities = capabilities or Capabilities()
        self.policy = policy or Policy()
        self.reset()

    def reset(self) -> None:
        """Power-good reset (spec 11.4): registers at their reset values, caches empty, no event pending."""
        self.registers = RegisterFile(self.capabilities)
        self._events: list[Message] = []
        self.caches = Caches()
        self.faults = self.FaultLog(self.registers, self.policy, self._events.append)
        self.invalidation = self.Invalidation(self.registers, self.caches)
        self.second_stage = self.SecondStage(self.memory, self.capabilities, self.policy)
        self.translation = self.Translation(
            self.memory, self.capabilities, self.second_stage, self.faults, self.caches
        )
        self.registers.slots["GCMD"].effect = self._on_command

    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` bytes, 4 or 8, at `offset` from the register base. Raises MisuseError for other accesses."""
        return self.registers.read(offset, size)

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """Write `size` bytes, 4 or 8, at `offset`. Raises MisuseError for other accesses."""
        self.registers.write(offset, value, size)

    def translate(self, request: DmaRequest) -> Outcome:
        """Take one request through the unit; a fault is recorded on the way.

        Raises MisuseError for a request no device could send.
        """
        return self.translation.translate(request.check())

    def drain_events(self) -> list[Message]:
        """The messages the unit has sent since the last call, oldest first."""
        events = self._events[:]
        self._events.clear()
        return events

    def _on_command(self, written: int) -> None:
        """GCMD: one-shot commands first, then the levels (spec 11.4.4.1)."""
        command, status = GCMD(written), self.registers.slots["GSTS"]
        if command.SRTP:
            self._set_root_table()
        status.value = GSTS.make(RTPS=GSTS.RTPS.get(status.value) | command.SRTP, TES=command.TE)
        self.translation.enabled = bool(command.TE)

    def _set_root_table(self) -> None:
        """Latch RTADDR. What is cached stays, unless the unit says that it invalidates by itself (CAP.ESRTPS)."""
        latched = RTADDR(self.registers.slots["RTADDR"].value)
        self.translation.root_table = latched.RTA
        self.translation.mode = self.invalidation.mode = latched.TTM
        if self.capabilities.invalidate_on_root_pointer:
            self.caches.drop_all_of_dma()
