"""Nested translation (spec 3.7.3): the second stage translates the addresses of first-stage tables and of pages."""

from __future__ import annotations

import itertools

import pytest

from iommu import Access, FaultReason, Policy
from tests.engine.raising import raises
from tests.engine.scalable_world import (
    A1,
    ADDRESS,
    ALL1,
    ATOMIC,
    D1,
    GUEST,
    GUEST_PAGE,
    HOST,
    NESTED,
    SAME,
    USER,
    WRITABLE,
    P,
    nested,
)
from tests.engine.world import ABSENT, NIC, PS, READ, RW, WRITE, R, W

LEVELS = (4, 3, 2, 1)
SIZES = {1: 1 << 12, 2: 1 << 21, 3: 1 << 30}


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("first_levels", [4, 5])
def test_all_levels(levels: int, first_levels: int) -> None:
    world = nested(levels=levels, first_levels=first_levels)
    for _ in range(2):
        for access in (READ, WRITE, ATOMIC):
            assert world.dma(ADDRESS | 0x123, access).host_address == HOST | 0x123


@pytest.mark.parametrize("first_leaf", [1, 2, 3])
@pytest.mark.parametrize("second_leaf", [1, 2, 3])
def test_page_size_is_the_smaller_one(first_leaf: int, second_leaf: int) -> None:
    large = (PS if first_leaf > 1 else 0, PS if second_leaf > 1 else 0)
    world = nested(
        0x40_4000_0000 | ALL1 | large[0],
        0x1_4000_0000 | RW | large[1],
        first_leaf=first_leaf,
        second_leaf=second_leaf,
    )
    within = ADDRESS % min(SIZES[first_leaf], SIZES[second_leaf])
    for _ in range(2):
        outcome = world.dma()
        assert outcome.page_size == min(SIZES[first_leaf], SIZES[second_leaf])
        assert outcome.host_address == 0x1_4000_0000 + within


def test_large_first_stage_page_over_small_second_stage_pages() -> None:
    """What is cached of the one small page is not used for its neighbours."""
    world = nested(0x40_4000_0000 | ALL1 | PS, first_leaf=2)
    base = ADDRESS >> 21 << 21
    gpa = 0x40_4000_0000
    world.map(world.second_top, 4, gpa, 0x20_0000 | RW)
    world.map(world.second_top, 4, gpa + 0x1000, 0x77_7000 | R)
    assert world.dma(base).host_address == 0x20_0000
    assert world.dma(base + 0x1000).host_address == 0x77_7000
    assert world.fault(base + 0x1000, WRITE) == 0x85
    assert world.fault(base + 0x2000) == 0x79
    assert world.dma(base, WRITE).host_address == 0x20_0000


# Addresses


@raises(FaultReason.SGN_1)
def test_addresses_must_be_canonical() -> None:
    world = nested()
    for bit in range(47, 64):
        assert world.fault(1 << bit | ADDRESS) == 0x80


GUEST_WIDTHS = ((3, 57), (4, 57), (4, 42), (5, 48))
"""Levels of the second stage, and the guest address width of the unit: the lesser limits the guest addresses."""


@pytest.mark.parametrize("level", [1, 2, 3])
@raises(FaultReason.SFS_5)
def test_first_stage_table_beyond_the_guest_width(level: int) -> None:
    for levels, address_width in GUEST_WIDTHS:
        far = 1 << min(address_width, 12 + 9 * levels)
        for address, codes in ((far, {0x74}), (far - 4096, {0x75, 0x76, 0x79})):
            world = nested(levels=levels, depths=(3, 4, 5), address_width=address_width)
            world.put(world.first[level + 1], address | ALL1)
            assert world.fault() in codes


@raises(FaultReason.SPT_4)
def test_top_first_stage_table_beyond_the_guest_width() -> None:
    """7.1.3: the PASID-table entry that names it is invalid."""
    for levels, address_width in GUEST_WIDTHS:
        far = 1 << min(address_width, 12 + 9 * levels)
        for address, codes in ((far, {0x5B}), (far - 4096, {0x75, 0x79})):
            world = nested(levels=levels, depths=(3, 4, 5), address_width=address_width)
            world.pasid_entry(pgtt=NESTED, first=address, second=world.second_top, levels=levels)
            assert world.fault() in codes


@raises(FaultReason.SFS_5)
def test_page_beyond_the_guest_width() -> None:
    for levels, address_width in ((3, 57), (4, 57), (4, 42), (5, 48)):
        limit = min(address_width, 12 + 9 * levels)
        far = 1 << limit
        world = nested(levels=levels, depths=(3, 4, 5), address_width=address_width)
        world.put(world.first[1], far | ALL1)
        assert world.fault() == 0x74
        world.put(world.first[1], far - 4096 | ALL1)
        assert world.fault() == 0x79


# The second stage under the first-stage tables


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("second_level", LEVELS)
def test_absent_second_stage_entry_under_a_table(level: int, second_level: int) -> None:
    """7.1.3: the second stage's own code."""
    world = nested()
    world.put(world.under[level][second_level], 0)
    assert world.fault() == 0x79


@raises(FaultReason.SFS_6)
def test_top_table_without_second_stage_read_permission() -> None:
    for second_level in LEVELS:
        world = nested()
        world.change(world.under[4][second_level], clear=R)
        assert world.fault() == 0x75
    world = nested(first_levels=5)
    world.change(world.under[5][1], clear=R)
    assert world.fault() == 0x75


@pytest.mark.parametrize("level", [3, 2, 1])
@raises(FaultReason.SFS_7)
def test_lower_table_without_second_stage_read_permission(level: int) -> None:
    world = nested()
    world.change(world.under[level][1], clear=R)
    for access in (READ, WRITE):
        assert world.fault(access=access) == 0x76
    world = nested(first_levels=5)
    world.change(world.under[4][1], clear=R)
    assert world.fault() == 0x76


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SFS_8)
def test_update_of_a_table_without_second_stage_write_permission(level: int) -> None:
    world = nested()
    world.change(world.under[level][1], clear=W)
    assert world.fault() == 0x77
    assert world.memory.read_u64(world.first[level]) & (A1 | D1) == 0


@pytest.mark.parametrize("level", LEVELS)
def test_table_that_needs_no_update_needs_no_write_permission(level: int) -> None:
    world = nested()
    world.change(world.first[level], add=A1)
    world.change(world.under[level][1], clear=W)
    assert world.dma().host_address == HOST
    world.unit.caches.invalidate_dma()
    assert world.code(access=WRITE) == (0x77 if level == 1 else 0)
    world.change(world.first[1], add=D1)
    world.unit.caches.invalidate_dma()
    assert world.dma(access=WRITE).host_address == HOST


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SSS_3)
def test_reserved_second_stage_bit_under_a_table(level: int) -> None:
    for second_level in LEVELS:
        world = nested(host_address_width=46)
        world.change(world.under[level][second_level], add=1 << 50)
        assert world.fault() == 0x7A


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SSS_1)
def test_unreadable_second_stage_table_under_a_table(level: int) -> None:
    world = nested()
    world.put(world.under[level][2], ABSENT | RW)
    assert world.fault() == 0x78


@raises(FaultReason.SSS_4)
def test_unreadable_second_stage() -> None:
    world = nested()
    world.pasid_entry(pgtt=NESTED, first=world.first_top, second=ABSENT)
    assert world.fault() == 0x7B


# The first stage's own faults


@raises(FaultReason.SFS_4)
def test_top_table_mapped_to_absent_memory() -> None:
    world = nested()
    world.put(world.under[4][1], ABSENT | RW)
    assert world.fault() == 0x73


@pytest.mark.parametrize("level", [3, 2, 1])
@raises(FaultReason.SFS_1)
def test_lower_table_mapped_to_absent_memory(level: int) -> None:
    world = nested()
    world.put(world.under[level][1], ABSENT | RW)
    assert world.fault() == 0x70


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SFS_2, FaultReason.SFS_3, FaultReason.SGN_2, FaultReason.SGN_6, FaultReason.SGN_3)
def test_first_stage_entries_are_checked_as_without_nesting(level: int) -> None:
    world = nested(
        host_address_width=46,
        pasid_entry={"ere": 1, "wpe": 1},
    )
    whole = world.memory.read_u64(world.first[level])
    at = world.first[level]
    world.put(at, whole & ~P)
    assert world.fault() == 0x71
    world.put(at, whole | 1 << 50)
    assert world.fault() == 0x72
    world.put(at, whole & ~USER)
    assert world.fault() == 0x81
    world.put(at, whole & ~WRITABLE)
    world.unit.caches.invalidate_dma()
    assert world.fault(access=WRITE) == 0x85
    assert world.fault(access=WRITE, pasid=SAME, privileged=True) == 0x85
    world.put(at, whole | 1 << 63)
    world.unit.caches.invalidate_dma()
    assert world.fault(pasid=SAME, execute=True) == 0x82


@raises(FaultReason.SFS_3)
def test_guest_addresses_beyond_the_host_width() -> None:
    """3.6: bits 51:HAW of a first-stage entry are reserved, nested too."""
    for level in LEVELS:
        world = nested(host_address_width=46)
        at = world.first[level]
        world.put(at, world.memory.read_u64(at) | 1 << 50)
        assert world.fault() == 0x72
    assert nested(1 << 40 | ALL1, host_address_width=39).fault() == 0x72


# The page


@pytest.mark.parametrize("access", [READ, WRITE, ATOMIC])
@raises(FaultReason.SSS_2)
def test_absent_page(access: Access) -> None:
    for level in LEVELS[2:]:
        world = nested()
        world.put(world.second[level], 0)
        assert world.fault(access=access) == 0x79


@raises(FaultReason.SSS_3, FaultReason.SSS_1)
def test_reserved_and_unreadable_second_stage_of_the_page() -> None:
    world = nested(second=HOST | RW | 1 << 50, host_address_width=46)
    assert world.fault() == 0x7A
    world = nested()
    world.put(world.second[2], ABSENT | RW)
    assert world.fault() == 0x78


@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize("wpe", [0, 1])
@pytest.mark.parametrize(("first", "second"), list(itertools.product((P | USER, ALL1), (R, W, RW))))
def test_effective_permission_is_both(first: int, second: int, wpe: int, privileged: bool) -> None:
    """A supervisor without write protection passes the first stage's, never the second's."""
    world = nested(GUEST_PAGE | first, HOST | second, pasid_entry={"wpe": wpe})
    writable = bool(first & WRITABLE) or (privileged and not wpe)
    for _ in range(2):
        write = world.code(access=WRITE, pasid=SAME, privileged=privileged)
        read = world.code(access=READ, pasid=SAME, privileged=privileged)
        assert write == (0 if writable and second & W else 0x85)
        assert read == (0 if second & R else 0x86)
        outcome = world.dma(access=READ if second & R else WRITE, pasid=SAME, privileged=privileged)
        if outcome.host_address is not None:
            assert (outcome.readable, outcome.writable) == (bool(second & R), writable and bool(second & W))


@raises(FaultReason.SGN_6, FaultReason.SGN_7)
def test_permission_of_the_second_stage_alone() -> None:
    assert nested(second=HOST | R).fault(access=WRITE) == 0x85
    assert nested(second=HOST | R).fault(access=ATOMIC) == 0x85
    assert nested(second=HOST | W).fault() == 0x86
    assert nested(second=HOST | W).fault(access=ATOMIC) == 0x86


@pytest.mark.parametrize("zero_length_read", [False, True])
def test_zero_length_read_of_a_page_the_second_stage_makes_write_only(zero_length_read: bool) -> None:
    world = nested(second=HOST | W, zero_length_read=zero_length_read)
    assert world.code(length=0) == (0 if zero_length_read else 0x86)


@raises(FaultReason.SGN_8)
def test_page_in_the_interrupt_range() -> None:
    world = nested(second=0xFEE0_0000 | RW)
    assert world.fault() == 0x87


def test_guest_physical_interrupt_range_is_translated() -> None:
    """Only the host address counts."""
    world = nested(0xFEE0_0000 | ALL1)
    assert world.dma(access=WRITE).host_address == HOST


def test_interrupt_range_as_an_input_with_a_pasid_is_translated() -> None:
    world = nested(address=0xFEE0_0000)
    assert world.dma(0xFEE0_0123, WRITE, pasid=SAME).host_address == HOST + 0x123


# Order


@pytest.mark.parametrize("level", LEVELS)
def test_the_walk_stops_at_the_first_fault(level: int) -> None:
    """The second stage of a table is checked before the entry in it, and that before the next table."""
    world = nested(host_address_width=46)
    for lower in range(1, level):
        world.put(world.under[lower][1], 1 << 50 | RW)
    world.change(world.first[level], clear=P)
    assert world.fault() == 0x71
    world.change(world.under[level][1], add=1 << 50)
    assert world.fault() == 0x7A


def test_first_stage_permission_comes_before_the_page() -> None:
    world = nested(GUEST_PAGE | P | USER, 0)
    assert world.fault(access=WRITE) == 0x85
    assert world.fault() == 0x79


def test_tables_are_found_through_the_second_stage() -> None:
    """If first-stage pointers were used as host addresses, other tables would be found."""
    world = nested()
    assert world.first_top >= GUEST
    decoy = world.page()
    world.put(world.under[1][1], decoy | RW)
    assert world.fault() == 0x71
    world.put(decoy + 8 * (ADDRESS >> 12 & 0x1FF), 0x2_0000_8000 | ALL1)
    world.map(world.second_top, 4, 0x2_0000_8000, 0xB000 | RW)
    assert world.dma().host_address == 0xB000


def test_two_pasids_over_one_second_stage() -> None:
    world = nested(pasid=1)
    top = world.page()
    tables = [world.page() for _ in range(3)]
    for table in (top, *tables):
        world.map(world.second_top, 4, GUEST + table, table | RW)
    for level, table, below in zip((4, 3, 2), (top, *tables), tables, strict=False):
        world.put(table + 8 * (ADDRESS >> 3 + 9 * level & 511), GUEST + below | ALL1)
    world.put(tables[2] + 8 * (ADDRESS >> 12 & 511), 0x2_0000_9000 | ALL1)
    world.map(world.second_top, 4, 0x2_0000_9000, 0xC000 | RW)
    world.pasid_entry(2, NIC, pgtt=NESTED, first=GUEST + top, second=world.second_top)
    for _ in range(2):
        assert world.dma(pasid=1).host_address == HOST
        assert world.dma(pasid=2).host_address == 0xC000


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SFS_6)
def test_permission_per_level_keeps_the_code_of_a_table(level: int) -> None:
    """2.7: a first-stage table without read permission, whichever level of the second stage lacks it."""
    world = nested(policy=Policy(permission_per_level=True))
    world.change(world.under[4][level], clear=R)
    assert world.fault() == 0x75


@pytest.mark.parametrize("per_level", [False, True])
@pytest.mark.parametrize("ssade", [0, 1])
@pytest.mark.parametrize("second_level", LEVELS)
@pytest.mark.parametrize("level", LEVELS)
def test_reading_a_table_without_second_stage_write_permission(
    level: int, second_level: int, ssade: int, per_level: bool
) -> None:
    """3.8.1: with SSADE it needs both permissions, also where no bit of the entry has to be set."""
    policy = Policy(permission_per_level=per_level)
    world = nested(pasid_entry={"ssade": ssade}, second_leaf=1, policy=policy)
    for at in world.first.values():
        world.change(at, add=A1)
    under = world.under[level][second_level]
    if second_level == 1:
        world.change(under, clear=W)
        assert world.code() == ((0x75 if level == 4 else 0x76) if ssade else 0)
    else:  # the tables of all levels share the upper entries, and the top table is the first to be read
        world.change(under, clear=W)
        assert world.code() == (0x75 if ssade else 0)
