"""Shrinking: what is left is needed, all of it; nothing is tried twice."""

from __future__ import annotations

from qemu.vtd.fuzz.actions import Action, Dma, Faults, Store
from qemu.vtd.fuzz.case import Case
from qemu.vtd.fuzz.generate import make
from qemu.vtd.fuzz.shrink import shrink

NEEDED = Store(0x110000, 0xFFFF, 8)


def with_noise() -> Case:
    made, _ = make(3, "legacy", 5, "WIDE", {})
    noise = made.actions
    return Case("WIDE", "legacy", (*noise, NEEDED, *noise, Dma("B", "write", 0x7FFC), *noise, Faults(), *noise))


def shows(case: Case) -> bool:
    """A store with bits 3 and 9 comes before a DMA beyond 0x3ffc."""
    kinds = case.actions
    first = next((n for n, each in enumerate(kinds) if isinstance(each, Store) and each.value & 0x208 == 0x208), None)
    return first is not None and any(isinstance(each, Dma) and each.address & 0x4000 for each in kinds[first:])


def test_only_what_is_needed_is_left() -> None:
    smaller = shrink(with_noise(), shows)
    store, dma = smaller.actions
    assert isinstance(store, Store)
    assert store.value == 0x208
    assert isinstance(dma, Dma)
    assert dma.address == 0x4000


def test_nothing_is_tried_twice() -> None:
    tried: list[tuple[Action, ...]] = []

    def watching(case: Case) -> bool:
        tried.append(case.actions)
        return shows(case)

    shrink(with_noise(), watching)
    assert len(set(tried)) == len(tried)
    assert len(tried) > 10


def test_there_is_an_end() -> None:
    count = 0

    def counting(case: Case) -> bool:
        nonlocal count
        count += 1
        return shows(case)

    shrink(with_noise(), counting, most=20)
    assert count == 20


def test_a_value_that_makes_an_action_impossible_is_not_tried() -> None:
    """Of an interrupt's address, the bits that put it in the interrupt range cannot be cleared."""
    from qemu.vtd.fuzz.actions import Msi

    case = Case("WIDE", "interrupts", (Msi("B", 0xFEE0_0FF0, 0xFF),))
    assert shrink(case, lambda each: True) == Case("WIDE", "interrupts", (Msi("B", 0xFEE0_0000, 0),))
