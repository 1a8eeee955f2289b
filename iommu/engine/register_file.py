"""The register window (spec chapter 11): where each register stands, how it is accessed, what a write may change."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from iommu.engine.capabilities import Capabilities
from iommu.errors import MisuseError
from iommu.fields import Rule
from iommu.registers import FIXED_REGISTERS, FRCD, IOTLB, IVA, MTRRCAP, Register

Effect = Callable[[int], None]
"""Called after a write with the bits software wrote, 0 where the access did not reach."""


class Slot:
    """One register of one unit: its value, its offset, and the bits software can change."""

    def __init__(self, layout: type[Register], offset: int, value: int, host_address_width: int) -> None:
        self.layout, self.offset, self.value = layout, offset, value
        self.size = layout.bits // 8
        self.effect: Effect | None = None
        # Address bits beyond the host's width are not implemented: they read as 0.
        self._stored = layout.mask_of(Rule.RW) | layout.mask_of(Rule.WO)
        if host_address_width < layout.bits:
            for part in layout.fields.values():
                if part.shift and part.msb >= host_address_width:
                    self._stored &= ~(part.mask >> host_address_width << host_address_width)
        self._rw1c = layout.mask_of(Rule.RW1C)
        self._hidden = layout.mask_of(Rule.WO)

    def read(self) -> int:
        """What software reads: write-only bits are 0."""
        return self.value & ~self._hidden

    def write(self, value: int, reach: int) -> None:
        """Software writes `value` to the bits in `reach`; the other bits keep theirs."""
        stored = self._stored & reach
        self.value = (self.value & ~stored | value & stored) & ~(value & reach & self._rw1c)
        if self.effect is not None:
            self.effect(value & reach)


class RegisterFile:
    """All registers of one unit, in 32- and 64-bit accesses aligned to their size (spec 11.3).

    `slots` are by name: "GSTS", "IOTLB", ... and "FRCD0", "FRCD1", ....
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.slots: dict[str, Slot] = {}
        for name, layout, offset in FIXED_REGISTERS:
            if not layout.needs or layout.needs in capabilities.offered:
                self._place(name, layout, offset)
        self._place("IVA", IVA, capabilities.iotlb_offset)
        self._place("IOTLB", IOTLB, capabilities.iotlb_offset + 8)
        for n in range(capabilities.fault_records):
            self._place(f"FRCD{n}", FRCD, capabilities.fault_record_offset + 16 * n)
        self._by_offset = sorted(self.slots.values(), key=lambda slot: slot.offset)
        self._offsets = [slot.offset for slot in self._by_offset]
        self.slots["VER"].value = self.capabilities.version
        self.slots["CAP"].value = capabilities.cap
        self.slots["ECAP"].value = capabilities.ecap
        if capabilities.memory_types:
            self.slots["MTRRCAP"].value = MTRRCAP.make(WC=1, FIX=1, VCNT=10)

    def _place(self, name: str, layout: type[Register], offset: int) -> None:
        # IVA's address is an input address of devices, not one of the host's: all of its bits are there.
        width = 64 if layout is IVA else self.capabilities.host_address_width
        self.slots[name] = Slot(layout, offset, layout.reset, width)

    def read(self, offset: int, size: int) -> int:
        """The bits at `offset`; 0 where no register stands. Raises MisuseError for another size or alignment."""
        check_access(offset, size)
        value = 0
        for slot, shift in self._reached(offset, size):
            value |= slot.read() << shift if shift >= 0 else slot.read() >> -shift
        return value & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        """Write the register, or the half of one, at `offset`; nothing happens where none stands."""
        check_access(offset, size)
        if value < 0 or value >> 8 * size:
            raise MisuseError(f"{value:#x} does not fit a {size}-byte register access")
        access = (1 << 8 * size) - 1
        for slot, shift in self._reached(offset, size):
            whole = (1 << slot.layout.bits) - 1
            if shift >= 0:
                slot.write(value >> shift & whole, access >> shift & whole)
            else:
                slot.write(value << -shift & whole, access << -shift & whole)

    def _reached(self, offset: int, size: int) -> list[tuple[Slot, int]]:
        """The registers an access touches, lowest first, and how far up in the access each begins, in bits."""
        last = bisect_right(self._offsets, offset + size - 1)
        near = self._by_offset[max(0, last - 2) : last]
        return [(slot, 8 * (slot.offset - offset)) for slot in near if slot.offset + slot.size > offset]


def check_access(offset: int, size: int) -> None:
    """Raises MisuseError for accesses whose effect the architecture leaves undefined (spec 11.3)."""
    if size not in (4, 8):
        raise MisuseError(f"registers are accessed in 4 or 8 bytes, not {size}")
    if offset < 0 or offset % size:
        raise MisuseError(f"register offset {offset:#x} is not a multiple of the access size {size}")
