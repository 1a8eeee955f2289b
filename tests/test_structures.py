"""structures: every field of the tables at its bits, and the reserved masks bit for bit."""

from __future__ import annotations

import pytest

from iommu import structures
from iommu.fields import Layout
from iommu.structures import TranslationType

HAWS = (39, 46, 52)
ALWAYS = {
    "RootEntry": {*range(1, 12), *range(64, 128)},
    "ContextEntry": {*range(4, 12), 71, *range(88, 128)},
    "SecondStageTable": {7, 11, 62},
    "SecondStage4KPage": set(),
    "SecondStage2MPage": set(range(12, 21)),
    "SecondStage1GPage": set(range(12, 30)),
}
"""Reserved bits that depend on nothing."""
TOP = {name: 64 if name in ("RootEntry", "ContextEntry") else 52 for name in ALWAYS}
"""The bit above the address field."""
NEEDS = {
    "SecondStage4KPage": {"snoop_control": 11, "device_tlb": 62},
    "SecondStage2MPage": {"snoop_control": 11, "device_tlb": 62, "page_2m": 7},
    "SecondStage1GPage": {"snoop_control": 11, "device_tlb": 62, "page_1g": 7},
}
"""Bits that are reserved without a capability."""
FIELDS = {
    "RootEntry": {"CTP": (63, 12), "P": (0, 0)},
    "ContextEntry": {
        "DID": (87, 72), "AVAIL": (70, 67), "AW": (66, 64), "SSPTPTR": (63, 12), "TT": (3, 2), "FPD": (1, 1),
        "P": (0, 0),
    },
    "SecondStageTable": {"ADDR": (51, 12), "X": (2, 2), "W": (1, 1), "R": (0, 0), "A": (8, 8)},
    "SecondStage4KPage": {"ADDR": (51, 12), "SNP": (11, 11), "TM": (62, 62), "D": (9, 9), "A": (8, 8), "R": (0, 0)},
    "SecondStage2MPage": {"ADDR": (51, 21), "SNP": (11, 11), "TM": (62, 62), "PS": (7, 7), "W": (1, 1)},
    "SecondStage1GPage": {"ADDR": (51, 30), "SNP": (11, 11), "TM": (62, 62), "PS": (7, 7), "W": (1, 1)},
}  # fmt: skip
OFFERS = ("snoop_control", "device_tlb", "page_2m", "page_1g")


def layout(name: str) -> type[Layout]:
    """The declaration of that name."""
    found: type[Layout] = getattr(structures, name)
    assert issubclass(found, Layout)
    return found


def bits_of(mask: int) -> set[int]:
    """The positions of the ones."""
    return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
def test_field_position(name: str, field: str) -> None:
    part = layout(name).fields[field]
    assert (part.msb, part.lsb) == FIELDS[name][field]


@pytest.mark.parametrize("name", ALWAYS)
def test_width(name: str) -> None:
    assert layout(name).bits == (128 if TOP[name] == 64 else 64)


@pytest.mark.parametrize("offered", [
    frozenset(name for n, name in enumerate(OFFERS) if chosen >> n & 1) for chosen in range(16)
], ids=lambda offered: "+".join(sorted(offered)) or "nothing")  # fmt: skip
@pytest.mark.parametrize("haw", HAWS)
@pytest.mark.parametrize("name", ALWAYS)
def test_reserved_bits(name: str, haw: int, offered: frozenset[str]) -> None:
    missing = {bit for need, bit in NEEDS.get(name, {}).items() if need not in offered}
    expected = ALWAYS[name] | set(range(haw, TOP[name])) | missing
    assert bits_of(layout(name).reserved_mask(haw, offered)) == expected


@pytest.mark.parametrize("name", ALWAYS)
def test_address_fields_hold_addresses(name: str) -> None:
    field = {"RootEntry": "CTP", "ContextEntry": "SSPTPTR"}.get(name, "ADDR")
    part = layout(name).fields[field]
    for bit in range(part.lsb, part.msb + 1):
        assert part.get(1 << bit) == 1 << bit
        assert layout(name).make(**{field: 1 << bit}) == 1 << bit
    assert part.get(~part.mask & (1 << layout(name).bits) - 1) == 0


def test_translation_types() -> None:
    assert [kind.value for kind in TranslationType] == [0, 1, 2]


INTERRUPT_FIELDS = {
    "RemappedInterruptEntry": {
        "P": (0, 0), "FPD": (1, 1), "DM": (2, 2), "RH": (3, 3), "TM": (4, 4), "DLM": (7, 5), "AVAIL": (11, 8),
        "IM": (15, 15), "V": (23, 16), "DST": (63, 32), "SID": (79, 64), "SQ": (81, 80), "SVT": (83, 82),
    },
    "PostedInterruptEntry": {
        "P": (0, 0), "FPD": (1, 1), "AVAIL": (11, 8), "URG": (14, 14), "IM": (15, 15), "VV": (23, 16),
        "PDAL": (63, 38), "SID": (79, 64), "SQ": (81, 80), "SVT": (83, 82), "PDAH": (127, 96),
    },
    "PostedInterruptDescriptor": {
        "PIR": (255, 0), "ON": (256, 256), "SN": (257, 257), "NV": (279, 272), "NDST": (319, 288),
        "AVAIL": (511, 320),
    },
    "RemappableAddress": {
        "IGNORED": (1, 0), "HANDLE_HIGH": (2, 2), "SHV": (3, 3), "IF": (4, 4), "HANDLE_LOW": (19, 5),
        "RANGE": (31, 20),
    },
    "RemappableData": {"SUBHANDLE": (15, 0)},
    "CompatibilityAddress": {
        "IGNORED": (1, 0), "DM": (2, 2), "RH": (3, 3), "IF": (4, 4), "DEST": (19, 12), "RANGE": (31, 20),
    },
    "CompatibilityData": {"V": (7, 0), "DLM": (10, 8), "LEVEL": (14, 14), "TM": (15, 15)},
}  # fmt: skip
"""All fields there are: every other bit is reserved."""
INTERRUPT_WIDTHS = {"RemappedInterruptEntry": 128, "PostedInterruptEntry": 128, "PostedInterruptDescriptor": 512}


@pytest.mark.parametrize("name", INTERRUPT_FIELDS)
def test_interrupt_fields(name: str) -> None:
    declared = layout(name)
    assert declared.bits == INTERRUPT_WIDTHS.get(name, 32)
    assert {field: (part.msb, part.lsb) for field, part in declared.fields.items()} == INTERRUPT_FIELDS[name]


@pytest.mark.parametrize("haw", HAWS)
@pytest.mark.parametrize("posting", [False, True])
@pytest.mark.parametrize(("name", "reserved"), [
    ("RemappedInterruptEntry", {*range(12, 15), *range(24, 32), *range(84, 128)}),
    ("PostedInterruptEntry", {*range(2, 8), 12, 13, *range(24, 38), *range(84, 96)}),
    ("PostedInterruptDescriptor", {*range(258, 272), *range(280, 288)}),
    ("RemappableAddress", set()),
    ("RemappableData", set(range(16, 32))),
    ("CompatibilityAddress", set(range(5, 12))),
    ("CompatibilityData", {*range(11, 14), *range(16, 32)}),
])  # fmt: skip
def test_interrupt_reserved_bits(name: str, reserved: set[int], posting: bool, haw: int) -> None:
    """Host address width plays no part. The posted form is reserved where interrupts are not posted."""
    form = {15} if name.endswith("InterruptEntry") and not posting else set()
    offered = {"posted_interrupts"} if posting else set()
    assert bits_of(layout(name).reserved_mask(haw, offered)) == reserved | form


def test_interrupt_encodings() -> None:
    assert {mode.name: mode.value for mode in structures.DeliveryMode} == {
        "FIXED": 0, "LOWEST_PRIORITY": 1, "SMI": 2, "NMI": 4, "INIT": 5, "EXTINT": 7,
    }  # fmt: skip
    assert [kind.value for kind in structures.SourceValidation] == [0, 1, 2]


# Queue descriptors and the page request: positions, and every bit that is reserved.

_TYPE = {"TYPE_HIGH": (11, 9), "TYPE": (3, 0)}
_PAGES = {"ADDR": (127, 76), "IH": (70, 70), "AM": (69, 64)}
_FUNCTION = {"PFSID_HIGH": (63, 52), "PFSID_LOW": (15, 12)}
DESCRIPTORS: dict[str, dict[str, tuple[int, int]]] = {
    "ContextDescriptor": {**_TYPE, "FM": (49, 48), "SID": (47, 32), "DID": (31, 16), "G": (5, 4)},
    "IotlbDescriptor": {**_TYPE, **_PAGES, "DID": (31, 16), "DR": (7, 7), "DW": (6, 6), "G": (5, 4)},
    "DeviceTlbDescriptor": {
        **_TYPE, **_FUNCTION, "ADDR": (127, 76), "S": (64, 64), "SID": (47, 32), "MIP": (20, 16),
    },
    "InterruptDescriptor": {**_TYPE, "IIDX": (47, 32), "IM": (31, 27), "G": (4, 4)},
    "WaitDescriptor": {
        **_TYPE, "STADDR": (127, 66), "STDATA": (63, 32), "PD": (7, 7), "FN": (6, 6), "SW": (5, 5), "IF": (4, 4),
    },
    "PasidIotlbDescriptor": {**_TYPE, **_PAGES, "PASID": (51, 32), "DID": (31, 16), "G": (5, 4)},
    "PasidCacheDescriptor": {**_TYPE, "PASID": (51, 32), "DID": (31, 16), "G": (5, 4)},
    "PasidDeviceTlbDescriptor": {
        **_TYPE, **_FUNCTION, "ADDR": (127, 76), "S": (75, 75), "G": (64, 64), "PASID": (51, 32), "SID": (31, 16),
        "MIP": (8, 4),
    },
    "PageResponseDescriptor": {
        **_TYPE, "PRGI": (75, 67), "LPIG": (66, 66), "PASID": (51, 32), "RID": (31, 16), "RC": (15, 12), "PP": (4, 4),
    },
    "PageRequestDescriptor": {
        "ADDR": (127, 76), "PRGI": (75, 67), "LPIG": (66, 66), "WR": (65, 65), "RD": (64, 64), "PMR": (53, 53),
        "EXR": (52, 52), "PASID": (51, 32), "RID": (31, 16), "PP": (8, 8), "TYPE": (7, 0),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptor_fields(name: str) -> None:
    found = {part.name: (part.msb, part.lsb) for part in layout(name).fields.values()}
    assert found == DESCRIPTORS[name]
    assert layout(name).bits == (256 if name == "PageRequestDescriptor" else 128)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptor_reserved_bits(name: str) -> None:
    named = {bit for msb, lsb in DESCRIPTORS[name].values() for bit in range(lsb, msb + 1)}
    assert bits_of(layout(name).reserved_mask()) == set(range(layout(name).bits)) - named


def test_descriptor_fields_that_need_a_capability() -> None:
    function = {*range(12, 16), *range(52, 64)}
    needing = {"DeviceTlbDescriptor": function, "PasidDeviceTlbDescriptor": function, "WaitDescriptor": {7}}
    for name, gone in needing.items():
        everything, nothing = layout(name).reserved_mask(), layout(name).reserved_mask(offered=())
        assert bits_of(nothing ^ everything) == gone


@pytest.mark.parametrize("name", ["IotlbDescriptor", "DeviceTlbDescriptor", "PasidIotlbDescriptor"])
def test_descriptor_addresses_are_those_of_their_upper_word(name: str) -> None:
    assert layout(name).make(ADDR=0x1234_5678_9ABC_D000) == 0x1234_5678_9ABC_D000 << 64
    assert structures.WaitDescriptor(0x1234_5678_9ABC_DEFC << 64).STADDR == 0x1234_5678_9ABC_DEFC


def test_descriptor_types_and_response_codes() -> None:
    assert [kind.value for kind in structures.DescriptorType] == list(range(1, 10))
    assert [code.value for code in structures.ResponseCode] == [0, 1, 15]
