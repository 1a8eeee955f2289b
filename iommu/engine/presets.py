"""The registers of real units, from public logs. Only units whose log names the machine."""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """One unit.

    Attributes:
        cap, ecap: its registers of these names.
        host_address_width: bits of a host address, from the DMAR header of that machine.
        version: its VER register, major << 4 | minor.
        what: the machine, and which of its units.
    """

    cap: int
    ecap: int
    host_address_width: int
    version: int
    what: str


PRESETS: dict[str, Preset] = {
    "mobile-4-series": Preset(0xC9008020E30272, 0x1000, 36, 0x10, "4-series laptop of 2009, first unit"),
    "mobile-4-series-graphics": Preset(0xC0000020230272, 0x1000, 36, 0x10, "4-series laptop of 2009, graphics unit"),
    "mobile-4-series-main": Preset(0xC9008020630272, 0x1000, 36, 0x10, "4-series laptop of 2009, main unit"),
    "clarksfield": Preset(0xC90780106F0462, 0xF020E2, 36, 0x10, "Core i7 Q 740"),
    "ironlake": Preset(0xC90780106F0462, 0xF020EA, 36, 0x10, "Ironlake platform, main unit"),
    "ironlake-graphics": Preset(0xC9008010E60262, 0xF0206A, 36, 0x10, "Ironlake platform, graphics unit"),
    "westmere-ep": Preset(0xC90780106F0462, 0xF020FE, 40, 0x10, "Westmere-EP server of Dell"),
    "sandy-bridge-ep": Preset(0xD2078C106F0462, 0xF020FE, 46, 0x10, "Sandy Bridge-EP server of HP"),
    "ivy-bridge": Preset(0xC9008020660262, 0xF0105A, 36, 0x10, "Chromebook Pixel of 2013, main unit"),
    "ivy-bridge-graphics": Preset(0xC0000020E60262, 0xF0101A, 36, 0x10, "Chromebook Pixel of 2013, graphics unit"),
    "ivy-bridge-ep": Preset(0xD2078C106F0466, 0xF020DA, 46, 0x10, "Ivy Bridge-EP server with two sockets"),
    "haswell": Preset(0xD2008020660462, 0xF010DA, 39, 0x10, "Surface with Haswell, main unit"),
    "haswell-graphics": Preset(0xC0000020660462, 0xF0101A, 39, 0x10, "Surface with Haswell, graphics unit"),
    "haswell-ep": Preset(0xD2078C106F0466, 0xF020DF, 46, 0x10, "Haswell-EP or Broadwell-EP server"),
    "broadwell": Preset(0xD2008C20660462, 0xF010DA, 39, 0x10, "Broadwell or late Haswell, main unit"),
    "skylake-sp": Preset(0x8D2078C106F0466, 0xF020DF, 46, 0x10, "Xeon Gold 6146"),
    "skylake-sp-s2600wf": Preset(0x8D2078C106F0466, 0xF020DE, 46, 0x10, "Skylake-SP on an Intel S2600WF board"),
    "kaby-lake": Preset(0xD2008C40660462, 0xF050DA, 39, 0x10, "Pixelbook, main unit; the same up to Tiger Lake"),
    "kaby-lake-graphics": Preset(0x1C0000C40660462, 0x19E2FF0505E, 39, 0x10, "Pixelbook, graphics unit"),
    "gemini-lake-graphics": Preset(0x1C0000C40660462, 0x9E2FF0505E, 39, 0x10, "Celeron J4125, graphics unit"),
    "ice-lake-graphics": Preset(0x1C0000C40660462, 0x49E2FF0505E, 39, 0x40, "Core i7-1065G7, graphics unit"),
    "alder-lake": Preset(0xD2008C40660462, 0xF050DA, 39, 0x50, "Alder Lake-P laptop, main unit"),
    "alder-lake-graphics": Preset(0x1C0000C40660462, 0x29A00F0505E, 39, 0x40, "Alder Lake-P laptop, graphics unit"),
    "arrow-lake": Preset(0xC9DE008CEE690462, 0x12CA9A00F0EFDE, 42, 0x70, "Core Ultra 5 235U, main unit"),
    "arrow-lake-graphics": Preset(0xC9DE008CEE690462, 0x12CA9A00F0EF5E, 42, 0x70, "Core Ultra 5 235U, graphics unit"),
    "sapphire-rapids": Preset(0x19ED008C40780C66, 0x3EE9E86F050DF, 52, 0x60, "Intel M50FCP server board"),
}
