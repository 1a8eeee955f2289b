"""Capabilities of real units: every pair of CAP and ECAP from public logs is decoded, and encoded again."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from iommu import Capabilities, FlatMemory, MisuseError, RemappingUnit
from iommu.engine.presets import PRESETS
from iommu.snapshot import UnitSnapshot

ROOT = Path(__file__).resolve().parents[2]
UNITS = Path(os.environ.get("VTDLAB_UNITS", ROOT.parent / "shared" / "reference" / "real-machines" / "units.tsv"))


class Unit(NamedTuple):
    """A row of the list: one unit of a log."""

    cap: int
    ecap: int
    version: int
    host_address_width: int
    machine: str

    def capabilities(self) -> Capabilities:
        """Its capabilities."""
        return Capabilities.from_registers(self.cap, self.ecap, self.host_address_width, self.version)


def _read() -> list[Unit]:
    """The list. If a log does not give the host address width, it is taken as 46."""
    if not UNITS.exists():
        return []
    with UNITS.open(newline="") as file:
        return [
            Unit(
                int(row["cap"], 16),
                int(row["ecap"], 16),
                int(row["ver"].replace(":", ""), 16),
                int(row["host_address_width"] or 46),
                row["machine"],
            )
            for row in csv.DictReader(file, delimiter="\t")
        ]


ALL = _read()
needs_units = pytest.mark.skipif(not ALL, reason=f"no list of real units at {UNITS}: set VTDLAB_UNITS to one")
each_unit = pytest.mark.parametrize("unit", ALL, ids=[f"{n}-{unit.ecap:x}" for n, unit in enumerate(ALL, 2)])


@needs_units
def test_the_list_is_complete() -> None:
    assert len(ALL) == 53
    assert len({(unit.cap, unit.ecap) for unit in ALL}) == 51


@needs_units
@each_unit
def test_registers_of_a_real_unit_are_given_back(unit: Unit) -> None:
    capabilities = unit.capabilities()
    assert (capabilities.cap, capabilities.ecap) == (unit.cap, unit.ecap)
    modelled = RemappingUnit(FlatMemory(1 << 20), capabilities)
    read = [modelled.mmio_read(offset, size) for offset, size in ((0x08, 8), (0x10, 8), (0x00, 4))]
    assert read == [unit.cap, unit.ecap, unit.version]


@needs_units
@each_unit
def test_numbers_of_a_real_unit(unit: Unit) -> None:
    """By the bit positions of the layouts sheet."""
    capabilities = unit.capabilities()
    assert capabilities.address_width == (unit.cap >> 16 & 63) + 1
    assert sum(1 << level - 2 for level in capabilities.levels) == unit.cap >> 8 & 0x1F
    assert capabilities.fault_records == (unit.cap >> 40 & 0xFF) + 1
    assert capabilities.fault_record_offset == 16 * (unit.cap >> 24 & 0x3FF)
    assert capabilities.iotlb_offset == 16 * (unit.ecap >> 8 & 0x3FF)
    assert capabilities.domain_id_bits == 4 + 2 * (unit.cap & 7)
    assert capabilities.max_address_mask == unit.cap >> 48 & 63
    assert (capabilities.page_2m, capabilities.page_1g) == (bool(unit.cap >> 34 & 1), bool(unit.cap >> 35 & 1))


ALONE = {
    "caching_mode": ("cap", 7), "write_buffer_flush": ("cap", 4), "protected_low": ("cap", 5),
    "protected_high": ("cap", 6), "zero_length_read": ("cap", 22), "page_selective": ("cap", 39),
    "invalidate_on_root_pointer": ("cap", 63), "coherent": ("ecap", 0), "queued_invalidation": ("ecap", 1),
    "pass_through": ("ecap", 6), "snoop_control": ("ecap", 7), "memory_types": ("ecap", 25),
}  # fmt: skip
"""Flags that need no other, and their bits."""
TOGETHER = {
    "interrupt_remapping": (1, 3), "extended_interrupts": (1, 3, 4), "device_tlb": (1, 2), "scalable_mode": (1, 43),
    "first_stage": (1, 43, 47), "second_stage": (1, 43, 46), "nested": (1, 43, 46, 47, 26), "pasid": (1, 43, 40),
    "supervisor_requests": (1, 43, 40, 31), "execute_requests": (1, 43, 40, 30),
    "page_requests": (1, 2, 43, 29), "page_request_drain": (1, 2, 43, 29, 42), "rid_pasid": (1, 43, 49),
}  # fmt: skip
"""Flags that are there where all of these bits of ECAP are set."""


@needs_units
@each_unit
def test_flags_of_a_real_unit(unit: Unit) -> None:
    capabilities = unit.capabilities()
    for name, (register, bit) in ALONE.items():
        assert getattr(capabilities, name) == bool(getattr(unit, register) >> bit & 1), name
    for name, bits in TOGETHER.items():
        assert getattr(capabilities, name) == all(unit.ecap >> bit & 1 for bit in bits), name


@pytest.mark.parametrize(("cap", "ecap", "width"), [
    (0x1C0000C40660462, 0x19E2FF0505E, 39),
    (0x1C0000C40660462, 0x29A00F0505E, 39),
    (0x19ED008C40780C66, 0x3EE9E86F050DF, 52),
])  # fmt: skip
def test_bits_without_prerequisite_have_no_effect(cap: int, ecap: int, width: int) -> None:
    """Two graphics units set NEST, FS1GP and SRS without scalable mode, Sapphire Rapids SRS without PASID."""
    capabilities = Capabilities.from_registers(cap, ecap, width)
    assert (capabilities.cap, capabilities.ecap) == (cap, ecap)
    assert not capabilities.supervisor_requests and not capabilities.pasid
    if not ecap >> 43 & 1:
        assert not capabilities.nested and not capabilities.first_stage_1g
    unit = RemappingUnit(FlatMemory(1 << 20), capabilities)
    unit.mmio_write(0xC0, 0xFE0, 8)
    assert unit.mmio_read(0xC0, 8) == 0, "PDS is set without PRS: there is no page request queue"


def test_preset_by_name() -> None:
    sapphire_rapids = Capabilities.preset("sapphire-rapids")
    assert (sapphire_rapids.cap, sapphire_rapids.ecap) == (0x19ED008C40780C66, 0x3EE9E86F050DF)
    assert (sapphire_rapids.host_address_width, sapphire_rapids.version) == (52, 0x60)
    assert sapphire_rapids.levels == (4, 5) and sapphire_rapids.nested
    assert Capabilities.preset("haswell-ep", caching_mode=True).caching_mode


def test_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(MisuseError, match=r"no preset 'sandy-lake'.*kaby-lake-graphics, .*sapphire-rapids"):
        Capabilities.preset("sandy-lake")


@needs_units
@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_a_unit_of_the_list_whose_machine_is_named(name: str) -> None:
    preset = PRESETS[name]
    [*found] = (
        unit
        for unit in ALL
        if unit[:4] == (preset.cap, preset.ecap, preset.version, preset.host_address_width)
        and "inferred" not in unit.machine
    )
    assert found
    capabilities = Capabilities.preset(name)
    assert (capabilities.cap, capabilities.ecap) == (preset.cap, preset.ecap)


@pytest.mark.parametrize("name", ["kaby-lake-graphics", "sapphire-rapids"])
def test_snapshot_of_a_real_unit_becomes_a_unit(name: str) -> None:
    preset = PRESETS[name]
    window = bytearray(0x1000)
    for offset, value in ((0x00, preset.version), (0x08, preset.cap), (0x10, preset.ecap)):
        window[offset : offset + 8] = value.to_bytes(8, "little")
    snapshot = UnitSnapshot(name, bytes(window), FlatMemory(1 << 20), preset.host_address_width, 0xFED9_0000)
    assert snapshot.unit().capabilities == Capabilities.preset(name)
    assert snapshot.faults() == []
