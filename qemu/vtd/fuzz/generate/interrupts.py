"""Interrupt-remapping entries, and the messages of devices and of the I/O APIC that use them."""

from __future__ import annotations

from iommu.structures import RemappedInterruptEntry
from qemu.vtd.fuzz.actions import Action, Faults, Msi, Pin, Store
from qemu.vtd.fuzz.case import INTERRUPTS, Case
from qemu.vtd.fuzz.generate.dice import Dice
from qemu.vtd.platform import DEVICES

_ENTRIES = 256
_SENT = tuple(int(each) for each in DEVICES.values())


def make(dice: Dice, setup: str) -> Case:
    """A few entries, and requests for them and beside them."""
    extended = setup == "EXTENDED" and dice.pick("interrupts", {"plain": 1, "extended": 3}) == "extended"
    actions: list[Action] = []
    indices = [dice.one_of((0, 1, 2, 0x7F, 0xFE, 0xFF)) for _ in range(1 + dice.number(3))]
    for index in indices:
        actions.append(Store(INTERRUPTS + 16 * index, _entry(dice, extended), 16))
    for _ in range(1 + dice.number(4)):
        if dice.chance(15):
            actions.append(Store(INTERRUPTS + 16 * dice.one_of(indices), _entry(dice, extended), 16))
        _request(dice, indices, actions)
        if dice.chance(85):
            actions.append(Faults())
    return Case(setup, "interrupts, extended" if extended else "interrupts", tuple(actions))


def _entry(dice: Dice, extended: bool) -> int:
    """An entry that works for one of the devices, with some fields or bits that are otherwise."""
    destination = dice.edge(32) if extended else dice.edge(8) << 8
    sid = dice.one_of(_SENT)
    entry = RemappedInterruptEntry.make(
        P=1,
        DST=destination,
        V=dice.one_of((0x10, 0x30, 0xFE, dice.number(256))),
        # Only fixed and lowest priority: NMI, SMI and INIT would make the processor run.
        DLM=dice.number(2),
        TM=dice.number(2),
        RH=dice.number(2),
        DM=dice.number(2),
        SID=sid,
        SQ=dice.number(4),
        SVT=dice.one_of((0, 1, 1, 2, 3)),
    )
    how = dice.pick("interrupt entry", {"whole": 3, "bit": 3, "field": 3, "bus range": 1})
    if how == "bit":
        entry = dice.flip(entry, 128)
    elif how == "field":
        entry, name = dice.field(entry, RemappedInterruptEntry)
        dice.taken.add(f"field interrupt entry: {name}")
    elif how == "bus range":
        entry = RemappedInterruptEntry.SVT.put(entry, 2)
        entry = RemappedInterruptEntry.SID.put(entry, dice.one_of((0x0000, 0x00FF, 0x0100, 0xFF00, 0x0001)))
    return _harmless(entry)


def _harmless(entry: int) -> int:
    """The entry with a delivery mode that does not make the processor run."""
    return RemappedInterruptEntry.DLM.put(entry, RemappedInterruptEntry.DLM.get(entry) & 1)


def _request(dice: Dice, indices: list[int], actions: list[Action]) -> None:
    """A request: of a device, remappable or not, or of a pin."""
    source = dice.pick("request", {"A": 4, "B": 5, "C": 3, "pin": 2})
    index = dice.one_of(indices) if dice.chance(85) else dice.one_of((0x100, 0x7FFF, 0x8000, 0xFFFF, 3))
    if source == "pin":
        entry = (index & 0x7FFF) << 49 | 1 << 48 | (index >> 15) << 11 | dice.number(256)
        if dice.pick("pin", {"remappable": 6, "other": 1}) == "other":
            entry &= ~(1 << 48)
        actions.append(Pin(1 + dice.number(23), entry | dice.number(2) << 15))
        return
    subhandle = dice.pick("subhandle", {"none": 4, "small": 2, "any": 1})
    shv, data = subhandle != "none", 0
    if subhandle == "small":
        data = dice.number(3)
    elif subhandle == "any":
        # Whether an index beyond 16 bits wraps is open.
        data = min(dice.edge(16), 0xFFFF - index)
    elif source != "A" and dice.chance(10):
        data = dice.edge(32)
    handle = index - data if shv and subhandle == "small" and index >= data else index
    address = 0xFEE0_0010 | (handle & 0x7FFF) << 5 | (handle >> 15) << 2 | shv << 3
    if dice.pick("format", {"remappable": 12, "compatible": 1}) == "compatible":
        address = 0xFEE0_0000 | dice.number(256) << 12 | dice.number(4) << 2
        data = dice.number(256) | dice.number(2) << 8
    actions.append(Msi(source, address, data))
