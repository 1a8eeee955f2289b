"""capabilities.py: CAP and ECAP bit by bit, and combinations that no unit can have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu import Capabilities, MisuseError
from iommu.engine.capabilities import CAPABILITIES

FLAGS = {
    "write_buffer_flush": ("cap", 4), "caching_mode": ("cap", 7), "zero_length_read": ("cap", 22),
    "page_selective": ("cap", 39), "drain_writes": ("cap", 54), "drain_reads": ("cap", 55),
    "invalidate_on_root_pointer": ("cap", 63), "device_tlb": ("ecap", 2), "pass_through": ("ecap", 6),
    "snoop_control": ("ecap", 7),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_flag_is_one_bit(name: str) -> None:
    register, bit = FLAGS[name]
    off, on = Capabilities(**{name: False}), Capabilities(**{name: True})  # type: ignore[arg-type]
    assert getattr(off, register) ^ getattr(on, register) == 1 << bit
    assert getattr(on, register) >> bit & 1


@pytest.mark.parametrize(("given", "msb", "lsb", "value"), [
    *(({"domain_id_bits": 4 + 2 * nd}, 2, 0, nd) for nd in range(7)),
    *(({"levels": levels}, 12, 8, sagaw) for levels, sagaw in {
        (): 0, (3,): 2, (4,): 4, (5,): 8, (3, 4): 6, (4, 5): 12, (3, 5): 10, (3, 4, 5): 14}.items()),
    *(({"address_width": width}, 21, 16, width - 1) for width in (36, 39, 48, 52, 57)),
    *(({"fault_record_offset": at}, 33, 24, at // 16) for at in (0x200, 0x220, 0x400, 0x3FF0)),
    *(({"page_2m": big, "page_1g": huge}, 37, 34, code) for big, huge, code in (
        (False, False, 0), (True, False, 1), (True, True, 3))),
    *(({"fault_records": count}, 47, 40, count - 1) for count in (1, 2, 8, 256)),
    *(({"max_address_mask": mask}, 53, 48, mask) for mask in (0, 9, 18, 63)),
])  # fmt: skip
def test_field_of_cap(given: dict[str, Any], msb: int, lsb: int, value: int) -> None:
    assert Capabilities(**given).cap >> lsb & (1 << msb - lsb + 1) - 1 == value


@pytest.mark.parametrize("at", [0x100, 0x500, 0xEF0, 0x3FF0])
def test_iotlb_offset_in_ecap(at: int) -> None:
    assert Capabilities(iotlb_offset=at).ecap >> 8 & 0x3FF == at // 16


def test_reserved_bits_of_cap_and_ecap_are_0() -> None:
    everything = Capabilities(
        **dict.fromkeys(FLAGS, True),
        levels=(3, 4, 5),
        fault_records=256,
        max_address_mask=63,
        iotlb_offset=0x3F00,
    )
    reserved = [8, 12, 13, 14, 15, 23, 36, 37, 38, 57, 58]
    assert [bit for bit in reserved if everything.cap >> bit & 1] == []
    reserved = [5, 18, 19, 24, 27, 28, 32, 54, *range(59, 64)]
    assert [bit for bit in reserved if everything.ecap >> bit & 1] == []


@pytest.mark.parametrize(("width", "levels"), [
    (36, (3,)), (39, (3,)), (40, (3, 4)), (48, (3, 4)), (49, (3, 4, 5)), (57, (3, 4, 5)),
])  # fmt: skip
def test_default_levels_reach_the_whole_width(width: int, levels: tuple[int, ...]) -> None:
    assert Capabilities(address_width=width).levels == levels


@pytest.mark.parametrize("wrong", [
    {"address_width": 0}, {"address_width": 58}, {"address_width": 65}, {"host_address_width": 0},
    {"host_address_width": 53}, {"host_address_width": 64}, {"levels": (2,)}, {"levels": (6,)}, {"levels": (3, 6)},
    {"domain_id_bits": 3}, {"domain_id_bits": 5}, {"domain_id_bits": 17}, {"domain_id_bits": 18},
    {"max_address_mask": -1}, {"max_address_mask": 64}, {"fault_records": 0}, {"fault_records": 257},
    {"fault_records": -1}, {"fault_record_offset": 0x221}, {"iotlb_offset": 0xF8}, {"fault_record_offset": 0},
    {"fault_record_offset": 0x40}, {"iotlb_offset": 0x40}, {"iotlb_offset": 0}, {"iotlb_offset": -16},
    {"fault_record_offset": 0xF0}, {"fault_record_offset": 0x200, "fault_records": 16, "iotlb_offset": 0x2F0},
])  # fmt: skip
def test_impossible_capabilities_are_misuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        Capabilities(**wrong)


@given(
    flags=st.fixed_dictionaries({name: st.booleans() for name in FLAGS}),
    address_width=st.integers(36, 57),
    levels=st.sampled_from(((3,), (4,), (5,), (3, 4), (4, 5), (3, 5), (3, 4, 5))),
    domain_id_bits=st.sampled_from(range(4, 17, 2)),
    max_address_mask=st.integers(0, 63),
    fault_records=st.integers(1, 256),
    sizes=st.sampled_from(((False, False), (True, False), (True, True))),
    host_address_width=st.integers(36, 52),
)
def test_registers_encode_every_field(flags: dict[str, Any], sizes: tuple[bool, bool], **numbers: Any) -> None:
    one = Capabilities(page_2m=sizes[0], page_1g=sizes[1], **flags, **numbers)
    assert Capabilities.from_registers(one.cap, one.ecap, one.host_address_width) == one


def test_domain_id_width_code_7_is_reserved() -> None:
    plain = Capabilities()
    with pytest.raises(MisuseError):
        Capabilities.from_registers(plain.cap | 7, plain.ecap, 48)


def test_capabilities_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Capabilities().address_width = 39  # type: ignore[misc]


@pytest.mark.parametrize("offset", [8, 0x4000, -16])
def test_register_offset_that_no_field_can_hold_is_misuse(offset: int) -> None:
    with pytest.raises(MisuseError, match="fault_record_offset"):
        Capabilities(fault_record_offset=offset)
    with pytest.raises(MisuseError, match="iotlb_offset"):
        Capabilities(iotlb_offset=offset)


def test_unit_without_page_table_levels() -> None:
    """CAP.SAGAW is 0 where there is no second stage (11.4.2); a width alone does not bring levels back."""
    plain = Capabilities()
    none = Capabilities.from_registers(plain.cap & ~(0x1F << 8), plain.ecap, 48)
    assert none == Capabilities(levels=())
    assert none.levels == () and none.address_width == 48 and none.cap >> 8 & 0x1F == 0


@pytest.mark.parametrize(("wrong", "needed"), [
    ({"queued_invalidation": False}, "interrupt_remapping needs queued_invalidation"),
    ({"queued_invalidation": False, "interrupt_remapping": True}, "interrupt_remapping needs queued_invalidation"),
    ({"scalable_mode": True}, "scalable_mode needs first_stage or second_stage"),
    ({"scalable_mode": True, "first_stage": True, "nested": True}, "nested needs first_stage and second_stage"),
    ({"page_2m": False}, "page_1g needs page_2m"),
    ({"device_tlb": True, "page_requests": True}, "page_requests needs scalable_mode and device_tlb"),
])  # fmt: skip
def test_capability_without_its_prerequisite_is_misuse(wrong: dict[str, Any], needed: str) -> None:
    with pytest.raises(MisuseError, match=needed):
        Capabilities(**wrong)


NO_QUEUE: dict[str, Any] = {"queued_invalidation": False, "interrupt_remapping": False}


@pytest.mark.parametrize(("placed", "taken_by"), [
    ({"iotlb_offset": 0x100}, {"memory_types": True}),
    ({"iotlb_offset": 0x210}, {"memory_types": True}),
    ({"fault_record_offset": 0x200}, {"memory_types": True}),
    ({"iotlb_offset": 0x60, **NO_QUEUE}, {"protected_low": True}),
    ({"iotlb_offset": 0x70, **NO_QUEUE}, {"protected_high": True}),
    ({"iotlb_offset": 0x90, "interrupt_remapping": False}, {}),
    ({"iotlb_offset": 0xB0}, {}),
    ({"fault_record_offset": 0x80}, {}),
    ({"fault_record_offset": 0x220, "fault_records": 1, "iotlb_offset": 0x220}, {}),
])  # fmt: skip
def test_registers_that_overlap_are_misuse(placed: dict[str, Any], taken_by: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match="overlaps"):
        Capabilities(**placed, **taken_by)
    if taken_by:
        Capabilities(**placed)


@pytest.mark.parametrize("offset", [0x50, 0x60, 0x90, 0xB0, 0xC0, 0xE0])
def test_offsets_of_registers_that_the_unit_does_not_have_are_free(offset: int) -> None:
    assert Capabilities(**NO_QUEUE, iotlb_offset=offset).iotlb_offset == offset


def test_iotlb_registers_over_page_request_registers_are_misuse() -> None:
    with pytest.raises(MisuseError, match="IVA at 0xe0 overlaps PECTL at 0xe0"):
        Capabilities.full(iotlb_offset=0xE0)


def test_scalable_unit() -> None:
    unit = Capabilities.scalable()
    flags = "scalable_mode first_stage second_stage nested pass_through pasid queued_invalidation interrupt_remapping"
    assert set(flags.split()) <= unit.offered
    for bit in (43, 46, 47, 26, 6, 40, 1, 3):  # the same in ECAP
        assert unit.ecap >> bit & 1
    assert Capabilities.scalable(address_width=57).levels == (3, 4, 5)


def test_short_forms_drop_what_lacks_a_prerequisite() -> None:
    """Only what the caller asks for by name has to be possible."""
    one_stage = Capabilities.scalable(first_stage=False)
    assert one_stage.second_stage and not one_stage.nested and not one_stage.first_stage_1g
    without = Capabilities.full(device_tlb=False)
    assert not (without.page_requests or without.page_request_drain or without.invalidation_throttle)
    with pytest.raises(MisuseError, match="nested needs"):
        Capabilities.scalable(first_stage=False, nested=True)
    with pytest.raises(TypeError):
        Capabilities.scalable(no_such_field=True)


def test_full_unit_lacks_only_what_changes_other_capabilities() -> None:
    full = Capabilities.full()
    flags = {name for name, one in CAPABILITIES.items() if isinstance(one.default, bool)}
    left_out = {
        "caching_mode", "write_buffer_flush", "invalidate_on_root_pointer", "invalidate_on_interrupt_pointer",
    }  # fmt: skip
    assert full.offered == flags - left_out | {"protected_memory"}


@pytest.mark.parametrize(("cap", "ecap"), [(1 << 14, 0), (0, 1 << 63), (1 << 36, 1 << 5), (1 << 3, 0), (0, 1 << 51)])
def test_bits_without_effect_are_kept(cap: int, ecap: int) -> None:
    """Reserved bits, and those of what is not modelled: an advanced fault log, performance monitoring."""
    plain = Capabilities()
    same = Capabilities.from_registers(plain.cap | cap, plain.ecap | ecap, 48)
    assert (same.cap, same.ecap) == (plain.cap | cap, plain.ecap | ecap)
    assert same.offered == plain.offered
    assert same != plain


@pytest.mark.parametrize("lost", [
    {"queued_invalidation": 1 << 1}, {"scalable_mode": 1 << 43}, {"first_stage": 1 << 47}, {"pasid": 1 << 40},
    {"second_stage": 1 << 46}, {"device_tlb": 1 << 2}, {"interrupt_remapping": 1 << 3},
])  # fmt: skip
def test_flags_of_registers_without_their_prerequisite_are_off(lost: dict[str, int]) -> None:
    full = Capabilities.full()
    [(name, bit)] = lost.items()
    without = Capabilities.from_registers(full.cap, full.ecap & ~bit, 52)
    assert (without.cap, without.ecap) == (full.cap, full.ecap & ~bit)
    assert name not in without.offered
    for offered in without.offered - {"protected_memory"}:
        assert set(CAPABILITIES[offered].needs) <= without.offered


def test_registers_of_a_unit_can_be_changed() -> None:
    """What has no effect stays, the rest is as asked for."""
    real = Capabilities.preset("kaby-lake-graphics")
    more = replace(real, fault_records=4)
    assert more.cap == real.cap | 3 << 40
    assert more.ecap == real.ecap
