"""remapping.py: which entries are cached, when they become stale, and what an invalidation drops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import (
    Selector,
    SourceId,
)
from tests.engine.interrupting import (
    CFI,
    FIXED_41_TO_5,
    IRE,
    POSTED_71,
    TABLE,
    Interrupting,
)
from tests.engine.world import (
    ABSENT,
    NIC,
)

# 4.1-4.4: the interrupt-entry cache


def test_present_entries_are_cached_by_index() -> None:
    world = Interrupting()
    for index in (0, 1):
        world.irte(index)
        assert world.code(index) == 0
        world.irte(index, 0)
    assert (world.code(0), world.code(1)) == (0, 0)
    world.unit.caches.invalidate(Selector.interrupts(1, 0))
    assert (world.code(0), world.code(1)) == (0, 0x22)
    world.unit.caches.invalidate(Selector.interrupts())
    assert world.code(0) == 0x22


@pytest.mark.parametrize("mask", range(5))
def test_invalidation_of_a_block(mask: int) -> None:
    world = Interrupting(fault_records=1)
    for index in range(32):
        world.irte(index)
        world.interrupt(index)
        world.irte(index, 0)
    world.unit.caches.invalidate(Selector.interrupts(21, mask))
    gone = [index for index in range(32) if world.code(index)]
    assert gone == [index for index in range(32) if index >> mask == 21 >> mask]


BAD_ENTRIES = {
    0x22: (FIXED_41_TO_5 & ~1, 0),
    0x24: (FIXED_41_TO_5 | 1 << 12, 0),
    "SVT": (FIXED_41_TO_5, 3 << 18),
    "DLM": (FIXED_41_TO_5 | 3 << 5, 0),
}


@pytest.mark.parametrize("bad", BAD_ENTRIES)
@pytest.mark.parametrize("caching", [False, True])
def test_faulty_entries_are_cached_in_caching_mode_only(bad: int | str, caching: bool) -> None:
    """11.4.2, CM: it is for interrupt tables too."""
    world = Interrupting(caching_mode=caching)
    world.irte(0, *BAD_ENTRIES[bad])
    code = world.code(0)
    assert code == (0x22 if bad == 0x22 else 0x24)
    world.irte(0)
    assert world.code(0) == (code if caching else 0)
    world.unit.caches.invalidate(Selector.interrupts(0, 0))
    assert world.code(0) == 0


def test_entry_that_rejects_a_source_is_cached() -> None:
    """The entry is valid, only the request is not. So a change of the entry needs an invalidation."""
    world = Interrupting()
    world.irte(0, FIXED_41_TO_5, 1 << 18)
    assert world.code(0) == 0x26
    world.irte(0)
    assert world.code(0) == 0x26
    world.unit.caches.invalidate(Selector.interrupts(0, 0))
    assert world.code(0) == 0


def test_cached_entry_is_validated_for_each_source() -> None:
    world = Interrupting()
    world.irte(0, FIXED_41_TO_5, 1 << 18 | NIC)
    assert (world.code(0), world.code(0, source=SourceId.of(NIC + 1)), world.code(0)) == (0, 0x26, 0)


def test_cached_entry_needs_no_table() -> None:
    world = Interrupting()
    world.irte(0)
    world.interrupt(0)
    world.set_table(ABSENT | 7)
    assert (world.code(0), world.code(1)) == (0, 0x23)


def test_unreadable_table_is_not_cached() -> None:
    world = Interrupting(caching_mode=True)
    world.irte(0)
    world.set_table(ABSENT | 7)
    assert world.code(0) == 0x23
    world.set_table(TABLE | 7)
    assert world.code(0) == 0


def test_descriptor_is_never_cached() -> None:
    world = Interrupting(posted_interrupts=True)
    world.irte(0, POSTED_71)
    world.descriptor(nv=0x11)
    world.interrupt(0)
    world.descriptor(nv=0x22)
    world.interrupt(0)
    assert [message.data for message in world.unit.drain_events()] == [0x4011, 0x4022]


@pytest.mark.parametrize("esirtps", [False, True])
def test_setting_the_table_drops_entries_only_with_esirtps(esirtps: bool) -> None:
    world = Interrupting(invalidate_on_interrupt_pointer=esirtps)
    world.irte(0)
    world.interrupt(0)
    world.irte(0, 0)
    world.set_table(TABLE | 7)
    assert world.code(0) == (0x22 if esirtps else 0)


@pytest.mark.parametrize("esirtps", [False, True])
def test_turning_off_drops_entries_only_with_esirtps(esirtps: bool) -> None:
    world = Interrupting(invalidate_on_interrupt_pointer=esirtps)
    world.irte(0)
    world.interrupt(0)
    world.irte(0, 0)
    world.command(IRE | CFI)
    assert world.code(0) == 0
    world.command(0)
    world.command(IRE)
    assert world.code(0) == (0x22 if esirtps else 0)


def test_latched_size_limits_cached_entries_too() -> None:
    world = Interrupting(s=7)
    world.irte(200)
    assert world.code(200) == 0
    world.set_table(TABLE | 3)
    assert world.code(200) == 0x21


IQT, IQA, QIE = 0x88, 0x90, 1 << 26


@pytest.mark.parametrize(("descriptor", "gone"), [
    (4, {0, 1, 2, 3, 200}),
    (2 << 32 | 1 << 4 | 4, {2}),
    (2 << 32 | 1 << 27 | 1 << 4 | 4, {2, 3}),
    (3 << 32 | 2 << 27 | 1 << 4 | 4, {0, 1, 2, 3}),
    (0 << 32 | 8 << 27 | 1 << 4 | 4, {0, 1, 2, 3, 200}),
    (201 << 32 | 1 << 4 | 4, set()),
])  # fmt: skip
def test_invalidation_by_the_queue(descriptor: int, gone: set[int]) -> None:
    """Type 4: G in bit 4, IM in 31:27, IIDX in 47:32."""
    world = Interrupting()
    queue = world.page()
    world.write(IQA, queue, 8)
    world.command(IRE | QIE)
    for index in (0, 1, 2, 3, 200):
        world.irte(index)
        world.interrupt(index)
        world.irte(index, 0)
    world.put(queue, descriptor, 0)
    world.write(IQT, 16, 8)
    assert {index for index in (0, 1, 2, 3, 200) if world.code(index)} == gone


_STEPS = st.lists(
    st.tuples(st.sampled_from(["entry", "use", "drop", "drop all"]), st.integers(0, 7), st.integers(0, 3)),
    max_size=40,
)


@given(_STEPS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_is_used_was_in_memory_since_the_last_invalidation(
    steps: list[tuple[str, int, int]], caching: bool
) -> None:
    """Whatever the order of edits, uses and invalidations; an absent entry is stale in caching mode only."""
    world = Interrupting(s=2, fault_records=64, caching_mode=caching)
    stood: dict[int, set[int]] = {index: {0} for index in range(8)}
    now = dict.fromkeys(range(8), 0)
    for step, index, value in steps:
        block = range(8) if step == "drop all" else [n for n in range(8) if n >> value == index >> value]
        match step:
            case "entry":
                # Vector 0 means an entry that is not present.
                world.irte(index, value << 16 | (value > 0))
                now[index] = value
                stood[index].add(value)
            case "use":
                outcome = world.interrupt(index)
                vector = outcome.remapped.vector if outcome.remapped else 0
                assert vector in stood[index]
                if not caching and vector == 0:
                    assert now[index] == 0
            case _:
                if step == "drop":
                    world.unit.caches.invalidate(Selector.interrupts(index, value))
                else:
                    world.unit.caches.invalidate(Selector.interrupts())
                stood.update({n: {now[n]} for n in block})
