"""One unit of a snapshot: its registers, and a unit of the model made from them."""

from __future__ import annotations

from dataclasses import dataclass

from iommu.engine.capabilities import Capabilities
from iommu.engine.invalidation.selector import Selector
from iommu.engine.policy import Policy
from iommu.engine.unit import RemappingUnit
from iommu.errors import FormatError
from iommu.explain.report import FaultReport, from_record
from iommu.memory import Memory
from iommu.registers import CAP, ECAP, GCMD, GSTS, IRTA, PHMBASE, PHMLIMIT, PLMBASE, PLMLIMIT, PMEN, RTADDR, VER

NOT_SHOWN = (
    "what the unit has cached",
    "what SRTP and SIRTP have latched: RTADDR and IRTA are taken for it",
    "commands and messages that are pending",
)
"""What registers and memory do not show of a unit."""
WIDTH_ASSUMED = "the host address width, for want of a DMAR: that of CAP.MGAW is taken for it"

MOST_REGISTERS = 1 << 20
"""Bytes of a register window that are read; no window is larger."""

# Software writes these once, before it enables anything.
_SETTINGS = (RTADDR, IRTA, PLMBASE, PLMLIMIT, PHMBASE, PHMLIMIT, PMEN)


def assumed_width(registers: bytes) -> int:
    """The host address width to take for a unit with these registers when there is no DMAR that says it."""
    return min(max(CAP.MGAW.get(int.from_bytes(registers[CAP.offset : CAP.offset + 8], "little")) + 1, 32), 52)


@dataclass(frozen=True)
class UnitSnapshot:
    """The registers of one unit, and memory.

    Attributes:
        name: where it comes from.
        registers: the register window, from its start.
        memory: the memory that holds its tables.
        host_address_width: in bits.
        register_base: the physical address of the window; for display only.
        state: what `RemappingUnit.save` has returned; None if the snapshot does not have it.

    Raises:
        FormatError: the window is too small to be one.
    """

    name: str
    registers: bytes
    memory: Memory
    host_address_width: int
    register_base: int
    state: bytes | None = None

    def __post_init__(self) -> None:
        if len(self.registers) < RTADDR.offset + 8:
            raise FormatError(
                f"{len(self.registers)} bytes are too few for a register window",
                offset=0,
                where="registers.bin",
                field="size",
            )

    def register(self, offset: int, size: int) -> int:
        """The register at `offset`, of `size` bytes; bytes that were not saved read as 0."""
        return int.from_bytes(self.registers[offset : offset + size], "little")

    def capabilities(self) -> Capabilities:
        """What the unit can do, decoded from VER, CAP and ECAP. Raises MisuseError if they contradict each other."""
        return Capabilities.from_registers(
            self.register(CAP.offset, 8),
            self.register(ECAP.offset, 8),
            self.host_address_width,
            self.register(VER.offset, 4) & 0xFF,
        )

    def unit(self, policy: Policy | None = None, kind: type[RemappingUnit] = RemappingUnit) -> RemappingUnit:
        """A unit of the model in the state of this one.

        Registers do not show all of it. Without a saved state nothing is cached, no fault is recorded, the queues are
        off, and SRTP and SIRTP are taken to have latched what RTADDR and IRTA hold.

        Args:
            policy: with a saved state, the one that the unit must have.
            kind: the class of the unit.

        Raises MisuseError as `capabilities` does, and StateError for a saved state that is malformed or of a unit
        that differs.
        """
        if self.state is not None:
            return kind.restore(self.state, self.memory, capabilities=self.capabilities(), policy=policy)
        unit = kind(self.memory, self.capabilities(), policy)
        for layout in _SETTINGS:
            unit.mmio_write(layout.offset, self.register(layout.offset, layout.bits // 8), layout.bits // 8)
        status = GSTS(self.register(GSTS.offset, 4))
        unit.mmio_write(GCMD.offset, GCMD.make(SRTP=status.RTPS | status.TES, SIRTP=status.IRTPS | status.IRES), 4)
        unit.mmio_write(GCMD.offset, GCMD.make(TE=status.TES, IRE=status.IRES, CFI=status.CFIS), 4)
        return unit

    def unit_without_caches(self) -> RemappingUnit:
        """The unit with nothing cached: it reads the tables as they are in memory. Raises as `unit` does."""
        unit = self.unit()
        unit.caches.invalidate_dma()
        unit.caches.invalidate(Selector.interrupts())
        return unit

    def faults(self) -> list[FaultReport]:
        """The recorded faults that are not yet cleared. Raises MisuseError as `capabilities` does."""
        capabilities = self.capabilities()
        places = (capabilities.fault_record_offset + 16 * n for n in range(capabilities.fault_records))
        records = (self.register(place, 16) for place in places)
        return [from_record(raw) for raw in records if raw >> 127]
