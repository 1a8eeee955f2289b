"""register_file.py: the register window: which accesses are allowed, and what a write can change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu import MisuseError, OddAccess, Policy, Selector
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


# Accesses that 11.2 leaves undefined, under each choice of the policy

IGNORED, BYTES, DWORDS = OddAccess.IGNORED, OddAccess.BYTES, OddAccess.DWORDS
ODD = st.tuples(st.integers(0, 0x240), st.integers(1, 64)).filter(
    lambda where: where[1] not in (4, 8) or where[0] % where[1]
)


def odd(choice: OddAccess, **capabilities: Any) -> World:
    """A world whose unit takes odd accesses by a choice."""
    return World(policy=Policy(odd_accesses=choice), fault_records=4, **capabilities)


def window(world: World) -> bytes:
    """The first registers, byte by byte, as aligned doublewords read."""
    return b"".join(world.read(offset).to_bytes(4, "little") for offset in range(0, 0x300, 4))


@pytest.mark.parametrize("choice", OddAccess)
@pytest.mark.parametrize(("offset", "size"), [(-4, 4), (-1, 1), (0x20, 0), (0x20, -1), (0x20, 65), (-8, 16)])
def test_accesses_that_no_processor_makes_are_misuse(choice: OddAccess, offset: int, size: int) -> None:
    world = odd(choice)
    with pytest.raises(MisuseError, match="no processor"):
        world.read(offset, size)
    with pytest.raises(MisuseError, match="no processor"):
        world.write(offset, 0, size)


@pytest.mark.parametrize("choice", [IGNORED, BYTES, DWORDS])
@pytest.mark.parametrize(("value", "size"), [(-1, 1), (0x100, 1), (1 << 24, 3), (1 << 128, 16)])
def test_odd_value_that_does_not_fit_is_misuse(choice: OddAccess, value: int, size: int) -> None:
    with pytest.raises(MisuseError, match="does not fit"):
        odd(choice).write(RTADDR, value, size)


@given(st.sampled_from((IGNORED, BYTES, DWORDS)), ODD)
def test_odd_reads(choice: OddAccess, where: tuple[int, int]) -> None:
    offset, size = where
    world = odd(choice)
    world.start().dma(0x7000)
    world.write(RTADDR, 0x1234_5678_9000, 8)
    shown = 0 if choice is IGNORED else int.from_bytes(window(world)[offset : offset + size], "little")
    assert world.read(offset, size) == shown


@given(ODD, st.binary(min_size=64, max_size=64))
def test_ignored_writes_change_nothing(where: tuple[int, int], data: bytes) -> None:
    offset, size = where
    world = odd(IGNORED)
    world.start().dma(0x7000)
    before = window(world)
    world.write(offset, int.from_bytes(data[:size], "little"), size)
    assert window(world) == before


@pytest.mark.parametrize(("offset", "size", "value", "bytes_", "dwords"), [
    (RTADDR + 1, 1, 0xAB, 0x1111_1111_1111_A800, 0x1111_1111_0000_A800),
    (RTADDR + 2, 2, 0xABCD, 0x1111_1111_ABCD_1000, 0x1111_1111_ABCD_0000),
    (RTADDR + 2, 4, 0x2345_ABCD, 0x1111_2345_ABCD_1000, 0x0000_2345_ABCD_0000),
    (RTADDR + 3, 3, 0x23_45AB, 0x1111_2345_AB11_1000, 0x0000_2345_AB00_0000),
    (RTADDR - 4, 8, 0x2345_6789 << 32, 0x1111_1111_2345_6400, 0x1111_1111_2345_6400),
])  # fmt: skip
def test_odd_writes_of_a_register_that_holds_values(
    offset: int, size: int, value: int, bytes_: int, dwords: int
) -> None:
    """RTADDR holds bits 51:10 here."""
    for choice, expected in ((IGNORED, 0x1111_1111_1111_1000), (BYTES, bytes_), (DWORDS, dwords)):
        world = odd(choice, host_address_width=52)
        world.write(RTADDR, 0x1111_1111_1111_1000, 8)
        world.write(offset, value, size)
        assert world.read(RTADDR, 8) == expected & 0xF_FFFF_FFFF_FC00, choice


def test_bytes_of_the_command_register_keep_the_other_enable_bits() -> None:
    """TE, QIE and IRE are in byte 3, CFI in byte 2. As doublewords, each write also writes 0 to the other bytes."""
    for choice, cfi_kept, te_kept in ((BYTES, 1, 1), (DWORDS, 0, 0)):
        world = odd(choice, interrupt_remapping=True)
        world.write(GCMD + 2, 0x80, 1)
        assert world.read(GSTS) == 1 << 23
        world.write(GCMD + 3, 0x80, 1)
        assert world.read(GSTS) == 1 << 31 | cfi_kept << 23
        world.write(GCMD, 0xFF, 1)
        assert world.read(GSTS) == te_kept << 31 | cfi_kept << 23
        world.write(GCMD + 3, 0, 1)
        assert world.read(GSTS) == cfi_kept << 23


@pytest.mark.parametrize("choice", [BYTES, DWORDS])
@pytest.mark.parametrize(("accesses", "times"), [
    ([(GCMD + 3, 1)], 1), ([(GCMD + 2, 2)], 1), ([(GCMD + 1, 3)], 1), ([(GCMD, 16)], 1), ([(GCMD - 1, 8)], 1),
    ([(GCMD + n, 1) for n in range(4)], 1), ([(GCMD + n, 1) for n in (3, 2, 1, 0)], 1),
    ([(GCMD + n, 2) for n in (0, 2)], 1), ([(GCMD, 1), (GCMD + 1, 1)], 0),
])  # fmt: skip
def test_one_shot_command_by_odd_writes(choice: OddAccess, accesses: list[tuple[int, int]], times: int) -> None:
    """SRTP (bit 30) is carried out once: by the access that writes its byte."""
    world = odd(choice)
    carried_out: list[int] = []
    vars(world.unit.translation)["set_root_table"] = lambda address, _mode: carried_out.append(address)
    world.write(RTADDR, 0x5000, 8)
    command = (1 << 30).to_bytes(4, "little")
    for offset, size in accesses:
        data = bytes(command[at - GCMD] if GCMD <= at < GCMD + 4 else 0 for at in range(offset, offset + size))
        world.write(offset, int.from_bytes(data, "little"), size)
    assert carried_out == [0x5000] * times
    assert world.read(GSTS) >> 30 & 1 == times


@pytest.mark.parametrize("choice", [BYTES, DWORDS])
def test_invalidation_by_odd_writes_starts_with_its_last_byte(choice: OddAccess) -> None:
    """ICC and CIRG of CCMD are in byte 7: a global invalidation there, once."""
    world = odd(choice)
    performed: list[Selector] = []
    vars(world.unit.invalidation)["invalidate"] = performed.append
    for byte in range(8):
        world.write(CCMD + byte, 0xA0 if byte == 7 else 0, 1)
        assert len(performed) == (byte == 7)
    assert world.read(CCMD, 8) >> 59 & 3 == 1


@pytest.mark.parametrize("choice", [BYTES, DWORDS])
def test_bits_that_are_cleared_by_ones_are_cleared_by_their_byte_only(choice: OddAccess) -> None:
    """F of a fault record is bit 7 of its byte 15."""
    world = odd(choice)
    world.start().dma(0x7000)
    for byte in range(15):
        world.write(world.frcd + byte, 0xFF, 1)
        assert world.record().f == 1
    world.write(world.frcd + 15, 0x7F, 1)
    assert world.record().f == 1
    world.write(world.frcd + 15, 0x80, 1)
    assert world.record().f == 0


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
