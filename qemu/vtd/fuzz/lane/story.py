"""One case of a batch as a list of actions: those of the fuzzer's cases, so that it can be run again by itself."""

from __future__ import annotations

from iommu.registers import CCMD, GCMD, RTADDR
from qemu.vtd.fuzz.lane.judge import INVALIDATE_CONTEXTS, INVALIDATE_TRANSLATIONS, TAKE_ROOT
from qemu.vtd.fuzz.lane.result import Step
from qemu.vtd.fuzz.lane.worlds import Maker, Worlds

# On the fuzzer's machine of 10 MiB: where tables may be, and the 2 MiB in which the data is.
_TABLES, _DATA = 0x110000, 0x600000
_DEVICE = "B"


def story(worlds: Worlds, case: int, mode: int, iotlb: int) -> tuple[Step, ...]:
    """A case where it is.

    Args:
        mode: RTADDR.TTM.
        iotlb: the offset of the IOTLB register.
    """
    used = worlds.used[case].nonzero()[0].tolist()
    steps: list[Step] = [("store", int(worlds.places[case, at]) * 8, int(worlds.words[case, at]), 8) for at in used]
    slot, contents = int(worlds.slots[case]) * 8, int(worlds.choices.contents[case])
    steps += [
        ("store", slot, contents, 8),
        ("poke", RTADDR.offset, int(worlds.roots[case]) | RTADDR.make(TTM=mode), 8),
        ("poke", GCMD.offset, TAKE_ROOT, 4),
        ("poke", CCMD.offset, INVALIDATE_CONTEXTS, 8),
        ("poke", iotlb, INVALIDATE_TRANSLATIONS, 8),
    ]
    address = int(worlds.addresses[case])
    if worlds.choices.inverts[case]:
        steps.append(("dma", _DEVICE, "read", address))
    return *steps, ("dma", _DEVICE, "write", address), ("load", slot, 8), ("faults",)


def moved(maker: Maker, worlds: Worlds, case: int) -> Worlds:
    """The same case alone, on the fuzzer's small machine: the same choices and changes, other pages."""
    slot = _DATA | int(worlds.slots[case]) * 8 & 0x1FFFF8
    inside = int(worlds.inside[case])
    return maker.alone(worlds.choices.only(case), worlds.length, _TABLES, slot // 8, inside)
