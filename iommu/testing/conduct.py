"""What software may do with the registers of a unit, and what it did against that (spec 6.9, 11.2, 11.4.4.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from iommu.engine.register_file import RegisterFile, Slot, check_access
from iommu.fields import Rule
from iommu.registers import CCMD, GCMD, GSTS, IOTLB, PMEN, REGISTERS, Register


class Misuse(NamedTuple):
    """Something that software did with a register against the specification.

    Attributes:
        what: in words.
        section: the section that says otherwise.
    """

    what: str
    section: str

    def __str__(self) -> str:
        return f"{self.what} (spec {self.section})"


class Pending(NamedTuple):
    """A command that software has given and not yet seen completed.

    Attributes:
        command: the fields that gave it, such as "GCMD.TE".
        status: the register that shows its completion.
        bits: the bits of that register that show it.
        done: what these bits are then.
    """

    command: str
    status: type[Register]
    bits: int
    done: int

    @property
    def how(self) -> str:
        """How software sees its completion."""
        fields = (part for part in self.status.fields.values() if part.mask & self.bits)
        wanted = (f"{part.name} is {int(bool(part.mask & self.done))}" for part in fields)
        return f"read {self.status.__name__} until {' and '.join(wanted)}"


class Part(NamedTuple):
    """The part of one register that an access reaches: the bits of `value` that are in `reach`."""

    slot: Slot
    value: int
    reach: int


class Conduct:
    """Checks each access of software to the registers of a unit.

    Attributes:
        misuses: what software did against the specification, oldest first.
        pending: the command that software has to wait for; None if there is none.
    """

    def __init__(self, registers: RegisterFile) -> None:
        self._registers = registers
        self.misuses: list[Misuse] = []
        self.pending: Pending | None = None

    def on_read(self, offset: int, value: int, size: int) -> None:
        """Software has read `value`."""
        parts = self._parts(offset, value, size)
        self._check_reach("read", offset, size, parts)
        for part in parts:
            wanted = self.pending
            if wanted is not None and part.slot.layout is wanted.status and not wanted.bits & ~part.reach:
                self.pending = None if part.value & wanted.bits == wanted.done else wanted

    def on_write(self, offset: int, value: int, size: int) -> None:
        """Software is about to write `value`."""
        check_access(offset, size)
        parts = self._parts(offset, value, size)
        self._check_reach("write", offset, size, parts)
        for part in parts:
            self._check_reserved(part)
            if part.slot.layout in _COMMANDS:
                self._check_command(part)

    def _parts(self, offset: int, value: int, size: int) -> list[Part]:
        """The registers that an access reaches, lowest first."""
        found, access = [], (1 << 8 * size) - 1
        for slot in self._registers:
            if slot.offset < offset + size and offset < slot.offset + slot.size:
                up, whole = 8 * (offset - slot.offset), (1 << slot.layout.bits) - 1
                value_there, reach = (value << up, access << up) if up >= 0 else (value >> -up, access >> -up)
                found.append(Part(slot, value_there & whole, reach & whole))
        return found

    def _check_reach(self, access: str, offset: int, size: int, parts: list[Part]) -> None:
        """An access reaches one register of the unit."""
        if not parts:
            self._misuse(f"{access} of offset {offset:#x}, where this unit has no register{_missing(offset)}", "11.4")
        if len(parts) > 1:
            names = " and ".join(part.slot.layout.__name__ for part in parts)
            self._misuse(f"{access} of {size} bytes at offset {offset:#x}, which reaches {names} at once", "11.2")

    def _check_reserved(self, part: Part) -> None:
        """Reserved bits read as 0 on this unit: they are written as 0, whether they are RsvdZ or RsvdP."""
        layout = part.slot.layout
        writable = layout.mask_of(Rule.RW) | layout.mask_of(Rule.WO)
        reserved = layout.reserved_mask(offered=self._registers.capabilities.offered)
        reserved |= writable & ~self._registers.stored_bits(layout)
        if wrong := part.value & reserved & part.reach:
            self._misuse(f"write to {layout.__name__} with reserved bits {wrong:#x}", "11.2")

    def _check_command(self, part: Part) -> None:
        """Commands are given one at a time: the next one after software has seen the last one completed."""
        name, given = part.slot.layout.__name__, _COMMANDS[part.slot.layout](self._registers, part)
        if given is None:
            return
        if name == "GCMD" and given.bits.bit_count() > 1:
            self._misuse(f"write to GCMD that gives several commands at once: {given.command}", "11.4.4.1")
        if self.pending is not None:
            last = self.pending
            self._misuse(f"write to {name} before {last.command} was seen to complete: {last.how}", "6.9")
        self.pending = given

    def _misuse(self, what: str, section: str) -> None:
        self.misuses.append(Misuse(what, section))


def _missing(offset: int) -> str:
    """The register that other units have at this offset, as text."""
    for layout in REGISTERS:
        for place in layout.offsets:
            if place <= offset < place + layout.bits // 8:
                return f": {layout.__name__} needs the capability {layout.needs}"
    return ""


def _global_command(registers: RegisterFile, part: Part) -> Pending | None:
    """What a write to GCMD changes. The bits of GCMD and GSTS have the same positions."""
    one_shot = GCMD.bits_of("SRTP", "SIRTP", "WBF")
    enabled = registers[GSTS].value & ~one_shot
    changed = (part.value ^ enabled) & part.reach & GCMD.mask_of(Rule.WO)
    if not changed:
        return None
    names = [f"GCMD.{field.name}" for field in GCMD.fields.values() if field.mask & changed]
    # WBFS is the only status that is 1 while the command is being carried out.
    return Pending(" and ".join(names), GSTS, changed, part.value & changed & ~GSTS.WBFS.mask)


def _invalidation(start: str) -> Callable[[RegisterFile, Part], Pending | None]:
    def given(_registers: RegisterFile, part: Part) -> Pending | None:
        layout = part.slot.layout
        bit = layout.bits_of(start)
        return Pending(f"{layout.__name__}.{start}", layout, bit, 0) if part.value & bit else None

    return given


def _protection(_registers: RegisterFile, part: Part) -> Pending | None:
    if PMEN.EPM.get(part.value) == PMEN.PRS.get(part.slot.value):
        return None
    return Pending("PMEN.EPM", PMEN, PMEN.PRS.mask, PMEN.make(PRS=PMEN.EPM.get(part.value)))


_COMMANDS: dict[type[Register], Callable[[RegisterFile, Part], Pending | None]] = {
    GCMD: _global_command,
    CCMD: _invalidation("ICC"),
    IOTLB: _invalidation("IVT"),
    PMEN: _protection,
}
"""The registers by which software gives commands, each with what a write to it starts."""
