"""One declaration is all a structure type needs: a made-up one is read, built, compared, linted and shown."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import pytest

from iommu.cli.dmar_show import describe_structure
from iommu.dmar import DeviceScope, Dmar, Unknown
from iommu.dmar.difference import difference
from iommu.dmar.reader import construct_decoders
from iommu.dmar.scopes import ScopeType
from iommu.dmar.structure import KINDS, Scoped, Structure, structure
from iommu.fields import Layout, at, flag
from tests.dmar import hand

CODE = 0x4242


class CoolerFlags(Layout, bits=8, section="8.99"):
    """Flags of the made-up structure."""

    FAN = flag(0, "there is a fan")


@dataclass(slots=True)
class Cooler(Scoped):
    """A made-up structure type, with a field of three bytes."""

    flags: Annotated[int, at(4, 1, "see CoolerFlags"), CoolerFlags] = 0
    reserved: Annotated[int, at(5, 3, "zero")] = 0
    base: Annotated[int, at(8, 8, "where its registers are")] = 0
    speed_limit: Annotated[int, at(16, 4, "turns a minute")] = 3000


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    """Cooler is a structure type during each test, and unknown afterwards."""
    structure(type_code=CODE, section="8.99", scopes=(ScopeType.ENDPOINT,), identity=("base",))(Cooler)
    yield
    del KINDS[CODE]


def cooler(base: int, *scopes: bytes, flags: int = 1, reserved: bytes = bytes(3), speed: int = 900) -> bytes:
    """The bytes, by hand."""
    return hand.structure(CODE, struct.pack("<B3sQI", flags, reserved, base, speed) + b"".join(scopes))


UNIT = hand.drhd(0xFED90000, flags=1)
GPU = hand.scope(1, 0, (2, 0))
DATA = hand.table(UNIT, cooler(0x1_2345_6000, GPU, reserved=b"\x01\x02\x03"))
FOUND = Cooler(1, 0x030201, 0x1_2345_6000, 900, scopes=[DeviceScope(1, path=((2, 0),))])


def test_it_is_read_by_both_decoders_and_built() -> None:
    table = Dmar.parse(DATA)
    assert table.structures[1] == FOUND
    assert Dmar.parse(DATA, decoders=construct_decoders()) == table
    assert table.build() == DATA
    assert Dmar(table.header, [table.structures[0], FOUND]).build() == DATA


def test_it_is_an_ordinary_dataclass() -> None:
    assert repr(Cooler(base=4096, scopes=[])) == (
        "Cooler(rest=b'', declared_length=None, scopes=[], flags=0, reserved=0, base=4096, speed_limit=3000)"
    )
    assert Cooler(base=1) != Cooler(base=2)
    assert (Cooler.kind, Cooler.type_code, Cooler.fixed_size) == ("COOLER", CODE, 20)
    assert (Cooler.layout.section, Cooler.offset_of("speed_limit")) == ("8.99", 16)


def test_it_has_a_plain_form() -> None:
    plain = Dmar.parse(DATA).to_dict()
    assert plain["structures"][1] == {
        "kind": "COOLER",
        "type": CODE,
        "offset": 64,
        "length": 28,
        "flags": 1,
        "reserved": 0x030201,
        "base": 0x1_2345_6000,
        "speed_limit": 900,
        "scopes": [
            {
                "offset": 84,
                "type": 1,
                "length": 8,
                "flags": 0,
                "reserved": 0,
                "enumeration_id": 0,
                "bus": 0,
                "path": [[2, 0]],
            }
        ],
    }
    assert Dmar.from_dict(plain).build() == DATA


def test_it_is_compared_by_what_identifies_it() -> None:
    old = hand.table(UNIT, cooler(0x1000, GPU), cooler(0x2000))
    new = hand.table(UNIT, cooler(0x2000, flags=0), cooler(0x1000, speed=901), cooler(0x3000))
    assert [str(change) for change in difference(Dmar.parse(old), Dmar.parse(new))] == [
        "COOLER base=0x1000: speed_limit was 900, is 901",
        "COOLER base=0x1000: scope endpoint 00:02.0 disappeared",
        "COOLER base=0x2000: flags was 0x1, is 0x0",
        "table: COOLER COOLER base=0x3000 appeared",
    ]
    moved = hand.table(UNIT, cooler(0x5000, GPU)), hand.table(UNIT, cooler(0x6000, GPU))
    assert [str(change) for change in difference(*map(Dmar.parse, moved))] == [
        "COOLER base=0x5000: base was 0x5000, is 0x6000"
    ]


def test_lint_knows_its_type_its_reserved_bits_and_its_scopes() -> None:
    sound = hand.table(UNIT, cooler(0x1000, GPU))
    assert Dmar.parse(sound).lint() == []
    odd = hand.table(UNIT, cooler(0x1000, hand.scope(2, 0, (28, 0)), flags=0x11, reserved=b"\0\0\1"))
    assert [(finding.rule, finding.offset) for finding in Dmar.parse(odd).lint()] == [
        ("structure.reserved", 64 + 4),
        ("structure.reserved", 64 + 5),
        ("scope.type-misplaced", 64 + 20),
    ]


def test_it_is_shown_field_by_field() -> None:
    lines = [text.plain for text in describe_structure(64, FOUND)]
    assert lines == [
        "0x040  COOLER base 0x123456000  speed limit 900  FAN",
        "         reserved     0x30201",
        "         endpoint      00:02.0",
    ]


def test_damage_is_reported_under_its_name() -> None:
    short = Dmar.parse(hand.table(UNIT, hand.structure(CODE, bytes(15))), strict=False)
    assert str(short.problems[0]) == "offset 0x42, COOLER.LENGTH = 0x13: a COOLER takes at least 20 bytes"


def test_without_its_declaration_it_is_unknown() -> None:
    known = KINDS.pop(CODE)
    assert isinstance(Dmar.parse(DATA).structures[1], Unknown)
    KINDS[CODE] = known


def test_a_number_is_declared_once() -> None:
    with pytest.raises(TypeError, match=r"structure type 0 is both Drhd and Cooler"):
        structure(type_code=0, section="8.99")(Cooler)
    assert KINDS[0].kind == "DRHD"


@dataclass(slots=True)
class Shuffled(Structure):
    """Fields out of memory order, which the reader could not pass by position."""

    second: Annotated[int, at(6, 2, "second")] = 0
    first: Annotated[int, at(4, 2, "first")] = 0


def test_fields_out_of_memory_order_are_refused() -> None:
    with pytest.raises(TypeError, match="Shuffled does not declare its fields first and in memory order"):
        structure(type_code=CODE + 1, section="8.99")(Shuffled)
