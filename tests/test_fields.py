"""fields.py: everything derived from a declaration agrees."""

from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu.errors import MisuseError
from iommu.fields import Layout, address, at, enumerated, field, flag, octets


class Colour(IntEnum):
    RED = 0
    BLUE = 2


class Sample(Layout, bits=128, section="0.0"):
    """A made-up layout with gaps, every kind of field, and fields in both words."""

    TAG = octets(14, 2, "two bytes")
    TABLE = address(107, 76, "table, in the upper word")
    NUMBER = field(71, 64, "a number")
    TOP = flag(63, "top bit")
    PAGE = address(51, 12, "a page")
    SNOOP = flag(11, "snoop", needs="snoop_control")
    COLOUR = enumerated(3, 2, Colour, "a colour")
    P = flag(0, "present")


class Acpi(Layout, bits=64):
    LENGTH = at(0, 4, "length")
    NAME = octets(4, 4, "name")


values = st.integers(0, (1 << 128) - 1)


@given(values)
def test_construct_and_accessors_read_the_same(raw: int) -> None:
    parsed: Any = Sample.construct().parse(raw.to_bytes(16, "little"))
    for name, part in Sample.fields.items():
        assert parsed[name] == part.get(raw) == getattr(Sample(raw), name)


@given(values)
def test_construct_parses_and_builds_without_loss(raw: int) -> None:
    data = raw.to_bytes(16, "little")
    assert Sample.construct().build(Sample.construct().parse(data)) == data


@given(values, values)
def test_put_changes_only_its_field(raw: int, other: int) -> None:
    for part in Sample.fields.values():
        result = part.put(raw, part.get(other))
        assert part.get(result) == part.get(other)
        assert result & ~part.mask == raw & ~part.mask


def test_make_and_construct_build_the_same() -> None:
    wanted: dict[str, Any] = {"P": 1, "PAGE": 0x1234_5000, "TABLE": 0x7000, "TAG": b"ab", "COLOUR": Colour.BLUE}
    assert Sample.make(**wanted).to_bytes(16, "little") == Sample.construct().build(wanted)


def test_bit_positions_are_as_declared() -> None:
    assert Sample.make(P=1) == 1
    assert Sample.make(COLOUR=Colour.BLUE) == 0b1000
    assert Sample.make(PAGE=0xF_FFFF_FFFF_F000) == 0xF_FFFF_FFFF_F000
    assert Sample.make(TABLE=0xFFF_FFFF_F000) == 0xFFF_FFFF_F000 << 64
    assert Sample.make(TAG=b"\x01\x02") == 0x0201 << 112
    assert Acpi.make(LENGTH=0x30, NAME=b"DMAR").to_bytes(8, "little") == b"\x30\0\0\0DMAR"


def test_undeclared_bits_are_reserved() -> None:
    declared = 0xFFFF << 112 | 0xFFF_FFFF_F000 << 64 | 0xFF << 64 | 1 << 63 | 0xF_FFFF_FFFF_F800 | 0b1101
    assert Sample.reserved_mask() == ((1 << 128) - 1) ^ declared


def test_address_bits_beyond_the_host_width_are_reserved() -> None:
    extra = Sample.reserved_mask(host_address_width=39) ^ Sample.reserved_mask()
    assert extra == (0x1FFF << 39) | (0x1F << 39 + 64)


def test_field_is_reserved_without_the_capability_it_needs() -> None:
    assert Sample.reserved_mask(offered=()) ^ Sample.reserved_mask(offered=("snoop_control",)) == 1 << 11


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"P": 2}, "P [0:0] cannot hold 0x2"),
        ({"PAGE": 0x1001}, "PAGE [51:12] cannot hold 0x1001"),
        ({"NUMBER": -1}, "NUMBER [71:64] cannot hold -0x1"),
        ({"TAG": b"abc"}, "TAG takes 2 bytes, got 3"),
        ({"NOPE": 1}, "Sample has no field NOPE"),
    ],
)
def test_value_that_does_not_fit_is_rejected(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        Sample.make(**wrong)
    assert message in str(caught.value)


def test_raw_value_wider_than_the_layout_is_rejected() -> None:
    with pytest.raises(MisuseError):
        Acpi(1 << 64)


def test_overlapping_fields_are_rejected_at_declaration() -> None:
    with pytest.raises(TypeError, match="overlaps"):

        class Wrong(Layout, bits=8):
            A = field(4, 2, "")
            B = field(2, 0, "")


def test_dump_shows_every_field_and_reserved_bits_that_are_set() -> None:
    text = Sample(Sample.make(P=1, COLOUR=Colour.BLUE, PAGE=0x5000) | 1 << 1).dump()
    assert "51:12  PAGE         0x0000000000005000" in text
    assert "COLOUR       BLUE" in text
    assert "reserved" in text
    assert "reserved" not in Sample(1).dump()
    assert repr(Sample(0b1001)) == "Sample(COLOUR=BLUE, P=1)"
