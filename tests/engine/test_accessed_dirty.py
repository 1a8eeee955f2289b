"""Accessed, dirty and extended-accessed bits of both stages (spec 3.6.2, 3.7.2): which bits are set, and when."""

from __future__ import annotations

import pytest

from iommu import Access, FaultReason
from tests.engine.raising import raises
from tests.engine.scalable_world import (
    A1,
    A2,
    ADDRESS,
    ALL1,
    ATOMIC,
    D1,
    D2,
    EA1,
    GUEST_PAGE,
    HOST,
    SAME,
    USER,
    WRITABLE,
    P,
    ScalableWorld,
    first_stage,
    nested,
    second_stage,
)
from tests.engine.world import NIC, PS, READ, RW, WRITE, R, W

DIRTY = {"ssade": 1}
FIRST_BITS, SECOND_BITS = A1 | D1 | EA1, A2 | D2


def first_stage_bits(world: ScalableWorld) -> dict[int, int]:
    """A, D and EA of the entry of each level."""
    return world.bits(world.first, FIRST_BITS)


def second_stage_bits(world: ScalableWorld) -> dict[int, int]:
    """A and D of the entry of each level."""
    return world.bits(world.second, SECOND_BITS)


def written(world: ScalableWorld) -> list[int]:
    """The quadwords that the last request made the unit write, in order."""
    return [address // 8 * 8 for address, _ in world.memory.log]


def set_all_bits(places: dict[int, int], world: ScalableWorld, accessed: int, dirty: int = 0) -> None:
    """Set A everywhere, and more in the leaf."""
    for level, at in places.items():
        world.change(at, add=accessed | (dirty if level == min(places) else 0))


# First stage, 2.5 item 8


@pytest.mark.parametrize(("access", "leaf"), [(READ, A1), (WRITE, A1 | D1), (ATOMIC, A1 | D1)])
@pytest.mark.parametrize("levels", [4, 5])
def test_first_stage_sets_accessed_and_dirty(access: Access, leaf: int, levels: int) -> None:
    world = first_stage(levels=levels)
    assert world.code(access=access) == 0
    assert first_stage_bits(world) == {**dict.fromkeys(range(2, levels + 1), A1), 1: leaf}


@pytest.mark.parametrize(("access", "leaf"), [(READ, A1 | EA1), (WRITE, A1 | D1 | EA1)])
def test_extended_accessed_is_set_if_enabled(access: Access, leaf: int) -> None:
    world = first_stage(pasid_entry={"eafe": 1})
    assert world.code(access=access) == 0
    assert first_stage_bits(world) == {4: A1 | EA1, 3: A1 | EA1, 2: A1 | EA1, 1: leaf}
    everything = first_stage()
    set_all_bits(everything.first, everything, A1, D1)
    everything.pasid_entry(pgtt=1, first=everything.first_top, eafe=1)
    assert everything.code(access=access) == 0
    assert first_stage_bits(everything) == {4: A1 | EA1, 3: A1 | EA1, 2: A1 | EA1, 1: A1 | D1 | EA1}


@pytest.mark.parametrize("leaf", [2, 3])
def test_first_stage_large_page(leaf: int) -> None:
    world = first_stage(0x1_4000_0000 | ALL1 | PS, leaf=leaf)
    assert world.code(access=WRITE) == 0
    assert first_stage_bits(world) == {**dict.fromkeys(range(leaf + 1, 5), A1), leaf: A1 | D1}


def test_zero_length_read_is_a_read() -> None:
    world = first_stage()
    assert world.code(length=0) == 0
    assert first_stage_bits(world)[1] == A1


@pytest.mark.parametrize("eafe", [0, 1])
def test_each_first_stage_entry_is_updated_once(eafe: int) -> None:
    """All missing bits of an entry in one atomic operation."""
    world = first_stage(pasid_entry={"eafe": eafe})
    assert world.code(access=WRITE) == 0
    assert sorted(written(world)) == sorted(world.first.values())


@pytest.mark.parametrize("access", [READ, WRITE])
def test_first_stage_with_all_bits_set_is_not_written(access: Access) -> None:
    world = first_stage(pasid_entry={"eafe": 1})
    set_all_bits(world.first, world, A1 | EA1, D1 if access is WRITE else 0)
    world.memory.read_only = {at >> 12 for at in world.first.values()}
    assert world.code(access=access) == 0
    assert world.memory.log == []


def test_second_request_writes_nothing_more() -> None:
    for build in (first_stage, second_stage, nested):
        world = build() if build is first_stage else build(pasid_entry=DIRTY)
        assert world.code(access=WRITE) == 0
        assert world.memory.log
        for access in (READ, WRITE, ATOMIC):
            assert world.code(access=access) == 0
            assert world.memory.log == []
        world.unit.caches.invalidate_dma()
        assert world.code(access=WRITE) == 0
        assert world.memory.log == []


@pytest.mark.parametrize(("clear", "access", "code"), [
    (WRITABLE, WRITE, 0x85), (USER, READ, 0x81), (USER, WRITE, 0x81), (P, READ, 0x71),
])  # fmt: skip
def test_denied_access_leaves_the_first_stage_leaf_unchanged(clear: int, access: Access, code: int) -> None:
    world = first_stage()
    world.change(world.first[1], clear=clear)
    assert world.fault(access=access) == code
    assert first_stage_bits(world)[1] == 0
    assert set(first_stage_bits(world).values()) <= {0, A1}, "upper entries may have their A"


def test_reserved_first_stage_bit_sets_accessed_only_above() -> None:
    for level in range(1, 5):
        world = first_stage(host_address_width=46)
        world.change(world.first[level], add=1 << 50)
        assert world.fault(access=WRITE) == 0x72
        assert all(world.bits(world.first, FIRST_BITS)[below] == 0 for below in range(1, level + 1))


def test_address_that_is_not_canonical_sets_no_bits() -> None:
    world = first_stage()
    assert world.fault(1 << 50 | ADDRESS, WRITE) == 0x80
    assert world.memory.log == []


def test_first_stage_update_changes_no_other_bit() -> None:
    entry = HOST | ALL1 | 1 << 62 | 1 << 52 | 1 << 11 | 1 << 9 | 1 << 8 | 3 << 3
    world = first_stage(entry)
    assert world.code(access=WRITE) == 0
    assert world.memory.read_u64(world.first[1]) == entry | A1 | D1


@raises(FaultReason.SFS_9)
def test_first_stage_update_needs_a_snooped_walk() -> None:
    world = first_stage(pasid_entry={"pwsnp": 0})
    assert world.fault() == 0x90
    assert world.memory.log == []
    set_all_bits(world.first, world, A1)
    assert world.code() == 0
    assert world.fault(access=WRITE) == 0x90
    assert world.memory.log == []
    world.change(world.first[1], add=D1)
    world.unit.caches.invalidate_dma()
    assert world.code(access=WRITE) == 0
    assert world.memory.log == []


@raises(FaultReason.SFS_9)
def test_first_stage_update_on_a_unit_without_coherent_walks() -> None:
    """7.1.3: ECAP.C makes no difference."""
    for coherent in (False, True):
        world = first_stage(pasid_entry={"pwsnp": 0}, scalable_coherent=False, coherent=coherent)
        assert world.fault() == 0x90


@pytest.mark.parametrize("level", range(1, 5))
@raises(FaultReason.SFS_10)
def test_first_stage_update_that_fails(level: int) -> None:
    world = first_stage()
    world.memory.read_only = {world.first[level] >> 12}
    assert world.fault() == 0x91
    assert first_stage_bits(world)[level] == 0


@pytest.mark.parametrize("fpd", [0, 1])
def test_update_faults_are_qualified(fpd: int) -> None:
    for build, fields in ((first_stage, {"pwsnp": 0, "fpd": fpd}), (second_stage, {"pwsnp": 0, "fpd": fpd, **DIRTY})):
        outcome = build(pasid_entry=fields).dma()
        assert (int(outcome.fault or 0), outcome.recorded) == (0x90 if build is first_stage else 0x7C, not fpd)
    for build, fields in ((first_stage, {"fpd": fpd}), (second_stage, {"fpd": fpd, **DIRTY})):
        world = build(pasid_entry=fields)
        world.memory.read_only = {at >> 12 for at in {**world.first, **world.second}.values()}
        outcome = world.dma()
        assert (int(outcome.fault or 0), outcome.recorded) == (0x91 if build is first_stage else 0x7D, not fpd)


# Second stage, the table of 2.6


@pytest.mark.parametrize(("access", "leaf"), [(READ, A2), (WRITE, A2 | D2), (ATOMIC, A2 | D2)])
@pytest.mark.parametrize("levels", [3, 4, 5])
def test_second_stage_sets_accessed_and_dirty(access: Access, leaf: int, levels: int) -> None:
    world = second_stage(levels=levels, pasid_entry=DIRTY)
    assert world.code(access=access) == 0
    assert second_stage_bits(world) == {**dict.fromkeys(range(2, levels + 1), A2), 1: leaf}
    assert sorted(written(world)) == sorted(world.second.values()), "each entry once"


@pytest.mark.parametrize("leaf", [2, 3])
def test_second_stage_large_page(leaf: int) -> None:
    world = second_stage(0x1_4000_0000 | RW | PS, leaf=leaf, pasid_entry=DIRTY)
    assert world.code(access=WRITE) == 0
    assert second_stage_bits(world) == {**dict.fromkeys(range(leaf + 1, 5), A2), leaf: A2 | D2}


@pytest.mark.parametrize("access", [READ, WRITE, ATOMIC])
def test_second_stage_without_ssade_is_never_written(access: Access) -> None:
    for build in (second_stage, nested):
        world = build()
        set_all_bits(world.first, world, A1, D1)
        assert world.code(access=access) == 0
        assert world.memory.log == []


@pytest.mark.parametrize(("entry", "access", "code"), [
    (R, WRITE, 0x85), (R, ATOMIC, 0x85), (W, READ, 0x86), (W, ATOMIC, 0x86),
])  # fmt: skip
def test_denied_access_leaves_the_second_stage_leaf_unchanged(entry: int, access: Access, code: int) -> None:
    for _ in range(2):
        world = second_stage(HOST | entry, pasid_entry=DIRTY)
        assert world.fault(access=access) == code
        assert second_stage_bits(world) == {4: A2, 3: A2, 2: A2, 1: 0}


def test_denial_by_an_upper_entry_leaves_the_leaf_unchanged() -> None:
    world = second_stage(pasid_entry=DIRTY)
    world.change(world.second[3], clear=W)
    assert world.fault(access=WRITE) == 0x85
    assert second_stage_bits(world) == {4: A2, 3: A2, 2: A2, 1: 0}


@pytest.mark.parametrize("level", range(1, 5))
def test_reserved_bit_sets_accessed_only_above(level: int) -> None:
    world = second_stage(pasid_entry=DIRTY, host_address_width=46)
    world.change(world.second[level], add=1 << 50)
    assert world.fault() == 0x7A
    assert second_stage_bits(world) == {each: A2 if each > level else 0 for each in range(1, 5)}


@pytest.mark.parametrize("level", range(1, 5))
def test_absent_entry_sets_accessed_only_above(level: int) -> None:
    world = second_stage(pasid_entry=DIRTY)
    world.put(world.second[level], 0)
    assert world.fault() == 0x79
    assert world.bits({each: world.second[each] for each in range(level + 1, 5)}, A2) == dict.fromkeys(
        range(level + 1, 5), A2
    )
    assert world.memory.read_u64(world.second[level]) == 0


def test_address_beyond_the_width_or_invalid_entry_sets_no_bits() -> None:
    world = second_stage(pasid_entry=DIRTY)
    assert world.fault(1 << 50) == 0x84
    assert world.memory.log == []
    world.unit.caches.invalidate_dma()
    world.change(world.pasids[NIC, 0], clear=7 << 2)
    assert world.fault() == 0x5B
    assert world.memory.log == []


def test_interrupt_range_sets_accessed_above_the_leaf() -> None:
    world = second_stage(0xFEE0_0000 | RW, pasid_entry=DIRTY)
    assert world.fault(access=WRITE) == 0x87
    assert second_stage_bits(world) == {4: A2, 3: A2, 2: A2, 1: 0}


@pytest.mark.parametrize("access", [READ, WRITE])
def test_second_stage_with_all_bits_set_is_not_written(access: Access) -> None:
    world = second_stage(pasid_entry=DIRTY)
    set_all_bits(world.second, world, A2, D2 if access is WRITE else 0)
    world.memory.read_only = {at >> 12 for at in world.second.values()}
    assert world.code(access=access) == 0
    assert world.memory.log == []


def test_only_missing_bits_are_written() -> None:
    world = second_stage(pasid_entry=DIRTY)
    set_all_bits(world.second, world, A2)
    assert world.code(access=WRITE) == 0
    assert written(world) == [world.second[1]]
    world = second_stage(pasid_entry=DIRTY)
    world.change(world.second[1], add=D2)
    assert world.code() == 0
    assert second_stage_bits(world)[1] == A2 | D2, "sticky: D is never cleared"


@raises(FaultReason.SSS_5)
def test_second_stage_update_needs_a_snooped_walk() -> None:
    """The entry itself is valid; the fault is raised only if an update is needed."""
    world = second_stage(pasid_entry={"pwsnp": 0, **DIRTY})
    assert world.fault() == 0x7C
    assert world.memory.log == []
    set_all_bits(world.second, world, A2)
    assert world.code() == 0
    assert world.fault(access=WRITE) == 0x7C
    assert world.memory.log == []


@pytest.mark.parametrize("level", range(1, 5))
@raises(FaultReason.SSS_6)
def test_second_stage_update_that_fails(level: int) -> None:
    world = second_stage(pasid_entry=DIRTY)
    world.memory.read_only = {world.second[level] >> 12}
    assert world.fault() == 0x7D
    assert second_stage_bits(world) == {each: A2 if each > level else 0 for each in range(1, 5)}


def test_second_stage_update_changes_no_other_bit() -> None:
    entry = HOST | RW | 1 << 63 | 1 << 52 | 1 << 10 | 0x7C
    world = second_stage(entry, pasid_entry=DIRTY)
    assert world.code(access=WRITE) == 0
    assert world.memory.read_u64(world.second[1]) == entry | A2 | D2


def test_write_after_a_read_still_sets_dirty() -> None:
    world = second_stage(pasid_entry=DIRTY)
    assert world.code() == 0
    assert second_stage_bits(world)[1] == A2
    assert world.code(access=WRITE) == 0
    assert second_stage_bits(world)[1] == A2 | D2
    assert written(world) == [world.second[1]]


@pytest.mark.parametrize("ssade", [0, 1])
def test_ssade_comes_from_the_pasid_entry_of_the_request(ssade: int) -> None:
    """Two PASIDs over the same tables in two domains."""
    world = second_stage(pasid_entry={"ssade": ssade})
    world.pasid_entry(1, pgtt=2, second=world.second_top, did=2, ssade=1 - ssade)
    assert world.code(pasid=SAME, access=WRITE) == 0
    assert second_stage_bits(world)[1] == (A2 | D2 if ssade else 0)
    assert world.code(pasid=1, access=WRITE) == 0
    assert second_stage_bits(world)[1] == A2 | D2


# Nested, 2.7


def test_nested_without_ssade_updates_the_first_stage_only() -> None:
    world = nested()
    assert world.code(access=WRITE) == 0
    assert first_stage_bits(world) == {4: A1, 3: A1, 2: A1, 1: A1 | D1}
    assert sorted(written(world)) == sorted(world.first.values())


@pytest.mark.parametrize(("access", "first", "second"), [(READ, A1, A2), (WRITE, A1 | D1, A2 | D2)])
def test_nested_updates_both_stages(access: Access, first: int, second: int) -> None:
    """The update of a first-stage entry is a write to the page of its table."""
    world = nested(pasid_entry=DIRTY)
    assert world.code(access=access) == 0
    assert first_stage_bits(world) == {4: A1, 3: A1, 2: A1, 1: first}
    assert second_stage_bits(world) == {4: A2, 3: A2, 2: A2, 1: second}
    for places in world.under.values():
        assert world.bits(places, SECOND_BITS) == {4: A2, 3: A2, 2: A2, 1: A2 | D2}


def test_table_that_needs_no_update_is_only_read() -> None:
    world = nested(pasid_entry=DIRTY)
    set_all_bits(world.first, world, A1, D1)
    assert world.code(access=WRITE) == 0
    for places in world.under.values():
        assert world.bits(places, SECOND_BITS) == {4: A2, 3: A2, 2: A2, 1: A2}
    assert second_stage_bits(world) == {4: A2, 3: A2, 2: A2, 1: A2 | D2}


def test_nested_extended_accessed() -> None:
    world = nested(pasid_entry={"eafe": 1})
    assert world.code() == 0
    assert first_stage_bits(world) == {4: A1 | EA1, 3: A1 | EA1, 2: A1 | EA1, 1: A1 | EA1}


@pytest.mark.parametrize("ssade", [0, 1])
@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_refused_table_update_changes_neither_entry_nor_dirty_bit(level: int, ssade: int) -> None:
    """With SSADE the table cannot even be read without write permission (3.8.1)."""
    world = nested(pasid_entry={"ssade": ssade})
    world.change(world.under[level][1], clear=W)
    assert world.fault() == ((0x75 if level == 4 else 0x76) if ssade else 0x77)
    assert first_stage_bits(world)[level] == 0
    assert world.memory.read_u64(world.under[level][1]) & D2 == 0


def test_nested_denied_by_the_first_stage_updates_neither_leaf() -> None:
    world = nested(GUEST_PAGE | P | USER, pasid_entry=DIRTY)
    assert world.fault(access=WRITE) == 0x85
    assert first_stage_bits(world)[1] == 0
    assert second_stage_bits(world)[1] == 0


def test_nested_denied_by_the_second_stage_leaves_its_leaf_unchanged() -> None:
    world = nested(second=HOST | R, pasid_entry=DIRTY)
    assert world.fault(access=WRITE) == 0x85
    assert second_stage_bits(world)[1] == 0


def test_nested_interrupt_range_leaves_the_second_stage_leaf_unchanged() -> None:
    world = nested(second=0xFEE0_0000 | RW, pasid_entry=DIRTY)
    assert world.fault(access=WRITE) == 0x87
    assert second_stage_bits(world)[1] == 0


@raises(FaultReason.SSS_5, FaultReason.SFS_9)
def test_nested_updates_need_a_snooped_walk() -> None:
    world = nested(pasid_entry={"pwsnp": 0, **DIRTY})
    assert world.fault() == 0x7C
    assert world.memory.log == []
    world = nested(pasid_entry={"pwsnp": 0})
    assert world.fault() == 0x90
    assert world.memory.log == []


@raises(FaultReason.SSS_6, FaultReason.SFS_10)
def test_nested_updates_that_fail() -> None:
    world = nested(pasid_entry=DIRTY)
    world.memory.read_only = {world.under[4][4] >> 12}
    assert world.fault() == 0x7D
    world = nested(pasid_entry=DIRTY)
    world.memory.read_only = {world.first[4] >> 12}
    assert world.fault() == 0x91


def test_nested_with_all_bits_set_is_not_written() -> None:
    world = nested(pasid_entry=DIRTY)
    set_all_bits(world.first, world, A1, D1)
    for places in (*world.under.values(), world.second):
        set_all_bits(places, world, A2, D2)
    assert world.code(access=WRITE) == 0
    assert world.memory.log == []
