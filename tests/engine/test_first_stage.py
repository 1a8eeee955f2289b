"""The first stage (spec 3.6, 9.7): canonical addresses, levels and page sizes, reserved bits, permissions."""

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
    HOST,
    SAME,
    USER,
    WRITABLE,
    XD,
    P,
    ScalableWorld,
    first_stage,
)
from tests.engine.world import ABSENT, NIC, PS, READ, WRITE

HAWS = (39, 46, 52)
SIZES = {1: 1 << 12, 2: 1 << 21, 3: 1 << 30}


# Addresses


@pytest.mark.parametrize(("levels", "sign"), [(4, 47), (5, 56)])
@raises(FaultReason.SGN_1)
def test_addresses_must_be_canonical(levels: int, sign: int) -> None:
    """Every bit above the sign bit equals it."""
    for top in (0, (1 << 64) - (1 << sign)):
        world = first_stage(address=top | ADDRESS, levels=levels)
        assert world.dma(top | ADDRESS | 0xFFF).host_address == HOST + 0xFFF
        for bit in range(sign, 64):
            assert world.fault(top ^ 1 << bit | ADDRESS) == 0x80, f"bit {bit}"
            assert world.fault(top ^ 1 << bit | ADDRESS, WRITE, pasid=SAME) == 0x80
        for bit in range(36, sign):
            assert world.fault(top ^ 1 << bit | ADDRESS) == 0x71, f"bit {bit}"


@pytest.mark.parametrize("levels", [4, 5])
def test_first_and_last_canonical_pages(levels: int) -> None:
    half = 1 << 11 + 9 * levels
    for address in (0, half - 4096, (1 << 64) - half, (1 << 64) - 4096):
        world = first_stage(address=address, levels=levels)
        assert world.dma(address).host_address == HOST


def test_guest_width_does_not_limit_a_first_stage_alone() -> None:
    address = (1 << 47) - 4096
    assert first_stage(address=address, address_width=39).dma(address).host_address == HOST


def test_canonical_check_comes_before_the_tables() -> None:
    world = first_stage()
    world.pasid_entry(pgtt=1, first=ABSENT)
    assert world.fault() == 0x73
    assert world.fault(1 << 50) == 0x80


# Entries that cannot be read, or are not there


@pytest.mark.parametrize("levels", [4, 5])
@raises(FaultReason.SFS_4)
def test_unreadable_top_table(levels: int) -> None:
    world = first_stage(levels=levels)
    world.pasid_entry(pgtt=1, first=ABSENT, first_levels=levels)
    assert world.fault() == 0x73
    assert world.record().reason == 0x73


@pytest.mark.parametrize("levels", [4, 5])
@raises(FaultReason.SFS_1)
def test_unreadable_lower_table(levels: int) -> None:
    for level in range(2, levels + 1):
        world = first_stage(levels=levels)
        world.put(world.first[level], ABSENT | ALL1)
        assert world.fault() == 0x70


@pytest.mark.parametrize("levels", [4, 5])
@raises(FaultReason.SFS_2)
def test_absent_entry_ignores_all_its_other_bits(levels: int) -> None:
    for level in range(1, levels + 1):
        world = first_stage(levels=levels)
        world.put(world.first[level], (1 << 64) - 2)
        assert world.fault(access=WRITE) == 0x71
        assert world.fault(pasid=SAME, privileged=True) == 0x71


# Page sizes


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("leaf", [1, 2, 3])
def test_page_sizes(levels: int, leaf: int) -> None:
    size = SIZES[leaf]
    entry = 0x1_4000_0000 | ALL1 | (PS if leaf > 1 else 0)
    world = first_stage(entry, leaf=leaf, levels=levels)
    base = ADDRESS // size * size
    for offset in (0, 0x123, size - 1, size // 2):
        for _ in range(2):
            outcome = world.dma(base + offset, WRITE)
            assert (outcome.host_address, outcome.page_size) == (0x1_4000_0000 + offset, size)
    assert world.fault(base + size) == 0x71


@pytest.mark.parametrize("leaf", [2, 3])
def test_pat_bit_of_a_large_page_is_not_an_address_bit(leaf: int) -> None:
    entry = 0x1_4000_0000 | 1 << 12 | ALL1 | PS
    base = ADDRESS // SIZES[leaf] * SIZES[leaf]
    assert first_stage(entry, leaf=leaf).dma(base).host_address == 0x1_4000_0000


def test_bit_7_of_the_last_level_is_not_page_size() -> None:
    outcome = first_stage(HOST | ALL1 | PS).dma()
    assert (outcome.host_address, outcome.page_size) == (HOST, 4096)


@raises(FaultReason.SFS_3)
def test_1g_pages_need_the_capability() -> None:
    entry = 0x1_4000_0000 | ALL1 | PS
    assert first_stage(entry, leaf=3, first_stage_1g=False).fault() == 0x72
    assert first_stage(entry, leaf=2, first_stage_1g=False).code() == 0
    assert first_stage(entry, leaf=2, page_2m=False, page_1g=False).code() == 0, "those are of the second stage"


# Reserved bits


@pytest.mark.parametrize("levels", [4, 5])
@raises(FaultReason.SFS_3)
def test_page_size_bit_is_reserved_at_the_top(levels: int) -> None:
    for level in range(4, levels + 1):
        world = first_stage(levels=levels)
        world.change(world.first[level], add=PS)
        assert world.fault() == 0x72


@pytest.mark.parametrize("haw", HAWS)
@raises(FaultReason.SFS_3)
def test_address_bits_beyond_the_host_width_are_reserved(haw: int) -> None:
    world = first_stage(host_address_width=39)
    world.flip(world.first[1], 45)
    assert world.fault() == 0x72
    for level, bit in itertools.product(range(1, 5), range(haw, 52)):
        world = first_stage(host_address_width=haw)
        world.flip(world.first[level], bit)
        assert world.fault() == 0x72, f"level {level}, bit {bit}"


@pytest.mark.parametrize("leaf", [2, 3])
@raises(FaultReason.SFS_3)
def test_low_address_bits_of_large_pages_are_reserved(leaf: int) -> None:
    for bit in range(13, 3 + 9 * leaf):
        assert first_stage(0x1_4000_0000 | 1 << bit | ALL1 | PS, leaf=leaf).fault() == 0x72, f"bit {bit}"


def test_ignored_bits() -> None:
    for level, bit in itertools.product(range(1, 5), [3, 4, 8, 9, 11, *range(52, 63)]):
        world = first_stage()
        world.flip(world.first[level], bit)
        assert world.dma(access=WRITE).host_address == HOST, f"level {level}, bit {bit}"
    for level in range(2, 5):
        world = first_stage()
        world.flip(world.first[level], 6)
        assert world.dma(access=WRITE).host_address == HOST


def test_each_address_bit_below_the_host_width_is_used() -> None:
    for haw in HAWS:
        for bit in range(12, haw):
            if 1 << bit >> 20 != 0xFEE:
                outcome = first_stage(1 << bit | ALL1, host_address_width=haw).dma()
                assert outcome.host_address == 1 << bit


# Permissions


LEVELS = range(1, 5)


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SGN_2)
def test_user_request_needs_a_user_page_at_every_level(level: int) -> None:
    world = first_stage()
    world.change(world.first[level], clear=USER)
    for access in (READ, WRITE, ATOMIC):
        assert world.fault(access=access, pasid=SAME) == 0x81
        assert world.dma(access=access, pasid=SAME, privileged=True).host_address == HOST
        assert world.fault(access=access, pasid=SAME) == 0x81, "also when it is cached"
    assert world.fault() == 0x81, "without a PASID it is a user's request"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("access", [WRITE, ATOMIC])
@raises(FaultReason.SGN_6)
def test_user_write_needs_write_permission_at_every_level(level: int, access: Access) -> None:
    for wpe in (0, 1):
        world = first_stage(pasid_entry={"wpe": wpe})
        world.change(world.first[level], clear=WRITABLE)
        assert world.fault(access=access) == 0x85
        assert world.dma().host_address == HOST
        assert world.fault(access=access) == 0x85
        assert world.fault(access=access, pasid=SAME) == 0x85


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("wpe", [0, 1])
@pytest.mark.parametrize("warm", [False, True])
def test_supervisor_write_needs_write_permission_with_wpe(level: int, wpe: int, warm: bool) -> None:
    for access in (WRITE, ATOMIC):
        world = first_stage(pasid_entry={"wpe": wpe})
        world.change(world.first[level], clear=WRITABLE)
        if warm:
            assert world.dma(pasid=SAME, privileged=True).host_address == HOST
        code = world.code(access=access, pasid=SAME, privileged=True)
        assert code == (0x85 if wpe else 0)


def test_supervisor_may_use_user_pages() -> None:
    world = first_stage(pasid_entry={"wpe": 1, "ere": 1})
    for access in (READ, WRITE):
        assert world.dma(access=access, pasid=SAME, privileged=True).host_address == HOST


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SGN_3)
def test_execute_needs_xd_clear_at_every_level(level: int) -> None:
    world = first_stage(pasid_entry={"ere": 1})
    world.change(world.first[level], add=XD)
    assert world.fault(pasid=SAME, execute=True) == 0x82
    assert world.dma(pasid=SAME).host_address == HOST
    assert world.fault(pasid=SAME, execute=True) == 0x82
    assert world.fault(pasid=SAME, execute=True, privileged=True) == 0x82
    assert world.dma(access=WRITE, pasid=SAME).host_address == HOST
    assert len(world.records()) == 3


def test_execute_of_a_user_page() -> None:
    world = first_stage(pasid_entry={"ere": 1})
    for _ in range(2):
        assert world.dma(pasid=SAME, execute=True).host_address == HOST


@pytest.mark.parametrize("permission", [P, P | USER])
def test_a_present_entry_can_always_be_read(permission: int) -> None:
    world = first_stage(HOST | permission)
    for length in (0, 1):
        assert world.dma(pasid=SAME, privileged=True, length=length).host_address == HOST
        assert world.code(length=length) == (0 if permission & USER else 0x81)


def test_user_before_write() -> None:
    world = first_stage(HOST | P)
    assert world.fault(access=WRITE) == 0x81


def test_fault_at_a_lower_level_wins_over_a_missing_permission() -> None:
    """D-4: by default permissions are decided at the leaf."""
    world = first_stage()
    world.change(world.first[3], clear=WRITABLE | USER)
    world.change(world.first[2], clear=P)
    assert world.fault(access=WRITE) == 0x71


def test_permissions_of_the_outcome() -> None:
    outcome = first_stage(HOST | ALL1).dma()
    assert (outcome.readable, outcome.writable) == (True, True)
    outcome = first_stage(HOST | P | USER).dma()
    assert (outcome.readable, outcome.writable) == (True, False)


# The host address


@pytest.mark.parametrize(("leaf", "entry"), [(1, 0xFEE0_0000), (1, 0xFEEF_F000), (2, 0xFEE0_0000), (3, 0xC000_0000)])
@raises(FaultReason.SGN_8)
def test_host_address_in_the_interrupt_range(leaf: int, entry: int) -> None:
    size = SIZES[leaf]
    entry = entry // size * size
    world = first_stage(entry | ALL1 | (PS if leaf > 1 else 0), leaf=leaf)
    base = ADDRESS // size * size
    for offset in (0, 0xFEE0_0000 - entry, 0xFEEF_FFFF - entry, 0xFEDF_FFFF - entry, 0xFEF0_0000 - entry):
        if 0 <= offset < size:
            inside = 0xFEE0_0000 <= entry + offset <= 0xFEEF_FFFF
            for pasid in (None, SAME):
                assert world.code(base + offset, pasid=pasid) == (0x87 if inside else 0)


def test_interrupt_range_as_an_input_with_a_pasid_is_translated() -> None:
    world = first_stage(address=0xFEE0_0000)
    outcome = world.dma(0xFEE0_0123, WRITE, pasid=SAME)
    assert (outcome.host_address, outcome.interrupt) == (HOST + 0x123, False)
    assert world.fault(0xFEE0_1000, WRITE, pasid=SAME) == 0x71


# Caches


def test_pasids_do_not_share_first_stages() -> None:
    world = first_stage(pasid=1)
    other = world.page()
    world.map_first(other, 4, ADDRESS, 0xA000 | ALL1)
    world.pasid_entry(2, pgtt=1, first=other)
    for _ in range(2):
        assert world.dma(pasid=1).host_address == HOST
        assert world.dma(pasid=2).host_address == 0xA000


def test_not_present_becomes_present_without_an_invalidation() -> None:
    world = first_stage()
    for level in LEVELS:
        old = world.memory.read_u64(world.first[level])
        world.put(world.first[level], 0)
        world.unit.caches.invalidate_dma()
        assert world.fault() == 0x71
        world.put(world.first[level], old)
        assert world.dma().host_address == HOST


def test_write_after_a_read_still_sets_dirty() -> None:
    world = first_stage()
    assert world.dma().host_address == HOST
    assert world.bits(world.first, A1 | D1)[1] == A1
    assert world.dma(access=WRITE).host_address == HOST
    assert world.bits(world.first, A1 | D1)[1] == A1 | D1


def test_two_devices_of_one_unit() -> None:
    world = ScalableWorld()
    tables = {}
    for number, source_id in enumerate((NIC, type(NIC)(3, 31, 7))):
        tables[source_id] = world.page()
        world.map_first(tables[source_id], 4, ADDRESS, 0x10_0000 * (number + 1) | ALL1)
        world.pasid_entry(0, source_id, pgtt=1, first=tables[source_id], did=number + 1)
    world.start()
    for _ in range(2):
        for number, source_id in enumerate(tables):
            assert world.dma(source_id=source_id).host_address == 0x10_0000 * (number + 1)


@pytest.mark.parametrize("level", LEVELS)
@raises(FaultReason.SGN_3)
def test_execute_in_the_record(level: int) -> None:
    """3.1: EXE."""
    world = first_stage(pasid_entry={"ere": 1})
    world.change(world.first[level], add=XD)
    assert world.fault(pasid=SAME, execute=True) == 0x82
    assert world.record().execute == 1


@raises(FaultReason.SGN_2, FaultReason.SGN_6)
def test_permission_per_level_holds_for_the_first_stage_too() -> None:
    """D-4: 2.5 item 5 leaves it open for this stage as 1.6 does for the other."""
    world = first_stage(policy=Policy(permission_per_level=True))
    world.change(world.first[3], clear=USER)
    world.change(world.first[2], clear=P)
    assert world.fault(access=WRITE) == 0x81
    world = first_stage(policy=Policy(permission_per_level=True))
    world.change(world.first[3], clear=WRITABLE)
    world.change(world.first[2], add=1 << 51 | 1)
    assert world.fault(access=WRITE) == 0x85
