"""`reachable` on small tables that point to each other, full of neighbours that nearly continue each other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu import FlatMemory, RemappingUnit
from iommu.batch.reach import reachable
from tests.batch.test_reach import without_attributes
from tests.engine.scalable_world import ALL1, XD, first_stage
from tests.engine.world import NIC, PS, RW, R, W, World

WIDTH = 40
POOL = 8
# Where runs of pages begin: some pass an end of the interrupt range, of the protected region, or of the host width.
HOSTS = (0x4000_0000, 0x4000_2000, 0xFEDF_E000, 0xFEEF_E000, 0x1F_F000, 0x3F_E000, (1 << WIDTH) - 0x2000)
LEGACY = ((R, W, RW, RW, RW), (1 << 62, 1 << 11, 1 << 52, 1 << 60, 1 << 41))
SCALABLE = ((ALL1, ALL1, ALL1, ALL1 & ~2, ALL1 & ~4, ALL1 | XD), (1 << 9, 1 << 5, 1 << 52, 1 << 7, 1 << 41))


Kinds = tuple[tuple[int, ...], tuple[int, ...]]


def fill(memory: FlatMemory, pool: list[int], pick: random.Random, kinds: Kinds) -> None:
    """Give each table a few runs of entries: pages in a row, or tables of the pool; some entries have odd bits."""
    flags, odd = kinds
    for level, tables in enumerate((pool[:POOL], pool[POOL:]), 1):
        for table in tables:
            for _ in range(pick.randrange(1, 4)):
                start, length = pick.choice((0, 1, 255, 509, 511, pick.randrange(512))), pick.randrange(1, 6)
                flag, host = pick.choice(flags), pick.choice(HOSTS)
                size = 3 + 9 * level if level > 1 and pick.random() < 0.3 else 12
                for number in range(length):
                    entry = (host >> size << size) + (number << size) | (PS if size > 12 else 0)
                    if level > 1 and size == 12:
                        entry = pick.choice(pool[:POOL])
                    entry |= pick.choice(flags) if pick.random() < 0.1 else flag
                    entry ^= pick.choice(odd) if pick.random() < 0.15 else 0
                    memory.write_u64(table + 8 * ((start + number) % 512), entry)


def protect(unit: RemappingUnit) -> None:
    for offset, value in ((0x68, 0x20_0000), (0x6C, 0x3F_FFFF), (0x64, 1 << 31)):
        unit.mmio_write(offset, value, 4)


def pool_of(world: World, top: int, levels: int) -> list[int]:
    """Tables in a row in memory: of the lowest level, and of the next; the upper ones lead to the latter."""
    pool = [world.page() for _ in range(2 * POOL)]
    for level in range(levels, 2, -1):
        for index in (0, 1, 3) if level == 3 else (0,):
            target = pool[POOL + index] if level == 3 else world.page()
            world.put(top + 8 * index, target | 7)
        top = target
    return pool


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32), protected=st.booleans())
def test_second_stage(seed: int, protected: bool) -> None:
    world = World(host_address_width=WIDTH, page_2m=True, protected_low=True, snoop_control=False)
    top = world.device()
    pick = random.Random(seed)
    fill(world.memory, pool_of(world, top, 4), pick, LEGACY)
    unit = world.start().unit
    if protected:
        protect(unit)
    assert list(reachable(unit, NIC)) == without_attributes(unit.mappings(NIC))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32), protected=st.booleans(), snooped=st.sampled_from((0, 1)))
def test_first_stage(seed: int, protected: bool, snooped: int) -> None:
    world = first_stage(host_address_width=WIDTH, protected_low=True, pasid_entry={"pwsnp": snooped})
    pick = random.Random(seed)
    fill(world.memory, pool_of(world, world.first_top, 4), pick, SCALABLE)
    if protected:
        protect(world.unit)
    assert list(reachable(world.unit, NIC)) == without_attributes(world.unit.mappings(NIC))


# The same by hand.


def test_a_reserved_address_bit_in_one_of_two_entries() -> None:
    """9.8: bits beyond the host address width are reserved."""
    world = World(host_address_width=39)
    table = world.map(world.device(), 4, 0, 0)[1]
    world.put(table, 0x10_0000 | RW, 1 << 40 | 0x10_1000 | RW, 0x10_2000 | RW)
    found = list(reachable(world.start().unit, NIC))
    assert [tuple(each) for each in found] == [(0, 0x1000, 0x10_0000, "rw"), (0x2000, 0x1000, 0x10_2000, "rw")]


def test_the_last_page_of_a_table_and_the_first_of_the_next_in_memory() -> None:
    world = World()
    top = world.device()
    one, other = (world.map(top, 4, address, 0)[1] for address in (0, 0x4000_0000))
    pages = sorted((one, other))
    assert pages[0] == one
    world.put(one + 8 * 511, 0x10_0000 | RW)
    world.put(other, 0x10_1000 | RW)
    found = list(reachable(world.start().unit, NIC))
    assert [tuple(each) for each in found] == [
        (0x1F_F000, 0x1000, 0x10_0000, "rw"),
        (0x4000_0000, 0x1000, 0x10_1000, "rw"),
    ]


@pytest.mark.parametrize(("host", "left"), [(0xFEDF_F000, (0, 0x1000)), (0xFEEF_F000, (0x1000, 0x1000))])
def test_pages_over_an_end_of_the_interrupt_range(host: int, left: tuple[int, int]) -> None:
    """3.14: a host address in the range is a fault."""
    world = World()
    table = world.map(world.device(), 4, 0, 0)[1]
    world.put(table, host | RW, host + 0x1000 | RW)
    (found,) = reachable(world.start().unit, NIC)
    assert (found.start, found.size) == left
