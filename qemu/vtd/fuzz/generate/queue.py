"""The invalidation queue: descriptors of every type, whole and damaged, and the registers of the queue."""

from __future__ import annotations

from iommu.registers import FSTS, GCMD, GSTS, ICS, IECTL, IQA, IQERCD, IQH, IQT
from iommu.structures import DESCRIPTORS, DescriptorType, WaitDescriptor
from qemu.vtd.fuzz.actions import Action, Load, Peek, Poke, Store, Submit
from qemu.vtd.fuzz.case import FREE, QUEUE, SETUPS, Case
from qemu.vtd.fuzz.generate.dice import Dice

_SHOWN = (IQH, FSTS, ICS, IECTL, GSTS, IQERCD, IQT)
STATUS = FREE
"""Where most wait descriptors write."""


def make(dice: Dice, setup: str) -> Case:
    """Descriptors and register writes, each followed by a look at what it did."""
    scalable = SETUPS[setup].capabilities.scalable_mode
    wide = scalable and dice.pick("queue", {"narrow": 1, "wide": 3}) == "wide"
    actions: list[Action] = []
    for _ in range(1 + dice.number(5)):
        what = dice.pick(
            "queue action", {"descriptor": 12, "tail": 2, "address": 1, "status": 3, "command": 1, "raw": 1}
        )
        match what:
            case "descriptor":
                actions.append(Submit(_descriptor(dice, wide)))
            case "tail":
                value = dice.one_of((0, 16, 32, 48, 0xFF0, 0xFE0, 0x1000, dice.edge(32)))
                actions.append(Poke(IQT.offset, value, dice.one_of((4, 8, 8))))
            case "address":
                value = IQA.make(IQA=dice.one_of((QUEUE, FREE + 0x1000)), QS=dice.one_of((0, 0, 1, 7)))
                actions.append(Poke(IQA.offset, value | int(wide) << 11, 8))
            case "status":
                actions.append(Poke(FSTS.offset, dice.one_of((0x10, 0x20, 0x40, 0x70, 0x7F)), 4))
                if dice.chance(50):
                    actions.append(Poke(ICS.offset, 1, 4))
            case "command":
                actions.append(Poke(GCMD.offset, dice.one_of((0, GCMD.QIE.mask)), 4))
            case "raw":
                size = 32 if wide else 16
                actions.append(Store(QUEUE + size * dice.number(4), _descriptor(dice, wide), size))
        for register in _SHOWN:
            if dice.chance(60):
                actions.append(Peek(register.offset, register.bits // 8))
        if dice.chance(40):
            actions.append(Load(STATUS, 16))
    actions += [Peek(FSTS.offset, 4), Peek(IQH.offset, 8)]
    return Case(setup, "queue, wide" if wide else "queue", tuple(actions))


def _descriptor(dice: Dice, wide: bool) -> int:
    """A descriptor: its fields at their edges, and sometimes a bit that is otherwise."""
    options = {each.name: 4 for each in DescriptorType} | {"WAIT": 8, "other": 1}
    name = dice.pick("descriptor", options)
    if name == "other":
        return dice.random.getrandbits(128 if not wide else 256)
    type_ = DescriptorType[name]
    layout, value = DESCRIPTORS[type_], int(type_)
    if type_ is DescriptorType.WAIT:
        status = dice.one_of((STATUS, STATUS + 4, STATUS + 8, STATUS, 0xA00000 - 4))
        value |= WaitDescriptor.make(STADDR=status, STDATA=dice.edge(32), SW=dice.number(2))
        value |= dice.one_of((0, 0, WaitDescriptor.IF.mask)) | dice.one_of((0, 0, WaitDescriptor.FN.mask))
        # 7.2 ends when a wait descriptor asks for both: that is known, and costs a start each time.
        if WaitDescriptor.SW.get(value) and dice.chance(95):
            value &= ~WaitDescriptor.IF.mask
    else:
        for part in layout.fields.values():
            if part.name not in ("TYPE", "TYPE_HIGH") and dice.chance(60):
                value |= dice.edge(part.width) << part.lsb
        if "G" in layout.fields and dice.chance(80):
            value = value & ~layout.fields["G"].mask | dice.one_of((1, 2, 3)) << 4 & layout.fields["G"].mask
    how = dice.pick("descriptor is", {"whole": 5, "with a bit": 2})
    return dice.flip(value, 256 if wide and dice.chance(40) else 128) if how == "with a bit" else value
