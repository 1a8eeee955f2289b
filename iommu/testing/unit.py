"""The unit that a driver is tested on, and its registers as the driver sees them."""

from __future__ import annotations

from typing import Any

from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import Policy
from iommu.engine.request import DmaRequest, Outcome
from iommu.engine.unit import RemappingUnit
from iommu.memory import Memory
from iommu.testing.conduct import Conduct, Misuse


class WatchedUnit(RemappingUnit):
    """An audited unit that traces every request and checks what software does with its registers.

    The arguments are those of RemappingUnit.

    Attributes:
        conduct: the rules for software, and what software has done against them.
    """

    conduct: Conduct

    def __init__(
        self,
        memory: Memory,
        capabilities: Capabilities | None = None,
        policy: Policy | None = None,
        **options: Any,
    ) -> None:
        super().__init__(memory, capabilities, policy, **{"audit": True, **options})

    def reset(self) -> None:
        """See RemappingUnit. What software has done before is dropped."""
        super().reset()
        self.conduct = Conduct(self.registers)

    @property
    def misuses(self) -> list[Misuse]:
        """What software has done with the registers against the specification, oldest first."""
        return self.conduct.misuses

    def mmio_read(self, offset: int, size: int) -> int:
        """See RemappingUnit."""
        value = super().mmio_read(offset, size)
        self.conduct.on_read(offset, value, size)
        return value

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        """See RemappingUnit."""
        self.conduct.on_write(offset, value, size)
        super().mmio_write(offset, value, size)

    def translate(self, request: DmaRequest, *, trace: bool = True) -> Outcome:
        """See RemappingUnit. A failed assertion shows the trace."""
        return super().translate(request, trace=trace)


class Registers:
    """The registers of a unit as a driver accesses them, by their offsets in bytes."""

    def __init__(self, unit: RemappingUnit) -> None:
        self._unit = unit

    def read32(self, offset: int) -> int:
        """Read 4 bytes. Raises MisuseError if the offset is not a multiple of 4."""
        return self._unit.mmio_read(offset, 4)

    def read64(self, offset: int) -> int:
        """Read 8 bytes. Raises MisuseError if the offset is not a multiple of 8."""
        return self._unit.mmio_read(offset, 8)

    def write32(self, offset: int, value: int) -> None:
        """Write 4 bytes. Raises MisuseError if the offset is not a multiple of 4, or the value does not fit."""
        self._unit.mmio_write(offset, value, 4)

    def write64(self, offset: int, value: int) -> None:
        """Write 8 bytes. Raises MisuseError if the offset is not a multiple of 8, or the value does not fit."""
        self._unit.mmio_write(offset, value, 8)
