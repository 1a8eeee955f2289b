"""second_stage.py: the walk, entry by entry, against the reserved and ignored bits of the layouts."""

from __future__ import annotations

from typing import Any

import pytest

from iommu import Policy
from tests.engine.world import ABSENT, NIC, PS, READ, RW, SNP, TM, WRITE, R, W, World

WIDTHS = {3: 39, 4: 48, 5: 57}
HAWS = (39, 46, 52)
PAGE_BITS = {1: 12, 2: 21, 3: 30}
IGNORED = [2, 3, 4, 5, 6, 8, 9, 10, *range(52, 62), 63]
"""Ignored in every second-stage entry while accessed and dirty are off."""


def address_of(levels: int) -> int:
    """An address with a different index at each level."""
    return sum((3 + level) << 3 + 9 * level for level in range(1, levels + 1)) | 0x123


def walk(entry: int, *, level: int, leaf: int, levels: int = 4, **capabilities: Any) -> tuple[World, int]:
    """A world where the entry at `level` on the path to a page of level `leaf` is XORed with `entry`."""
    world = World(address_width=57, levels=(3, 4, 5), **capabilities)
    page = 0x8000_0000 | RW | (PS if leaf > 1 else 0)
    places = world.map(world.device(levels=levels), levels, address_of(levels), page, leaf)
    world.put(places[level], world.memory.read_u64(places[level]) ^ entry)
    return world.start(), address_of(levels)


def table_cases() -> list[tuple[int, int, int]]:
    """(host width, level, reserved bit) of entries that point to a table."""
    cases = []
    for haw in HAWS:
        for level in (2, 3, 4, 5):
            bits = [11, 62, *range(haw, 52), *([7] if level >= 4 else [])]
            cases += [(haw, level, bit) for bit in bits]
    return cases


@pytest.mark.parametrize(("haw", "level", "bit"), table_cases())
def test_reserved_bit_of_a_table_entry(haw: int, level: int, bit: int) -> None:
    offered = {"snoop_control": True, "device_tlb": True}
    for extra in ({}, offered):
        world, address = walk(1 << bit, level=level, leaf=1, levels=5, host_address_width=haw, **extra)
        assert world.fault(address) == 0x0C
        assert world.fault(address, READ) == 0x0C


def page_cases() -> list[tuple[int, int, int, bool, bool]]:
    """(host width, level, reserved bit, snoop control, device-TLB) of entries that map a page."""
    cases = []
    for haw in HAWS:
        for level, first in PAGE_BITS.items():
            for snoop in (False, True):
                for device_tlb in (False, True):
                    bits = [*range(haw, 52)]
                    bits += [] if snoop else [11]
                    bits += [] if device_tlb else [62]
                    bits += range(12, first)
                    cases += [(haw, level, bit, snoop, device_tlb) for bit in bits]
    return cases


@pytest.mark.parametrize(("haw", "level", "bit", "snoop", "device_tlb"), page_cases())
def test_reserved_bit_of_a_page_entry(haw: int, level: int, bit: int, snoop: bool, device_tlb: bool) -> None:
    world, address = walk(
        1 << bit, level=level, leaf=level, host_address_width=haw, snoop_control=snoop, device_tlb=device_tlb
    )
    assert world.fault(address) == 0x0C


@pytest.mark.parametrize("bit", IGNORED)
@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 4, 5])
def test_ignored_bit_changes_nothing(levels: int, leaf: int, bit: int) -> None:
    size = 1 << PAGE_BITS[leaf]
    for level in range(leaf, levels + 1):
        world, address = walk(1 << bit, level=level, leaf=leaf, levels=levels)
        assert world.dma(address).host_address == 0x8000_0000 + address % size


@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize(("bits", "capabilities"), [(SNP, {"snoop_control": True}), (TM, {"device_tlb": True})])
def test_bits_that_a_capability_frees_in_a_page(bits: int, capabilities: dict[str, bool], leaf: int) -> None:
    world, address = walk(bits, level=leaf, leaf=leaf, **capabilities)
    assert world.dma(address).host_address == 0x8000_0000 + address % (1 << PAGE_BITS[leaf])


def test_bit_7_of_a_4k_page_is_ignored() -> None:
    world, address = walk(PS, level=1, leaf=1)
    assert world.dma(address).page_size == 4096


@pytest.mark.parametrize(("level", "capabilities"), [
    (3, {"page_1g": False}), (3, {"page_1g": False, "page_2m": False}), (2, {"page_1g": False, "page_2m": False}),
])  # fmt: skip
def test_page_size_that_is_not_offered(level: int, capabilities: dict[str, bool]) -> None:
    world, address = walk(0, level=level, leaf=level, **capabilities)
    assert world.fault(address) == 0x0C


def test_2m_pages_without_1g_pages() -> None:
    world, address = walk(0, level=2, leaf=2, page_1g=False)
    assert world.dma(address).page_size == 1 << 21


@pytest.mark.parametrize("haw", HAWS)
@pytest.mark.parametrize("leaf", [1, 2, 3])
def test_every_address_bit_of_a_page_is_in_the_host_address(haw: int, leaf: int) -> None:
    for bit in range(PAGE_BITS[leaf], haw):
        world = World(host_address_width=haw)
        world.map(world.device(), 4, 0, 1 << bit | RW | (PS if leaf > 1 else 0), leaf)
        assert world.start().dma(0x123).host_address == 1 << bit | 0x123


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_every_offset_bit_of_a_page_is_in_the_host_address(levels: int) -> None:
    for leaf, first in PAGE_BITS.items():
        world, address = walk(0, level=leaf, leaf=leaf, levels=levels)
        base = address >> first << first
        for bit in range(first):
            assert world.dma(base | 1 << bit).host_address == 0x8000_0000 | 1 << bit


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_every_index_bit_selects_another_entry(levels: int) -> None:
    world, address = walk(0, level=1, leaf=1, levels=levels)
    for bit in range(12, WIDTHS[levels]):
        assert world.fault(address ^ 1 << bit) == 0x05
    assert world.dma(address).host_address is not None


# Presence and permission


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_not_present_entry_ignores_all_its_other_bits(levels: int) -> None:
    for level in range(1, levels + 1):
        for junk in (0, ~RW & (1 << 64) - 1):
            world = World(address_width=57, levels=(3, 4, 5))
            places = world.map(world.device(levels=levels), levels, 0, 0x9000 | RW)
            world.put(places[level], junk)
            world.start()
            assert world.fault(0, WRITE) == 0x05
            assert world.fault(0, READ) == 0x06
            assert world.fault(0, READ, length=0) == 0x06


@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 4, 5])
def test_permission_is_the_and_of_all_levels(levels: int, leaf: int) -> None:
    for level in range(leaf, levels + 1):
        world, address = walk(W, level=level, leaf=leaf, levels=levels)
        assert world.fault(address, WRITE) == 0x05
        read = world.dma(address, READ)
        assert (read.readable, read.writable) == (True, False)
        world, address = walk(R, level=level, leaf=leaf, levels=levels)
        assert world.fault(address, READ) == 0x06
        write = world.dma(address, WRITE)
        assert (write.readable, write.writable) == (False, True)


def test_read_only_above_write_only_permits_nothing() -> None:
    world = World()
    places = world.map(world.device(), 4, 0, 0x9000 | W)
    world.put(places[2], world.memory.read_u64(places[2]) & ~W)
    world.start()
    assert world.fault(0, WRITE) == 0x05
    assert world.fault(0, READ) == 0x06
    assert world.fault(0, READ, length=0) == 0x06


@pytest.mark.parametrize("missing", [R, W])
def test_reserved_bit_below_a_missing_permission(missing: int) -> None:
    """D-4: the policy decides which of the two is seen."""
    access = READ if missing == R else WRITE
    for per_level, code in ((False, 0x0C), (True, 0x06 if missing == R else 0x05)):
        world = World(policy=Policy(permission_per_level=per_level))
        places = world.map(world.device(), 4, 0, 0x9000 | RW | TM)
        world.put(places[3], world.memory.read_u64(places[3]) & ~missing)
        assert world.start().fault(0, access) == code


# Zero-length reads


@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize(("entry", "zlr", "code"), [
    (W, True, 0), (W, False, 0x06), (R, True, 0), (R, False, 0), (RW, True, 0), (RW, False, 0), (0, True, 0x06),
    (0, False, 0x06),
])  # fmt: skip
def test_zero_length_read(entry: int, zlr: bool, code: int, leaf: int) -> None:
    world = World(zero_length_read=zlr)
    world.map(world.device(), 4, 0, entry | (PS if leaf > 1 else 0), leaf)
    outcome = world.start().dma(0, READ, length=0)
    assert int(outcome.fault or 0) == code
    assert (outcome.host_address is None) == bool(code)


@pytest.mark.parametrize("zlr", [False, True])
def test_zero_length_read_is_recorded_as_a_read(zlr: bool) -> None:
    world = World(zero_length_read=zlr)
    world.device()
    assert world.start().fault(0x5000, READ, length=0) == 0x06
    assert (world.record().t1, world.record().t2) == (1, 0)


def test_zero_length_read_of_a_cached_write_only_page() -> None:
    for zlr in (False, True):
        world = World(zero_length_read=zlr)
        world.map(world.device(), 4, 0, 0x9000 | W)
        world.start()
        assert world.dma(0, WRITE).host_address == 0x9000
        assert int(world.dma(0, READ, length=0).fault or 0) == (0 if zlr else 0x06)
        assert world.fault(0, READ) == 0x06


# Tables that cannot be read


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_unreadable_table(levels: int) -> None:
    for level in range(1, levels + 1):
        world = World(address_width=57, levels=(3, 4, 5))
        places = world.map(world.device(levels=levels), levels, 0, RW)
        if level == levels:
            world.context(NIC, table=ABSENT, levels=levels)
        else:
            world.put(places[level + 1], ABSENT | RW)
        assert world.start().fault(0) == (0x03 if level == levels else 0x07)
        assert world.fault(0, READ) == (0x03 if level == levels else 0x07)


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_reserved_bits_in_two_entries_one_fault(levels: int) -> None:
    world = World(address_width=57, levels=(3, 4, 5))
    places = world.map(world.device(levels=levels), levels, 0, 0x9000 | RW | TM)
    world.put(places[2], ABSENT | RW | SNP)
    assert world.start().fault(0) == 0x0C


def test_reserved_bit_wins_over_the_unreadable_table_it_points_to() -> None:
    world = World()
    places = world.map(world.device(), 4, 0, RW)
    world.put(places[3], ABSENT | RW | SNP)
    assert world.start().fault(0) == 0x0C


def test_unreadable_table_wins_over_the_missing_permission_on_the_way() -> None:
    """Permission is decided at the leaf, so the walk reaches the unreadable table first (D-4)."""
    world = World()
    places = world.map(world.device(), 4, 0, RW)
    world.put(places[3], ABSENT | R)
    assert world.start().fault(0, WRITE) == 0x07


# Interrupt range of the output


@pytest.mark.parametrize(("host", "code"), [
    (0xFEDF_F000, 0), (0xFEE0_0000, 0x0E), (0xFEE8_1000, 0x0E), (0xFEEF_F000, 0x0E), (0xFEF0_0000, 0),
    (0x1_FEE0_0000, 0), (0x80_FEE0_0000, 0),
])  # fmt: skip
@pytest.mark.parametrize("access", [READ, WRITE])
def test_output_in_the_interrupt_range(host: int, code: int, access: Any) -> None:
    world = World()
    world.map(world.device(), 4, 0x5000, host | RW)
    outcome = world.start().dma(0x5004, access, length=4)
    assert int(outcome.fault or 0) == code
    assert outcome.host_address == (None if code else host | 4)


@pytest.mark.parametrize(("leaf", "base"), [(2, 0xFEE0_0000), (2, 0xFEC0_0000), (3, 0xC000_0000)])
def test_large_page_that_overlaps_the_interrupt_range(leaf: int, base: int) -> None:
    """Only addresses in the range are blocked, also when the page is cached."""
    world = World()
    first = PAGE_BITS[leaf]
    world.map(world.device(), 4, 0x80_0000_0000, base | RW | PS, leaf)
    world.start()
    for _ in range(2):
        for host in (0xFEDF_FFFF, 0xFEE0_0000, 0xFEEF_FFFF, 0xFEF0_0000):
            if host >> first != base >> first:
                continue
            outcome = world.dma(0x80_0000_0000 + host - base)
            inside = host >> 20 == 0xFEE
            assert (outcome.fault == 0x0E) == inside
            assert (outcome.host_address == host) != inside


def test_missing_permission_wins_over_the_interrupt_range() -> None:
    world = World()
    world.map(world.device(), 4, 0, 0xFEE0_0000 | R)
    assert world.start().fault(0, WRITE) == 0x05
    assert world.fault(0, READ) == 0x0E


# Hostile tables


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_table_that_points_to_itself(levels: int) -> None:
    world = World(address_width=57, levels=(3, 4, 5))
    top = world.device(levels=levels)
    for index in range(512):
        world.put(top + 8 * index, top | RW)
    outcome = world.start().dma(address_of(levels), READ)
    assert outcome.host_address == top | 0x123


@pytest.mark.parametrize("haw", HAWS)
def test_memory_of_all_ones(haw: int) -> None:
    world = World(size=1 << 20, host_address_width=haw)
    world.memory.write(0, b"\xff" * (1 << 20))
    for access in (READ, WRITE):
        assert world.start().fault(0x1234, access) == 0x0A


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_table_of_all_ones(levels: int) -> None:
    world = World(address_width=57, levels=(3, 4, 5), host_address_width=52, snoop_control=True, device_tlb=True)
    top = world.device(levels=levels)
    world.memory.write(top, b"\xff" * 4096)
    assert world.start().fault(address_of(levels)) == 0x0C


def test_table_at_the_very_end_of_memory() -> None:
    world = World()
    last = world.memory.size - 4096
    world.context(table=last)
    world.map(last, 4, 0xFF80_0000_0000, 0x9000 | RW)
    assert world.start().dma(0xFF80_0000_0000).host_address == 0x9000
    world.context(table=last + 4096)
    world.invalidate_contexts(1)
    world.invalidate_pages(1)
    assert world.fault(0) == 0x03


def test_zero_length_read_when_permissions_are_checked_per_level() -> None:
    world = World(zero_length_read=True, policy=Policy(permission_per_level=True))
    world.map(world.device(), 4, 0, 0x9000 | W)
    assert world.start().dma(0, READ, length=0).host_address == 0x9000


def test_reserved_bit_and_nothing_permitted_in_the_same_entry() -> None:
    """1.6 step 4: present, then reserved, then whether anything is left."""
    world = World()
    places = world.map(world.device(), 4, 0, 0x9000 | W | TM)
    world.put(places[2], world.memory.read_u64(places[2]) & ~W)
    assert world.start().fault(0) == 0x0C
