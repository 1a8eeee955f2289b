"""`info mtree -f`, as QEMUs print it: where memory and units are."""

from __future__ import annotations

import pytest

from qemu.vtd.errors import QemuError
from qemu.vtd.live.layout import Region, layout_of

# Of QEMU 7.2 (q35, 5 GiB, KVM), shortened.
PRINTED = """\
FlatView #0
 AS "vtd-root", root: vtd-00.0
 Root memory region: vtd-00.0-dmar
  0000000000000000-00000000fedfffff (prio 0, i/o): vtd-00.0-dmar

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom KVM
  0000000000100000-000000007fffffff (prio 0, ram): pc.ram @0000000000100000 KVM
  00000000e0000000-00000000e0003fff (prio 1, ramd): 0000:01:00.0 BAR 0 mmaps[0]
  00000000fed90000-00000000fed9022f (prio 0, i/o): intel_iommu
  00000000ffc00000-00000000ffffffff (prio 0, romd): system.flash0 KVM
  0000000100000000-00000001bfffffff (prio 0, ram): pc.ram @0000000080000000 KVM

FlatView #2
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan
"""


def test_the_address_space_of_memory_is_read() -> None:
    found = layout_of(PRINTED)
    assert Region(0x8000_0000 * 2, 0x1_C000_0000, "ram", "pc.ram") in found
    assert Region(0xFED9_0000, 0xFED9_0230, "i/o", "intel_iommu") in found
    assert [(region.start, region.name) for region in found if region.is_memory] == [
        (0, "pc.ram"),
        (0xC0000, "pc.rom"),
        (0x10_0000, "pc.ram"),
        (0xFFC0_0000, "system.flash0"),
        (0x1_0000_0000, "pc.ram"),
    ]


@pytest.mark.parametrize("text", ["", "unknown command: 'mtree'", PRINTED.replace('AS "memory"', 'AS "other"')])
def test_a_text_without_it(text: str) -> None:
    with pytest.raises(QemuError, match="does not say where the guest's memory is"):
        layout_of(text)
