"""The second stage of scalable mode (spec 3.7, 9.8): the walk of legacy mode with other fault codes."""

from __future__ import annotations

import itertools

import pytest

from iommu import Access, FaultReason, Policy
from tests.engine.raising import raises
from tests.engine.scalable_world import ADDRESS, ATOMIC, HOST, SAME, SECOND, second_stage, without
from tests.engine.world import ABSENT, NIC, PS, READ, RW, SNP, TM, WRITE, R, W

HAWS = (39, 46, 52)
SIZES = {1: 1 << 12, 2: 1 << 21, 3: 1 << 30}
WIDTHS = {3: 39, 4: 48, 5: 57}


# Addresses


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("address_width", [39, 42, 48, 52, 57])
@raises(FaultReason.SGN_5)
def test_largest_address(levels: int, address_width: int) -> None:
    limit = min(address_width, WIDTHS[levels])
    address = (1 << limit) - 4096
    world = second_stage(address=address, levels=levels, depths=(3, 4, 5), address_width=address_width)
    assert world.dma(address | 0xFFF).host_address == HOST + 0xFFF
    for bit in range(limit, 64):
        for access in (READ, WRITE):
            assert world.fault(1 << bit | ADDRESS, access) == 0x84
    assert world.fault((1 << 64) - 4096) == 0x84


def test_addresses_have_no_sign_bit() -> None:
    assert second_stage(address=1 << 47).dma(1 << 47).host_address == HOST


def test_address_limit_comes_before_the_tables() -> None:
    world = second_stage()
    world.pasid_entry(pgtt=SECOND, second=ABSENT)
    assert world.fault(1 << 48) == 0x84
    assert world.fault(1 << 47) == 0x7B


def test_interrupt_range_as_an_input_with_a_pasid_is_translated() -> None:
    world = second_stage(address=0xFEE0_0000)
    outcome = world.dma(0xFEE0_0123, WRITE, pasid=SAME)
    assert (outcome.host_address, outcome.interrupt) == (HOST + 0x123, False)
    assert world.fault(0xFEE0_1000, WRITE, pasid=SAME) == 0x79


# Entries that cannot be read, or are not there


@pytest.mark.parametrize("levels", [3, 4, 5])
@raises(FaultReason.SSS_4)
def test_unreadable_top_table(levels: int) -> None:
    world = second_stage(levels=levels)
    world.pasid_entry(pgtt=SECOND, second=ABSENT, levels=levels)
    assert world.fault() == 0x7B
    assert world.record().reason == 0x7B


@pytest.mark.parametrize("levels", [3, 4, 5])
@raises(FaultReason.SSS_1)
def test_unreadable_lower_table(levels: int) -> None:
    for level in range(2, levels + 1):
        world = second_stage(levels=levels)
        world.put(world.second[level], ABSENT | RW)
        assert world.fault() == 0x78


@pytest.mark.parametrize("levels", [3, 4, 5])
@raises(FaultReason.SSS_2)
def test_absent_entry_ignores_all_its_other_bits(levels: int) -> None:
    for level, access in itertools.product(range(1, levels + 1), (READ, WRITE, ATOMIC)):
        world = second_stage(levels=levels)
        world.put(world.second[level], (1 << 64) - 4)
        assert world.fault(access=access) == 0x79


# Page sizes


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("leaf", [1, 2, 3])
def test_page_sizes(levels: int, leaf: int) -> None:
    size = SIZES[leaf]
    world = second_stage(0x1_4000_0000 | RW | (PS if leaf > 1 else 0), leaf=leaf, levels=levels)
    base = ADDRESS // size * size
    for offset in (0, 0x123, size - 1, size // 2):
        for _ in range(2):
            outcome = world.dma(base + offset, WRITE)
            assert (outcome.host_address, outcome.page_size) == (0x1_4000_0000 + offset, size)
    assert world.fault(base + size) == 0x79


def test_bit_7_of_the_last_level_is_not_page_size() -> None:
    outcome = second_stage(HOST | RW | PS).dma()
    assert (outcome.host_address, outcome.page_size) == (HOST, 4096)


# Reserved bits


@raises(FaultReason.SSS_3)
def test_large_pages_need_the_capability() -> None:
    entry = 0x1_4000_0000 | RW | PS
    assert second_stage(entry, leaf=3, page_1g=False).fault() == 0x7A
    assert second_stage(entry, leaf=2, page_1g=False).code() == 0
    assert second_stage(entry, leaf=2, page_1g=False, page_2m=False).fault() == 0x7A


@pytest.mark.parametrize("levels", [4, 5])
@raises(FaultReason.SSS_3)
def test_page_size_bit_is_reserved_at_the_top(levels: int) -> None:
    for level in range(4, levels + 1):
        world = second_stage(levels=levels)
        world.change(world.second[level], add=PS)
        assert world.fault() == 0x7A


@raises(FaultReason.SSS_3)
def test_address_bits_beyond_the_host_width_are_reserved() -> None:
    for haw in HAWS:
        for level, bit in itertools.product(range(1, 5), range(haw, 52)):
            world = second_stage(host_address_width=haw)
            world.flip(world.second[level], bit)
            assert world.fault() == 0x7A, f"level {level}, bit {bit}"


@pytest.mark.parametrize("leaf", [2, 3])
@raises(FaultReason.SSS_3)
def test_low_address_bits_of_large_pages_are_reserved(leaf: int) -> None:
    for bit in range(12, 3 + 9 * leaf):
        assert second_stage(0x1_4000_0000 | 1 << bit | RW | PS, leaf=leaf).fault() == 0x7A, f"bit {bit}"


@pytest.mark.parametrize("bit", [SNP, TM])
@raises(FaultReason.SSS_3)
def test_snoop_and_transient_bits_belong_to_leaves(bit: int) -> None:
    for level in range(1, 5):
        world = second_stage()
        world.change(world.second[level], add=bit)
        assert world.code() == (0 if level == 1 else 0x7A)
    for leaf in (2, 3):
        assert second_stage(0x1_4000_0000 | RW | PS | bit, leaf=leaf).code() == 0


@raises(FaultReason.SSS_3)
def test_snoop_bit_needs_snoop_control() -> None:
    assert second_stage(HOST | RW | SNP, snoop_control=False).fault() == 0x7A


@raises(FaultReason.SSS_3)
def test_transient_bit_needs_device_tlbs() -> None:
    missing = ("device_tlb", "page_requests", "page_request_drain", "stop_markers", "no_write_requests",
               "invalidation_throttle")  # fmt: skip
    fields = {"dte": 0, "pre": 0}
    assert second_stage(HOST | RW, context=fields, **without(*missing)).code() == 0
    assert second_stage(HOST | RW | TM, context=fields, **without(*missing)).fault() == 0x7A


def test_ignored_bits() -> None:
    for ssade in (0, 1):
        for level, bit in itertools.product(range(1, 5), [2, 3, 4, 5, 6, 10, *range(52, 62), 63, 8, 9]):
            world = second_stage(pasid_entry={"ssade": ssade})
            world.flip(world.second[level], bit)
            assert world.dma(access=WRITE).host_address == HOST, f"level {level}, bit {bit}"


def test_each_address_bit_below_the_host_width_is_used() -> None:
    for haw in HAWS:
        for bit in range(12, haw):
            assert second_stage(1 << bit | RW, host_address_width=haw).dma().host_address == 1 << bit


# Permissions


@pytest.mark.parametrize("level", range(1, 5))
@pytest.mark.parametrize("warm", [False, True])
@raises(FaultReason.SGN_6)
def test_write_needs_write_permission_at_every_level(level: int, warm: bool) -> None:
    world = second_stage()
    world.change(world.second[level], clear=W)
    if warm:
        assert world.dma().host_address == HOST
    assert world.fault(access=WRITE) == 0x85
    assert world.fault(access=ATOMIC) == 0x85
    assert world.dma().host_address == HOST


@pytest.mark.parametrize("level", range(1, 5))
@pytest.mark.parametrize("warm", [False, True])
@raises(FaultReason.SGN_7)
def test_read_needs_read_permission_at_every_level(level: int, warm: bool) -> None:
    world = second_stage()
    world.change(world.second[level], clear=R)
    if warm:
        assert world.dma(access=WRITE).host_address == HOST
    assert world.fault() == 0x86
    assert world.fault(access=ATOMIC) == 0x86
    assert world.dma(access=WRITE).host_address == HOST


@pytest.mark.parametrize("upper", range(2, 5))
@pytest.mark.parametrize("lower", range(1, 4))
@raises(FaultReason.SSS_2)
def test_nothing_permitted_over_all_levels(upper: int, lower: int) -> None:
    world = second_stage()
    world.change(world.second[4], clear=W)
    world.change(world.second[3], clear=R)
    for access in (READ, WRITE, ATOMIC):
        assert world.fault(access=access) == 0x79
    if lower < upper:
        world = second_stage()
        world.change(world.second[upper], clear=R)
        world.change(world.second[lower], clear=W)
        assert world.fault() == 0x79


@pytest.mark.parametrize("zero_length_read", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_zero_length_reads(zero_length_read: bool, warm: bool) -> None:
    world = second_stage(HOST | W, zero_length_read=zero_length_read)
    if warm:
        assert world.dma(access=WRITE).host_address == HOST
    assert world.code(length=0) == (0 if zero_length_read else 0x86)
    assert world.fault() == 0x86
    assert second_stage(HOST | R, zero_length_read=zero_length_read).code(length=0) == 0
    assert second_stage(0, zero_length_read=zero_length_read).fault(length=0) == 0x79


def test_permission_is_decided_at_the_leaf() -> None:
    """D-4, and the other way by policy."""
    for policy, code in ((Policy(), 0x7A), (Policy(permission_per_level=True), 0x85)):
        world = second_stage(policy=policy)
        world.change(world.second[3], clear=W)
        world.change(world.second[1], add=1 << 51)
        world.put(world.second[2], world.memory.read_u64(world.second[2]) | TM)
        assert world.fault(access=WRITE) == code


def test_permissions_of_the_outcome() -> None:
    for entry in (R, W, RW):
        access = Access(1 if entry & R else 2)
        for _ in range(2):
            world = second_stage(HOST | entry)
            outcome = world.dma(access=access)
            assert (outcome.readable, outcome.writable) == (bool(entry & R), bool(entry & W))


# The host address


@pytest.mark.parametrize(("leaf", "entry"), [(1, 0xFEE0_0000), (1, 0xFEEF_F000), (2, 0xFEE0_0000), (3, 0xC000_0000)])
@raises(FaultReason.SGN_8)
def test_host_address_in_the_interrupt_range(leaf: int, entry: int) -> None:
    size = SIZES[leaf]
    entry = entry // size * size
    world = second_stage(entry | RW | (PS if leaf > 1 else 0), leaf=leaf)
    base = ADDRESS // size * size
    for offset in (0, 0xFEE0_0000 - entry, 0xFEEF_FFFF - entry, 0xFEDF_FFFF - entry, 0xFEF0_0000 - entry):
        if 0 <= offset < size:
            inside = 0xFEE0_0000 <= entry + offset <= 0xFEEF_FFFF
            for pasid in (None, SAME):
                assert world.code(base + offset, pasid=pasid) == (0x87 if inside else 0)


def test_missing_permission_wins_over_the_interrupt_range() -> None:
    assert second_stage(0xFEE0_0000 | R).fault(access=WRITE) == 0x85


# Sharing by domain-id


def test_devices_of_one_domain_share_translations() -> None:
    world = second_stage()
    other = type(NIC)(0, 9, 0)
    world.pasid_entry(0, other, pgtt=SECOND, second=world.second_top)
    for source_id in (NIC, other):
        assert world.dma(source_id=source_id).host_address == HOST


def test_not_present_becomes_present_without_an_invalidation() -> None:
    world = second_stage()
    for level in range(1, 5):
        old = world.memory.read_u64(world.second[level])
        world.put(world.second[level], 0)
        world.unit.caches.invalidate_dma()
        assert world.fault() == 0x79
        world.put(world.second[level], old)
        assert world.dma().host_address == HOST
