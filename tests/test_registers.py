"""registers/: the offset of every register and the bits of every field, according to the sheet of layouts."""

from __future__ import annotations

import pytest

from iommu import registers
from iommu.fields import Rule
from iommu.registers import REGISTERS, Register

OFFSETS = {
    "VER": 0x00, "CAP": 0x08, "ECAP": 0x10, "GCMD": 0x18, "GSTS": 0x1C, "RTADDR": 0x20, "CCMD": 0x28, "FSTS": 0x34,
    "FECTL": 0x38, "FEDATA": 0x3C, "FEADDR": 0x40, "FEUADDR": 0x44,
}  # fmt: skip
WIDTHS = {
    "VER": 32, "CAP": 64, "ECAP": 64, "GCMD": 32, "GSTS": 32, "RTADDR": 64, "CCMD": 64, "FSTS": 32, "FECTL": 32,
    "FEDATA": 32, "FEADDR": 32, "FEUADDR": 32, "IVA": 64, "IOTLB": 64, "FRCD": 128,
}  # fmt: skip
FIELDS: dict[str, dict[str, tuple[int, int]]] = {
    "VER": {"MAX": (7, 4), "MIN": (3, 0)},
    "CAP": {
        "ESRTPS": (63, 63), "ESIRTPS": (62, 62), "ECMDS": (61, 61), "FS5LP": (60, 60), "PI": (59, 59),
        "FS1GP": (56, 56), "DRD": (55, 55), "DWD": (54, 54), "MAMV": (53, 48), "NFR": (47, 40), "PSI": (39, 39),
        "SSLPS": (37, 34), "FRO": (33, 24), "ZLR": (22, 22), "MGAW": (21, 16), "SAGAW": (12, 8), "CM": (7, 7),
        "PHMR": (6, 6), "PLMR": (5, 5), "RWBF": (4, 4), "AFL": (3, 3), "ND": (2, 0),
    },
    "ECAP": {
        "SMS": (58, 58), "RPRIVS": (53, 53), "ADMS": (52, 52), "PMS": (51, 51), "RPS": (49, 49), "SMPWCS": (48, 48),
        "FSTS": (47, 47), "SSTS": (46, 46), "SSADS": (45, 45), "VCS": (44, 44), "SMTS": (43, 43), "PDS": (42, 42),
        "DIT": (41, 41), "PASID": (40, 40), "PSS": (39, 35), "EAFS": (34, 34), "NWFS": (33, 33), "SRS": (31, 31),
        "ERS": (30, 30), "PRS": (29, 29), "NEST": (26, 26), "MTS": (25, 25), "MHMV": (23, 20), "IRO": (17, 8),
        "SC": (7, 7), "PT": (6, 6), "EIM": (4, 4), "IR": (3, 3), "DT": (2, 2), "QI": (1, 1), "C": (0, 0),
    },
    "GCMD": {
        "TE": (31, 31), "SRTP": (30, 30), "WBF": (27, 27), "QIE": (26, 26), "IRE": (25, 25), "SIRTP": (24, 24),
        "CFI": (23, 23),
    },
    "GSTS": {
        "TES": (31, 31), "RTPS": (30, 30), "WBFS": (27, 27), "QIES": (26, 26), "IRES": (25, 25), "IRTPS": (24, 24),
        "CFIS": (23, 23),
    },
    "RTADDR": {"RTA": (63, 12), "TTM": (11, 10)},
    "CCMD": {"ICC": (63, 63), "CIRG": (62, 61), "CAIG": (60, 59), "FM": (33, 32), "SID": (31, 16), "DID": (15, 0)},
    "FSTS": {"FRI": (15, 8), "ITE": (6, 6), "ICE": (5, 5), "IQE": (4, 4), "PPF": (1, 1), "PFO": (0, 0)},
    "FECTL": {"IM": (31, 31), "IP": (30, 30)},
    "FEDATA": {"IMD": (15, 0)},
    "FEADDR": {"MA": (31, 2)},
    "FEUADDR": {"MUA": (31, 0)},
    "IVA": {"ADDR": (63, 12), "IH": (6, 6), "AM": (5, 0)},
    "IOTLB": {
        "IVT": (63, 63), "IIRG": (61, 60), "IAIG": (58, 57), "DR": (49, 49), "DW": (48, 48), "DID": (47, 32),
    },
    "FRCD": {
        "F": (127, 127), "T1": (126, 126), "AT": (125, 124), "PV": (123, 104), "FR": (103, 96), "PP": (95, 95),
        "EXE": (94, 94), "PRIV": (93, 93), "T2": (92, 92), "SID": (79, 64), "FI": (63, 12),
    },
}  # fmt: skip
WRITE_1_TO_CLEAR = {"FSTS": {"ITE", "ICE", "IQE", "PFO"}, "FRCD": {"F"}}
# ROS and RW1CS in the tables of 11.4: fields that only a power-good reset clears. No other register has any.
STICKY = {
    "FSTS": {"FRI", "ITE", "ICE", "IQE", "PPF", "PFO"},
    "FRCD": {"F", "T1", "AT", "PV", "FR", "PP", "EXE", "PRIV", "T2", "SID", "FI"},
    "ICS": {"IWC"}, "IQERCD": {"ICESID", "ITESID", "IQEI"}, "PRS": {"PRO", "PPR"},
}  # fmt: skip
WRITABLE = {
    "GCMD": {"TE", "SRTP", "WBF", "QIE", "IRE", "SIRTP", "CFI"}, "RTADDR": {"RTA", "TTM"},
    "CCMD": {"ICC", "CIRG", "FM", "SID", "DID"}, "FECTL": {"IM"}, "FEDATA": {"IMD"}, "FEADDR": {"MA"},
    "FEUADDR": {"MUA"}, "IVA": {"ADDR", "IH", "AM"}, "IOTLB": {"IVT", "IIRG", "DR", "DW", "DID"},
}  # fmt: skip


def layout(name: str) -> type[Register]:
    """The register with that name."""
    found: type[Register] = getattr(registers, name)
    assert issubclass(found, Register)
    return found


@pytest.mark.parametrize("name", OFFSETS)
def test_offset(name: str) -> None:
    assert layout(name).offset == OFFSETS[name]


def test_offsets_in_the_register_map() -> None:
    placed = {register.__name__: register.offset for register in REGISTERS}
    assert {name: placed[name] for name in OFFSETS} == OFFSETS


def test_register_map_has_every_declared_register() -> None:
    declared = {each for each in vars(registers).values() if isinstance(each, type) and issubclass(each, Register)}
    without_a_place = {
        Register, registers.EventControl, registers.EventData, registers.EventAddress, registers.EventUpperAddress,
        registers.PERFEVNTCAP,
    }  # fmt: skip
    assert set(REGISTERS) == declared - without_a_place
    assert len(REGISTERS) == len(set(REGISTERS))


@pytest.mark.parametrize(("name", "offsets"), [
    ("MTRRFIX", [0x120, 0x128, 0x130, 0x138, 0x140, 0x148, 0x150, 0x158, 0x160, 0x168, 0x170]),
    ("MTRRBASE", [0x180, 0x190, 0x1A0, 0x1B0, 0x1C0, 0x1D0, 0x1E0, 0x1F0, 0x200, 0x210]),
    ("MTRRMASK", [0x188, 0x198, 0x1A8, 0x1B8, 0x1C8, 0x1D8, 0x1E8, 0x1F8, 0x208, 0x218]),
    ("ECCAP", [0x430, 0x438, 0x440, 0x448]),
    ("IQA", [0x90]),
])  # fmt: skip
def test_offsets_of_an_array(name: str, offsets: list[int]) -> None:
    assert list(layout(name).places(0, 0)) == offsets


def test_offsets_given_by_cap_and_ecap() -> None:
    """CAP.FRO 33:24 and CAP.NFR 47:40 place the fault records, ECAP.IRO 17:8 places IVA and IOTLB."""
    cap, ecap = 2 << 40 | 0x22 << 24, 0xF << 8
    assert list(registers.FRCD.places(cap, ecap)) == [0x220, 0x230, 0x240]
    assert (list(registers.IVA.places(cap, ecap)), list(registers.IOTLB.places(cap, ecap))) == ([0xF0], [0xF8])


@pytest.mark.parametrize("name", WIDTHS)
def test_width(name: str) -> None:
    assert layout(name).bits == WIDTHS[name]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
def test_field_position(name: str, field: str) -> None:
    part = layout(name).fields[field]
    assert (part.msb, part.lsb) == FIELDS[name][field]


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("CAP", "ECAP")])
def test_no_field_that_the_sheet_lacks(name: str) -> None:
    assert set(layout(name).fields) == set(FIELDS[name])


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
def test_access_rule(name: str, field: str) -> None:
    rule = layout(name).fields[field].rule
    assert (rule in (Rule.RW1C, Rule.RW1CS)) == (field in WRITE_1_TO_CLEAR.get(name, ()))
    assert (rule in (Rule.RW, Rule.WO)) == (field in WRITABLE.get(name, ()))


def test_sticky_fields() -> None:
    found = {
        register.__name__: {name for name, part in register.fields.items() if part.rule in (Rule.ROS, Rule.RW1CS)}
        for register in registers.REGISTERS
    }
    assert {name: fields for name, fields in found.items() if fields} == STICKY


@pytest.mark.parametrize("name", WIDTHS)
def test_reset_value(name: str) -> None:
    assert layout(name).reset == (1 << 31 if name == "FECTL" else 0)


@pytest.mark.parametrize("name", WIDTHS)
def test_section(name: str) -> None:
    assert layout(name).section.startswith("11.4")


def test_modes_and_granularities() -> None:
    assert [mode.value for mode in registers.TableMode] == [0, 1, 3]
    assert [granularity.value for granularity in registers.Granularity] == [0, 1, 2, 3]
