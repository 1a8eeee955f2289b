"""presets.py: CAP and ECAP of QEMU versions, as recorded in public logs and as read from the installed QEMU."""

from __future__ import annotations

from typing import Any

import pytest

from iommu import MisuseError
from iommu.registers import CAP, ECAP
from qemu.vtd import Machine, preset
from qemu.vtd.presets import RELEASES
from qemu.vtd.probe import Build
from tests.engine.test_real_units import ALL, needs_units

LOGGED: list[tuple[str, dict[str, Any], int, int]] = [
    # From public logs.
    ("7.2", {"caching_mode": True, "eim": True, "dma_drain": False}, 0x12008C22260286, 0xF00F5A),
    ("7.2", {"caching_mode": True, "eim": True}, 0xD2008C22260286, 0xF00F5A),
    ("8.2", {"aw_bits": 48, "caching_mode": True, "eim": True}, 0xD2008C222F0686, 0xF00F5A),
    ("9.0", {"device_iotlb": True, "eim": True}, 0xD2008C22260206, 0xF00F5E),
    ("9.2", {"device_iotlb": True, "eim": True}, 0xD2008C222F0606, 0xF00F5E),
    ("10.2", {"caching_mode": True, "eim": True}, 0x80D2008C222F0686, 0xF00F5A),
    ("11.0.1", {"caching_mode": True, "eim": True}, 0x80D2008C222F06C6, 0xF00F1A),
    ("11.0.2", {"caching_mode": True}, 0x80D2008C222F06C6, 0xF00F0A),
    ("11.0.3", {"caching_mode": True}, 0x80D2008C222F0686, 0xF00F4A),
]
OBSERVED: list[tuple[str, dict[str, Any], int, int]] = [
    # Read from QEMU, except CAP.FS1GP (bit 56), which is from its source.
    ("7.2", {}, 0x00D2008C22260206, 0xF00F4A),
    ("7.2.22", {"intremap": False}, 0x00D2008C22260206, 0xF42),
    ("7.2", {"x_scalable_mode": True}, 0x00D2008C22260206, 0x480080F00F4A),
    ("7.2", {"x-scalable-mode": "on", "x-pasid-mode": "on", "aw-bits": "48"}, 0x00D2008C222F0606, 0x490080F00F4A),
    ("7.2", {"snoop_control": True, "x_buggy_eim": True}, 0x00D2008C22260206, 0xF00FDA),
    ("10.0", {}, 0x00D2008C222F0606, 0xF00F4A),
    ("10.0", {"scalable_mode": True}, 0x00D2008C222F0606, 0x480080F00F4A),
    ("10.0", {"scalable_mode": True, "x_flts": True}, 0x01D2008C222F0606, 0x880000F00F4A),
    ("11.1", {}, 0x80D2008C222F0606, 0xF00F4A),
    ("11.1", {"scalable_mode": True, "fsts": True, "fs1gp": False}, 0x80D2008C222F0606, 0x880000F00F4A),
    ("11.1", {"scalable_mode": True, "pasid_bits": 20}, 0x80D2008C222F0606, 0x499880F00F4A),
    ("11.1", {"device_iotlb": True, "snoop_control": True}, 0x80D2008C222F0606, 0xF00FCE),
]


@pytest.mark.parametrize(("version", "properties", "cap", "ecap"), LOGGED + OBSERVED)
def test_registers_of_a_version(version: str, properties: dict[str, Any], cap: int, ecap: int) -> None:
    capabilities = preset(version, **properties)
    assert (f"{capabilities.cap:#x}", f"{capabilities.ecap:#x}") == (f"{cap:#x}", f"{ecap:#x}")
    assert capabilities.host_address_width == capabilities.address_width == (cap >> 16 & 63) + 1
    assert capabilities.version == 0x10


@needs_units
def test_every_listed_qemu_is_covered() -> None:
    listed = {(unit.cap, unit.ecap) for unit in ALL if unit.machine.startswith("QEMU")}
    assert listed == {(cap, ecap) for _, _, cap, ecap in LOGGED}


@pytest.mark.parametrize("properties", [
    {}, {"aw-bits": 39}, {"aw-bits": 48}, {"caching-mode": True}, {"device-iotlb": True}, {"snoop-control": True},
    {"intremap": "off"}, {"dma-drain": False}, {"dma-translation": False}, {"x-buggy-eim": True}, {"pt": False},
    {"x-scalable-mode": True}, {"scalable-mode": True},
    {"x-scalable-mode": True, "x-pasid-mode": True, "aw-bits": 48}, {"x-scalable-mode": True, "x-flts": True},
    {"x-scalable-mode": True, "x-flts": True, "fs1gp": False},
    {"scalable-mode": True, "fsts": True}, {"scalable-mode": True, "pasid-bits": 8},
    {"caching-mode": True, "snoop-control": True, "x-scalable-mode": True},
], ids=lambda properties: ",".join(properties) or "none")  # fmt: skip
def test_registers_of_the_installed_qemu(build: Build, properties: dict[str, Any]) -> None:
    if build.version[:2] not in RELEASES:
        pytest.skip(f"QEMU {build.version} has no preset")
    if missing := set(properties) - build.iommu_properties:
        pytest.skip(f"QEMU {build.version} has no property {', '.join(sorted(missing))}")
    with Machine(iommu=properties) as machine:
        read = [machine.qtest.read(machine.register_base + at.offset, 8) for at in (CAP, ECAP)]
    expected = preset(".".join(map(str, build.version)), **properties)
    assert [f"{value:#x}" for value in read] == [f"{expected.cap:#x}", f"{expected.ecap:#x}"]


@pytest.mark.parametrize(("version", "properties", "message"), [
    ("6.0", {}, r"the registers of QEMU 6\.0 are not known; those of 7\.2, .*, 11\.1 are"),
    ("8.9", {}, "not known"),
    ("new", {}, "not known"),
    ("7.2", {"x_flts": True}, r"QEMU 7\.2 has no property 'x_flts'; known are aw-bits, "),
    ("11.1", {"pt": False}, "no property 'pt'"),
    ("10.0", {"colour": True}, "no property 'colour'"),
    ("10.0", {"aw_bits": 57}, "aw-bits is 39 or 48, not 57"),
    ("10.0", {"caching_mode": "maybe"}, "caching_mode cannot be 'maybe'"),
    ("10.0", {"flts": True}, "flts needs scalable-mode"),
])  # fmt: skip
def test_presets_that_are_refused(version: str, properties: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        preset(version, **properties)
