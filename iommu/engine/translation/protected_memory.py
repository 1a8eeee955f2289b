"""Protected memory regions (spec 11.4.8): two ranges of host memory that are blocked for DMA while enabled."""

from __future__ import annotations

from collections.abc import Callable

from iommu.engine.register_file import RegisterFile
from iommu.registers import PHMBASE, PHMLIMIT, PLMBASE, PLMLIMIT, PMEN

_GRANULE = (1 << 20) - 1


class ProtectedMemory:
    """The regions, enabled by PMEN.

    `ranges` holds the first and last byte of each enabled region. `changed` is called when it changes.
    """

    def __init__(self, registers: RegisterFile) -> None:
        self._registers = registers
        self.ranges: list[tuple[int, int]] = []
        self.changed: Callable[[], None] = lambda: None
        if slot := registers.get(PMEN):
            slot.effect = self._on_enable

    def blocks(self, host: int) -> bool:
        """Whether a host address is protected."""
        return any(first <= host <= last for first, last in self.ranges)

    def _on_enable(self, _written: int) -> None:
        """PMEN was written: EPM takes effect at once, and PRS follows. A limit below its base protects nothing."""
        slot = self._registers[PMEN]
        enabled = PMEN.EPM.get(slot.value)
        slot.value = PMEN.PRS.put(slot.value, enabled)
        self.ranges = []
        for base, limit in ((PLMBASE, PLMLIMIT), (PHMBASE, PHMLIMIT)):
            if enabled and self._registers.get(base):
                first, last = self._registers[base].value, self._registers[limit].value | _GRANULE
                if first <= last:
                    self.ranges.append((first, last))
        self.changed()
