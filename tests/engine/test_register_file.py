"""register_file.py: the register window: which accesses are allowed, and what a write can change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu import MisuseError
from iommu import registers as layouts
from tests.engine.scalable_world import ScalableWorld
from tests.engine.world import CAP, CCMD, ECAP, FEADDR, FECTL, FEDATA, FEUADDR, FSTS, GCMD, GSTS, RTADDR, World

ONES32, ONES64 = (1 << 32) - 1, (1 << 64) - 1


@pytest.mark.parametrize(("offset", "size"), [
    *((0x20, size) for size in (-4, 0, 1, 2, 3, 5, 6, 7, 9, 12, 16)),
    *((0x20 + off, 4) for off in (1, 2, 3)),
    *((0x20 + off, 8) for off in (1, 2, 3, 4, 5, 6, 7)),
    (-4, 4), (-8, 8), (-1, 4),
])  # fmt: skip
def test_unaligned_and_odd_sized_accesses_are_misuse(offset: int, size: int) -> None:
    world = World()
    with pytest.raises(MisuseError):
        world.read(offset, size)
    with pytest.raises(MisuseError):
        world.write(offset, 0, size)


@pytest.mark.parametrize(("value", "size"), [(-1, 4), (1 << 32, 4), (1 << 64, 8), (-1, 8)])
def test_value_that_does_not_fit_is_misuse(value: int, size: int) -> None:
    with pytest.raises(MisuseError):
        World().write(RTADDR, value, size)


def test_values_after_reset() -> None:
    world = World()
    assert [offset for offset in range(0x18, 0x48, 4) if world.read(offset)] == [FECTL]
    assert world.read(FECTL) == 1 << 31
    assert world.read(world.iva, 8) == 0
    assert world.read(world.frcd, 8) == world.read(world.frcd + 8, 8) == 0


def test_version_has_register_based_invalidation() -> None:
    assert 1 <= World().read(0) >> 4 <= 5


@pytest.mark.parametrize("offset", [0x00, CAP, CAP + 4, ECAP, ECAP + 4, GSTS])
def test_read_only_registers(offset: int) -> None:
    world = World()
    before = world.read(offset)
    for value in (0, ONES32):
        world.write(offset, value)
        assert world.read(offset) == before


@pytest.mark.parametrize("offset", [0x04, 0x30, 0x48, 0x64, 0x1FC, 0x3FF0, 0x10_0000])
def test_offset_without_a_register(offset: int) -> None:
    world = World()
    world.write(offset, ONES32)
    assert world.read(offset) == 0


@pytest.mark.parametrize(("offset", "mask"), [
    (RTADDR, 0x0000_FFFF_FFFF_FC00), (CCMD, 0x6000_0000_0000_FFFF),
])  # fmt: skip
def test_bits_that_64_bit_registers_keep(offset: int, mask: int) -> None:
    """Of CCMD, only CIRG and DID are certain to read back."""
    world = World(host_address_width=48)
    world.write(offset, ONES64 >> 1, 8)
    assert world.read(offset, 8) & mask == mask
    assert world.read(offset, 8) & ~mask & ~0x3_FFFF_0000 == 0
    world.write(offset, 0, 8)
    assert world.read(offset, 8) & mask == 0


@pytest.mark.parametrize("haw", [39, 46, 52])
def test_root_table_address_bits_above_the_host_width_are_not_implemented(haw: int) -> None:
    world = World(host_address_width=haw)
    world.write(RTADDR, ONES64, 8)
    assert world.read(RTADDR, 8) == (1 << haw) - 1 & ~0x3FF


@given(st.lists(st.tuples(st.sampled_from((0, 4)), st.integers(0, ONES32)), max_size=6))
def test_halves_of_a_64_bit_register_are_independent(writes: list[tuple[int, int]]) -> None:
    world = World(host_address_width=52)
    low = high = 0
    for half, value in writes:
        world.write(RTADDR + half, value)
        if half:
            high = value & 0xF_FFFF
        else:
            low = value & 0xFFFF_FC00
    assert world.read(RTADDR) == low
    assert world.read(RTADDR + 4) == high
    assert world.read(RTADDR, 8) == high << 32 | low


def test_64_bit_access_reaches_two_32_bit_registers() -> None:
    world = World()
    world.write(FECTL, 0x55 << 32 | 0, 8)
    assert (world.read(FECTL), world.read(FEDATA)) == (0, 0x55)
    assert world.read(FECTL, 8) == 0x55 << 32
    world.write(FEADDR, 0x1234 << 32 | 0xFEE0_0000, 8)
    assert (world.read(FEADDR), world.read(FEUADDR)) == (0xFEE0_0000, 0x1234)


def test_64_bit_access_to_the_command_register_gives_the_command() -> None:
    world = World()
    world.write(GCMD, 1 << 31, 8)
    assert world.read(GSTS) == 1 << 31
    assert world.read(GCMD, 8) == 1 << 63


def test_command_register_reads_as_0() -> None:
    world = World()
    world.start()
    assert world.read(GCMD) == 0


def test_writing_one_register_leaves_all_others_alone() -> None:
    world = World()
    offsets = [RTADDR, RTADDR + 4, FEDATA, FEADDR, FEUADDR]
    for offset in offsets:
        others = {other: world.read(other) for other in [*range(0, 0x48, 4), world.iva] if other != offset}
        world.write(offset, 0x1000)
        assert {other: world.read(other) for other in others} == others


@pytest.mark.parametrize("placing", [
    {"fault_record_offset": 0x400, "iotlb_offset": 0x500, "fault_records": 16},
    {"fault_record_offset": 0x200, "iotlb_offset": 0x100, "fault_records": 8},
    {"fault_record_offset": 0x1000, "iotlb_offset": 0xEF0, "fault_records": 256},
    {"fault_record_offset": 0x3FF0, "iotlb_offset": 0x3FE0},
    {"fault_record_offset": 0xC0, "iotlb_offset": 0xD0},
])  # fmt: skip
def test_records_and_iotlb_are_where_the_capabilities_say(placing: dict[str, Any]) -> None:
    world = World(**placing)
    assert (world.frcd, world.iva) == (placing["fault_record_offset"], placing["iotlb_offset"])
    world.start()
    world.dma(0x7000)
    assert world.record().address == 0x7000
    assert world.read(world.frcd + 12) >> 31 == 1
    assert world.invalidate_pages(1) == 1
    assert world.record().address == 0x7000


@given(
    st.integers(0, 0x110).map(lambda n: 4 * n),
    st.sampled_from((4, 8)),
    st.integers(0, ONES64),
)
def test_any_aligned_access_is_harmless(offset: int, size: int, value: int) -> None:
    world = World(fault_records=4)
    offset -= offset % size
    world.write(offset, value & (1 << 8 * size) - 1, size)
    assert 0 <= world.read(offset, size) < 1 << 8 * size
    assert world.read(FSTS) == 0
    assert world.records() == []


@given(st.integers(0, 0x110).map(lambda n: 8 * n), st.integers(0, 8))
def test_64_bit_read_is_its_two_halves(offset: int, faults: int) -> None:
    world = World(fault_records=4)
    world.start()
    for n in range(faults):
        world.dma(n << 12)
    assert world.read(offset, 8) == world.read(offset + 4) << 32 | world.read(offset)


def test_registers_are_found_by_their_class() -> None:
    registers = World(fault_records=3).unit.registers
    assert registers[layouts.GSTS].offset == GSTS
    assert [slot.offset for slot in registers.all(layouts.FRCD)] == [0x220, 0x230, 0x240]
    assert registers[layouts.FRCD] is registers.all(layouts.FRCD)[0]
    assert [slot.offset for slot in registers] == sorted(slot.offset for slot in registers)


def test_register_that_the_unit_lacks_is_misuse() -> None:
    registers = World().unit.registers
    assert registers.get(layouts.PMEN) is None
    assert list(registers.all(layouts.PQH)) == []
    with pytest.raises(MisuseError, match="no register PMEN"):
        registers[layouts.PMEN]


@pytest.mark.parametrize("extended", [False, True])
def test_extended_interrupt_mode_is_kept_only_where_it_is_offered(extended: bool) -> None:
    """IRTA.EIME, bit 11, is RsvdZ where ECAP.EIM is 0 (layouts sheet 1.12)."""
    world = World(extended_interrupts=extended, host_address_width=48)
    world.write(0xB8, 0x1234_5000 | 1 << 11 | 7, 8)
    assert world.read(0xB8, 8) == 0x1234_5000 | extended << 11 | 7


@pytest.mark.parametrize(("offset", "size", "kept"), [
    (0x88, 8, 0x7FFF0),  # IQT
    (0x90, 8, 0x000F_FFFF_FFFF_F807),  # IQA
    (0xB8, 8, 0x000F_FFFF_FFFF_F80F),  # IRTA
    (0xC0, 8, 0x7FFE0),  # PQH
    (0xC8, 8, 0x7FFE0),  # PQT
    (0xD0, 8, 0x000F_FFFF_FFFF_F007),  # PQA
    (0xA0, 4, 1 << 31), (0xE0, 4, 1 << 31),  # IECTL, PECTL
    (0xA4, 4, 0xFFFF), (0xE4, 4, 0xFFFF),  # IEDATA, PEDATA
    (0xA8, 4, 0xFFFF_FFFC), (0xE8, 4, 0xFFFF_FFFC),  # IEADDR, PEADDR
    (0xAC, 4, 0xFFFF_FFFF), (0xEC, 4, 0xFFFF_FFFF),  # IEUADDR, PEUADDR
    (0x9C, 4, 0), (0xDC, 4, 0), (0xB0, 8, 0), (0x80, 8, 0),  # ICS, PRS, IQERCD, IQH
])  # fmt: skip
def test_bits_that_the_registers_of_the_queues_keep(offset: int, size: int, kept: int) -> None:
    """Layouts sheet 1.7, 1.10 to 1.13. As in RTADDR and IRTA, address bits beyond the host width do not exist."""
    world = ScalableWorld(host_address_width=52)
    world.write(offset, (1 << 8 * size) - 1, size)
    assert world.read(offset, size) == kept
    world.write(offset, 0, size)
    assert world.read(offset, size) == 0


@pytest.mark.parametrize("haw", [39, 46, 52])
def test_interrupt_table_address_bits_above_the_host_width_are_not_implemented(haw: int) -> None:
    """Layouts sheet 1.12."""
    world = World(host_address_width=haw)
    world.write(0xB8, ONES64, 8)
    assert world.read(0xB8, 8) == (1 << haw) - 1 & ~0xFF0 & ~(1 << 11)


@pytest.mark.parametrize("bit", [2, 3, 7, *range(16, 32)])
def test_withdrawn_and_reserved_bits_of_the_fault_status_are_0(bit: int) -> None:
    world = World()
    world.write(FSTS, 1 << bit)
    assert world.read(FSTS) == 0
