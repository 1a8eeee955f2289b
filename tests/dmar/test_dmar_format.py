"""Tables made by hand for what real ones lack, above all damage."""

import pytest

from iommu.dmar import Andd, Atsr, DeviceScope, Dmar, DmarError, Drhd, Header, Rhsa, Rmrr, Satc, Sidp, Unknown
from iommu.errors import MisuseError
from tests.dmar import hand
from tests.dmar.hand import scope

EVERYTHING = hand.table(
    hand.drhd(0xFED90000, scope(1, 0, (2, 0)), segment=3, size=0x14),
    hand.drhd(0xFED91000, scope(3, 0xF0, (31, 0), number=2), scope(4, 0, (31, 1), number=7), flags=0x81),
    hand.rmrr(0x7B000000, 0x7F7FFFFF, scope(2, 0, (28, 4), (0, 0), (3, 1)), reserved=0x1234),
    hand.atsr(flags=1, segment=0xFFFF),
    hand.rhsa(0xFED90000, 0xDEADBEEF, reserved=0x01020304),
    hand.andd(9, b"\\_SB.PCI0.UA00\0\0\0", reserved=b"\x01\x02\x03"),
    hand.satc(scope(1, 0, (5, 0)), flags=1),
    hand.sidp(scope(1, 0, (5, 0), flags=0x1F)),
    hand.structure(0x0BAD, b"future"),
    flags=5,
    width=46,
    reserved=b"0123456789",
)


def test_every_field_is_read_from_its_place() -> None:
    table = Dmar.parse(EVERYTHING)
    assert table.header.width == 46
    assert table.header.reserved == b"0123456789"
    assert (table.header.interrupt_remapping, table.header.x2apic_opt_out, table.header.dma_control_opt_in) == (
        1,
        0,
        1,
    )
    assert (table.header.oem_id, table.header.oem_table_id, table.header.compiler_id) == (
        "VTDLAB",
        "HANDMADE",
        "TEST",
    )
    assert table.structures == [
        Drhd(size=0x14, segment=3, base=0xFED90000, scopes=[DeviceScope(1, path=((2, 0),))]),
        Drhd(
            flags=0x81,
            base=0xFED91000,
            scopes=[
                DeviceScope(3, bus=0xF0, path=((31, 0),), enumeration_id=2),
                DeviceScope(4, path=((31, 1),), enumeration_id=7),
            ],
        ),
        Rmrr(0x1234, 0, 0x7B000000, 0x7F7FFFFF, scopes=[DeviceScope(2, path=((28, 4), (0, 0), (3, 1)))]),
        Atsr(flags=1, segment=0xFFFF),
        Rhsa(0x01020304, 0xFED90000, 0xDEADBEEF),
        Andd(0x030201, 9, "\\_SB.PCI0.UA00", b"\0\0\0"),
        Satc(flags=1, scopes=[DeviceScope(1, path=((5, 0),))]),
        Sidp(scopes=[DeviceScope(1, path=((5, 0),), flags=0x1F)]),
        Unknown(0x0BAD, b"future"),
    ]
    assert [unit.include_all for unit in table.units] == [False, True]
    assert [unit.register_bytes for unit in table.units] == [64 << 10, 4 << 10]
    assert str(table.structures[2].offered_scopes[0]) == "00:1c.4/00.0/03.1"


def test_a_table_made_from_scratch() -> None:
    header = Header(
        oem_id="VTDLAB",
        oem_table_id="HANDMADE",
        oem_revision=1,
        compiler_id="TEST",
        compiler_revision=1,
        host_address_width=38,
        flags=1,
    )
    unit = Drhd(flags=1, base=0xFED90000, scopes=[DeviceScope(3, bus=0xF0, path=((31, 0),), enumeration_id=2)])
    expected = hand.table(hand.drhd(0xFED90000, scope(3, 0xF0, (31, 0), number=2), flags=1), flags=1)
    assert Dmar(header, [unit]).build() == expected
    assert sum(expected) % 256 == 0


def test_sealing_a_changed_table_corrects_lengths_and_checksum() -> None:
    table = Dmar.parse(hand.table(hand.drhd(0xFED90000, flags=1)))
    table.units[0].scopes.append(DeviceScope(1, path=((2, 0),)))
    table.seal()
    assert table.build() == hand.table(hand.drhd(0xFED90000, scope(1, 0, (2, 0)), flags=1))


def test_a_wrong_checksum_is_kept_and_is_not_an_error() -> None:
    data = bytearray(hand.table(hand.drhd(0xFED90000)))
    data[9] ^= 0xFF
    assert Dmar.parse(bytes(data)).build() == data


good = hand.table(hand.drhd(0xFED90000))
DAMAGED = {
    "shorter than it says": (good[:-1], 4, "header", "LENGTH", 64),
    "longer than it says": (good + b"x", 4, "header", "LENGTH", 64),
    "length below the header's": (good[:4] + b"\x2f" + good[5:], 4, "header", "LENGTH", 0x2F),
    "three bytes at the end": (hand.table(b"abc"), 48, "table", "TYPE", None),
    "structure of no length": (hand.table(hand.structure(0, b"", 0)), 50, "DRHD", "LENGTH", 0),
    "structure of three bytes": (hand.table(hand.structure(9, b"", 3)), 50, "structure type 0x9", "LENGTH", 3),
    "structure beyond the table": (hand.table(hand.drhd(1, length=17)), 50, "DRHD", "LENGTH", 17),
    "short DRHD": (hand.table(hand.structure(0, bytes(11))), 50, "DRHD", "LENGTH", 15),
    "short RMRR": (hand.table(hand.structure(1, bytes(19))), 50, "RMRR", "LENGTH", 23),
    "long RHSA": (hand.table(hand.structure(3, bytes(17))), 50, "RHSA", "LENGTH", 21),
    "scope of no length": (hand.table(hand.drhd(1, scope(1, 0, (2, 0), length=0))), 65, "DRHD.SCOPE", "LENGTH", 0),
    "scope of five bytes": (hand.table(hand.atsr(scope(1, 0, (2, 0), length=5))), 57, "ATSR.SCOPE", "LENGTH", 5),
    "scope beyond": (hand.table(hand.satc(scope(1, 0, (2, 0), length=9))), 57, "SATC.SCOPE", "LENGTH", 9),
    "odd scope": (hand.table(hand.sidp(scope(1, 0, length=7) + b"z")), 57, "SIDP.SCOPE", "LENGTH", 7),
    "five bytes for a scope": (hand.table(hand.drhd(1, bytes(5))), 64, "DRHD", "SCOPE", None),
}
each_damage = pytest.mark.parametrize("case", DAMAGED.values(), ids=list(DAMAGED))
Case = tuple[bytes, int, str, str, int | None]


@each_damage
def test_strict_reading_names_the_damage(case: Case) -> None:
    data, offset, where, field, value = case
    with pytest.raises(DmarError) as caught:
        Dmar.parse(data)
    error = caught.value
    assert (error.offset, error.where, error.field, error.value) == (offset, where, field, value)
    assert "\n" not in str(error)


@each_damage
def test_lenient_reading_keeps_every_byte_and_reports_the_same(case: Case) -> None:
    data, offset, where, field, value = case
    table = Dmar.parse(data, strict=False)
    first = table.problems[0]
    assert (first.offset, first.where, first.field, first.value) == (offset, where, field, value)
    assert table.build() == data
    assert Dmar.from_dict(table.to_dict()).build() == data


def test_lenient_reading_reads_what_it_can() -> None:
    cut = hand.table(
        hand.drhd(0x1000, scope(1, 0, (2, 0)), scope(1, 0, (3, 0)), bytes([1, 99])),
        hand.rmrr(0x2000, 0x2FFF, scope(1, 0, (2, 0))),
    )[:-4]
    table = Dmar.parse(cut, strict=False)
    unit, region = table.structures
    assert [str(found) for found in unit.offered_scopes] == ["00:02.0", "00:03.0"]
    assert unit.rest == bytes([1, 99])
    assert isinstance(region, Rmrr)
    assert (region.base, region.limit, region.rest, region.declared_length) == (0x2000, 0x2FFF, b"\x01\x08\0\0", 32)


@pytest.mark.parametrize("data", [b"", b"DMA", b"RSDT" + bytes(60), b"dmar" + bytes(60)])
def test_bytes_that_are_not_a_dmar_are_refused(data: bytes) -> None:
    for strict in (True, False):
        with pytest.raises(DmarError, match=r"offset 0x0, header\.SIGNATURE: not a DMAR"):
            Dmar.parse(data, strict)


def test_half_a_header_is_refused() -> None:
    for strict in (True, False):
        with pytest.raises(DmarError, match=r"offset 0x25, header\.FLAGS: the file ends after 37 bytes"):
            Dmar.parse(good[:37], strict)


def test_names_without_nul_and_padding_that_is_not_zero_survive() -> None:
    for name in (b"\\_SB.X", b"\\_SB.X\0junk\xff", b"", b"\0", b"\xff\xfe\0"):
        data = hand.table(hand.andd(1, name))
        table = Dmar.parse(data)
        assert table.build() == data
        assert Dmar.from_dict(table.to_dict()) == table
        andd = table.structures[0]
        assert isinstance(andd, Andd)
        assert andd.object_name == name.split(b"\0")[0].decode("latin-1")


WRONG_JSON = {
    "table: an object is needed, not list": [],
    "table: 'header' is missing": {"structures": []},
    "table: unknown key 'extra'": {"header": {}, "structures": [], "extra": 1},
    "header: unknown key 'wdith'": {"header": {"wdith": 3}},
    "header.flags: '1' is not a whole number": {"header": {"flags": "1"}},
    "header.flags: True is not a whole number": {"header": {"flags": True}},
    "header.oem_id: 3 is not a text": {"header": {"oem_id": 3}},
    "table.structures: {} is not a list": {"header": {}, "structures": {}},
    "structures[0]: 'kind' is missing": {"header": {}, "structures": [{}]},
    "structures[0].kind: 'DRDH' is none of": {"header": {}, "structures": [{"kind": "DRDH"}]},
    "structures[0].type: a RHSA has type 3": {
        "header": {},
        "structures": [{"kind": "RHSA", "type": 2, "reserved": 0, "base": 0, "proximity_domain": 0}],
    },
    "structures[0].data: 'xy' is not bytes in hex": {
        "header": {},
        "structures": [{"kind": "UNKNOWN", "type": 9, "data": "xy"}],
    },
    "structures[0].scopes[0].path: [1] is not [device, function]": {
        "header": {},
        "structures": [{"kind": "ATSR", "flags": 0, "reserved": 0, "segment": 0, "scopes": [{"path": [[1]]}]}],
    },
}


@pytest.mark.parametrize(("message", "plain"), WRONG_JSON.items(), ids=list(WRONG_JSON))
def test_wrong_plain_data_is_refused_with_its_place(message: str, plain: dict[str, object]) -> None:
    with pytest.raises(MisuseError) as caught:
        Dmar.from_dict(plain)
    assert str(caught.value).startswith(message)


def test_a_value_too_large_is_refused_when_building() -> None:
    with pytest.raises(MisuseError, match="SEGMENT"):
        Dmar(structures=[Drhd(segment=0x10000)]).build()
    with pytest.raises(MisuseError, match="Latin-1"):
        Dmar(Header(oem_id="\u20ac")).build()
    with pytest.raises(MisuseError, match="OEM_ID takes 6 bytes"):
        Dmar(Header(oem_id="SEVENLY")).build()
