"""Register accesses: every register, values at their edges, and what reads back."""

from __future__ import annotations

from iommu.registers import CCMD, GCMD, GSTS, IOTLB, Register, registers_of
from iommu.registers.map import Placed
from qemu.vtd.fuzz.actions import Action, Messages, Peek, Poke
from qemu.vtd.fuzz.case import SETUPS, Case
from qemu.vtd.fuzz.generate.dice import Dice

_WINDOW = 0x230
"""The bytes that QEMU's units have registers in."""


def make(dice: Dice, setup: str) -> Case:
    """A few writes, mostly of whole registers, each followed by a look at what reads back."""
    unit = SETUPS[setup].capabilities
    there = [each for each in registers_of(unit.cap, unit.ecap, unit.offered) if each.end <= _WINDOW]
    actions: list[Action] = []
    on = 0
    for _ in range(1 + dice.number(6)):
        placed = _register(dice, there)
        what = dice.pick("register access", {"write": 10, "read": 2, "half": 2, "odd": 1})
        size = placed.layout.bits // 8 if placed.layout.bits < 128 else 8
        at = placed.offset + (8 * dice.number(2) if placed.layout.bits == 128 else 0)
        if placed.layout is GCMD:
            on = _command(dice, on, actions)
            continue
        if on & GCMD.QIE.mask and placed.layout in (CCMD, IOTLB):
            continue  # what these do while the queue is on is not defined
        match what:
            case "write":
                actions += [Poke(at, _value(dice, placed.layout, size, at - placed.offset), size), Peek(at, size)]
            case "read":
                actions.append(Peek(at, size))
            case "half":
                half = at + 4 * dice.number(2) if size == 8 else at
                actions += [Poke(half, dice.edge(32), 4), Peek(at, size)]
            case "odd":
                odd = dice.one_of((1, 2))
                actions += [Poke(at, dice.edge(8 * odd), odd), Peek(at, odd), Peek(at, size)]
        if dice.chance(30):
            other = _register(dice, there)
            actions.append(Peek(other.offset, min(other.layout.bits // 8, 8)))
        if dice.chance(10):
            actions.append(Messages())
    return Case(setup, "off", tuple(actions))


def _command(dice: Dice, on: int, actions: list[Action]) -> int:
    """One change of GCMD: several at once are not defined (11.4.4.1). Returns what is on afterwards."""
    parts = [part for part in GCMD.fields.values() if part is not GCMD.TE or dice.chance(20)]
    part = dice.one_of(parts)
    actions += [Poke(GCMD.offset, on ^ part.mask, 4), Peek(GSTS.offset, 4)]
    return on if part in (GCMD.SRTP, GCMD.SIRTP, GCMD.WBF) else on ^ part.mask


def _register(dice: Dice, there: list[Placed]) -> Placed:
    names = {each.layout.__name__: 8 for each in there}
    name = dice.pick("register", names)
    return dice.one_of([each for each in there if each.layout.__name__ == name])


def _value(dice: Dice, layout: type[Register], size: int, shift: int) -> int:
    """A value for a register, or a half of it from byte `shift` on."""
    value = 0
    if dice.chance(50):
        for part in layout.fields.values():
            if dice.chance(50):
                value |= dice.edge(part.width) << part.lsb
        value >>= 8 * shift
    else:
        value = dice.edge(8 * size)
    return value & (1 << 8 * size) - 1
