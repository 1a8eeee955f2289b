"""The register window (spec chapter 11): where each register is, how it is accessed, what a write can change."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import OddAccess, Policy
from iommu.errors import MisuseError
from iommu.fields import Rule
from iommu.registers import CAP, ECAP, IVA, MTRRCAP, VER, Register, registers_of

Effect = Callable[[int], None]
"""Called after a write with the value that software wrote; bits outside the access are 0, unless they are `kept`."""

_MOST = 64
"""The largest access that a processor makes, in bytes."""


class Slot:
    """One register of one unit: its value, its offset, and the bits software can change.

    `effect` is called after each write by software. `kept` gives what a write of some bytes leaves in the others, for
    a register that does not hold it itself. The unit itself sets `value`.

    Args:
        stored: the bits that take the value software writes.
        hidden: the bits that read as 0.
    """

    def __init__(self, layout: type[Register], offset: int, stored: int, hidden: int) -> None:
        self.layout, self.offset, self.value = layout, offset, layout.reset
        self.size = layout.bits // 8
        self.effect: Effect | None = None
        self.kept: Callable[[], int] = lambda: 0
        self._stored, self._hidden = stored, hidden
        self._rw1c = layout.mask_of(Rule.RW1C, Rule.RW1CS)

    def read(self) -> int:
        """What software reads: write-only bits, and fields whose capability the unit lacks, are 0."""
        return self.value & ~self._hidden

    def write(self, value: int, reach: int) -> None:
        """Software writes `value` to the bits in `reach`; the other bits keep their values."""
        stored = self._stored & reach
        self.value = (self.value & ~stored | value & stored) & ~(value & reach & self._rw1c)
        if self.effect is not None:
            self.effect(value & reach | self.kept() & ~reach)


def _beyond_host_width(layout: type[Register], width: int) -> int:
    """The bits of host addresses that a unit does not implement."""
    # IVA holds an input address of a device, not a host address: all of its bits are implemented.
    if layout is IVA:
        return 0
    return sum(part.mask >> width << width for part in layout.fields.values() if part.shift)


class RegisterFile:
    """All registers of one unit (spec 11.2).

    `registers[GSTS]` is the slot of a register, `registers.all(FRCD)` are the slots of an array, and iterating gives
    every slot in order of offset.

    Args:
        policy: only `odd_accesses` is used.
    """

    def __init__(self, capabilities: Capabilities, policy: Policy) -> None:
        self.capabilities = capabilities
        self._odd = policy.odd_accesses
        placed = registers_of(capabilities.cap, capabilities.ecap, capabilities.offered)
        self._by_offset = [
            Slot(layout, offset, self.stored_bits(layout), self.hidden_bits(layout)) for offset, layout in placed
        ]
        self._offsets = [slot.offset for slot in self._by_offset]
        self._slots: dict[type[Register], list[Slot]] = {}
        for slot in self._by_offset:
            self._slots.setdefault(slot.layout, []).append(slot)
        self[VER].value = capabilities.version
        self[CAP].value = capabilities.cap
        self[ECAP].value = capabilities.ecap
        if ranges := self.get(MTRRCAP):
            ranges.value = MTRRCAP.make(WC=1, FIX=1, VCNT=10)

    def stored_bits(self, layout: type[Register]) -> int:
        """The bits of a register that take the value software writes: none of a missing capability or address bit."""
        missing = self._absent(layout) | _beyond_host_width(layout, self.capabilities.host_address_width)
        return layout.mask_of(Rule.RW, Rule.WO) & ~missing

    def hidden_bits(self, layout: type[Register]) -> int:
        """The bits of a register that read as 0: write-only ones, and fields whose capability the unit lacks."""
        return layout.mask_of(Rule.WO) | self._absent(layout)

    def possible_bits(self, slot: Slot) -> int:
        """The bits of a register that can ever be 1, because software or the unit sets them."""
        layout = slot.layout
        of_the_unit = sum(part.mask for part in layout.fields.values() if part.rule not in (Rule.RW, Rule.WO))
        return of_the_unit & ~self._absent(layout) | self.stored_bits(layout) | layout.reset

    def is_constant(self, slot: Slot) -> bool:
        """Whether a register always has the value that it has in a new unit."""
        return slot.layout in (VER, CAP, ECAP, MTRRCAP)

    def _absent(self, layout: type[Register]) -> int:
        """The fields of a register whose capability the unit lacks."""
        needing = (part for part in layout.fields.values() if part.needs)
        return sum(part.mask for part in needing if part.needs not in self.capabilities.offered)

    def sticky(self) -> list[int]:
        """What the sticky fields hold, register by register: a warm reset keeps it."""
        return [slot.value & slot.layout.mask_of(Rule.ROS, Rule.RW1CS) for slot in self]

    def keep(self, sticky: list[int]) -> None:
        """Put back what `sticky` returned. The sticky fields must be as after a power-good reset: 0."""
        for slot, bits in zip(self, sticky, strict=True):
            slot.value |= bits

    def shown(self, slot: Slot) -> int:
        """What a register reads as."""
        return slot.read()

    def __getitem__(self, layout: type[Register]) -> Slot:
        """The slot of a register, for an array its first. Raises MisuseError where the unit has no such register."""
        if layout not in self._slots:
            raise MisuseError(f"this unit has no register {layout.__name__}")
        return self._slots[layout][0]

    def get(self, layout: type[Register]) -> Slot | None:
        """The slot of a register, for an array its first; None if the unit has no such register."""
        return next(iter(self.all(layout)), None)

    def all(self, layout: type[Register]) -> Sequence[Slot]:
        """The slots of an array of registers, in order; empty if the unit has no such registers."""
        return self._slots.get(layout, ())

    def __iter__(self) -> Iterator[Slot]:
        """Every slot, in order of offset."""
        return iter(self._by_offset)

    def read(self, offset: int, size: int) -> int:
        """The bits at `offset`; 0 where there is no register. Raises MisuseError as `is_carried_out` does."""
        if not self.is_carried_out(offset, size):
            return 0
        value = 0
        for slot, shift in self._reached(offset, size):
            value |= self.shown(slot) << shift if shift >= 0 else self.shown(slot) >> -shift
        return value & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        """Write the bits at `offset`; nothing happens where there is no register.

        Raises MisuseError as `is_carried_out` does, and for a value that does not fit.
        """
        carried_out = self.is_carried_out(offset, size)
        if value < 0 or value >> 8 * size:
            raise MisuseError(f"{value:#x} does not fit a {size}-byte register access")
        if not carried_out:
            return
        if self._odd is OddAccess.DWORDS and not is_regular(offset, size):
            value, size, offset = value << 8 * (offset & 3), (offset & 3) + size + 3 & ~3, offset & ~3
        access = (1 << 8 * size) - 1
        for slot, shift in self._reached(offset, size):
            whole = (1 << slot.layout.bits) - 1
            if shift >= 0:
                self.store(slot, value >> shift & whole, access >> shift & whole)
            else:
                self.store(slot, value << -shift & whole, access << -shift & whole)

    def is_carried_out(self, offset: int, size: int) -> bool:
        """Whether an access reaches registers, which the policy says where the architecture does not (spec 11.2).

        Raises MisuseError if the policy is MISUSE, and always for what no processor could send.
        """
        if is_regular(offset, size):
            return True
        if offset < 0 or not 0 < size <= _MOST:
            raise MisuseError(f"no processor accesses {size} bytes at register offset {offset:#x}")
        if self._odd is OddAccess.MISUSE:
            check_access(offset, size)
        return self._odd is not OddAccess.IGNORED

    def store(self, slot: Slot, value: int, reach: int) -> None:
        """Software writes `value` to the bits of a register in `reach`."""
        slot.write(value, reach)

    def _reached(self, offset: int, size: int) -> list[tuple[Slot, int]]:
        """The registers that an access overlaps, lowest first, each with its bit position in the access."""
        first, last = bisect_right(self._offsets, offset) - 1, bisect_right(self._offsets, offset + size - 1)
        near = self._by_offset[max(0, first) : last]
        return [(slot, 8 * (slot.offset - offset)) for slot in near if slot.offset + slot.size > offset]


def is_regular(offset: int, size: int) -> bool:
    """Whether the architecture defines an access: 4 or 8 bytes, aligned to their size (spec 11.2)."""
    return size in (4, 8) and offset >= 0 and offset % size == 0


def check_access(offset: int, size: int) -> None:
    """Raises MisuseError for an access that the architecture leaves undefined (spec 11.2)."""
    if size not in (4, 8):
        raise MisuseError(f"registers are accessed in 4 or 8 bytes, not {size}")
    if offset < 0 or offset % size:
        raise MisuseError(f"register offset {offset:#x} is not a multiple of the access size {size}")
